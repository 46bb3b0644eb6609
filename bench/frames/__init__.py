"""How many environments a server can step at 60 frames a second, while its weights are swapped."""
