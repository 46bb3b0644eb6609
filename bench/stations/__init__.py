"""What one unbatched request costs, in µs of a core by station: from the socket to the engine and back."""
