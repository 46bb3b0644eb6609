"""Measurements, each run as a module: `python -m bench.<name>`."""

import sys
from pathlib import Path

# The client of this checkout, where none is installed.
sys.path.append(str(Path(__file__).absolute().parents[1] / "client"))


class BenchError(Exception):
    """A measurement that cannot be made; the message is one line for whoever started it."""
