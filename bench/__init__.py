"""Measurements, each run as a module: `python -m bench.<name>`."""


class BenchError(Exception):
    """A measurement that cannot be made; the message is one line for whoever started it."""
