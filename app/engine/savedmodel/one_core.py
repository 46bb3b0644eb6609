"""TensorFlow, imported so that a call uses one core. Importing this module imports nothing of it."""

from __future__ import annotations

import os
import sys

from saver.stderr import hushed


def import_tensorflow() -> None:
    """Imports it, where that has not been done; a number of threads that the environment names holds."""
    if "tensorflow" not in sys.modules:
        # One call uses one core: for small matrices handing out the work takes longer than doing it, and cores that
        # are busy otherwise (other workers, a swap being made ready) would make every call wait for its slowest part.
        for kind in ("INTRA", "INTER"):
            os.environ.setdefault(f"TF_NUM_{kind}OP_THREADS", "1")
        with hushed():
            import tensorflow  # noqa: F401
