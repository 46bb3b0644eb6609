"""Log lines: one line each, time first, to standard error; and silence for libraries that chatter there."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator


def configure(level: str) -> None:
    """Sets the level of our loggers and of uvicorn's."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    for name in ("policy_server", "uvicorn"):
        logging.getLogger(name).setLevel(level.upper())
    logging.getLogger("uvicorn.access").setLevel(logging.WARNING)
    # It warns that TensorFlow renames each flattened input (`0/reward`) for its keyword arguments.
    logging.getLogger("absl").setLevel(logging.ERROR)


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Within, nothing reaches standard error, not even from C++; after an exception all of it does.

    For imports only: TensorFlow and gym greet their users there, which no operator asked for.
    """
    sys.stderr.flush()
    before = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(before, kept.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
