"""Log lines: one line each, time first, to standard error."""

from __future__ import annotations

import logging


def configure(level: str) -> None:
    """Sets the level of our loggers and of uvicorn's."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    for name in ("policy_server", "uvicorn"):
        logging.getLogger(name).setLevel(level.upper())
    logging.getLogger("uvicorn.access").setLevel(logging.WARNING)
    # It warns that TensorFlow renames each flattened input (`0/reward`) for its keyword arguments.
    logging.getLogger("absl").setLevel(logging.ERROR)
