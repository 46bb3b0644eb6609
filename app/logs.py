"""Log lines: one line each, time first, to standard error."""

from __future__ import annotations

import logging

# Of the library that speaks HTTP: "uvicorn.error", as it calls what is no access, reads like a fault.
_HTTP = "policy_server.http"


def configure(level: str) -> None:
    """Sets the level of our loggers and of uvicorn's."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_renamed)
    for name in ("policy_server", "uvicorn"):
        logging.getLogger(name).setLevel(level.upper())
    logging.getLogger("uvicorn.access").setLevel(logging.WARNING)
    # It warns that TensorFlow renames each flattened input (`0/reward`) for its keyword arguments.
    logging.getLogger("absl").setLevel(logging.ERROR)


def _renamed(record: logging.LogRecord) -> bool:
    if record.name.startswith("uvicorn"):
        record.name = _HTTP
    return True
