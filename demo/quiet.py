"""What libraries say on stderr → a log file, so that the screen stays the demo's own."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def quiet(log: Path) -> Iterator[None]:
    """Within, file descriptor 2 is `log`, for TensorFlow's C++ and for child processes too."""
    sys.stderr.flush()
    before = os.dup(2)
    try:
        with log.open("a") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(before, 2)
        os.close(before)
