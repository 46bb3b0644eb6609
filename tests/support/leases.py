"""A lease of a loaded version, as a batch has one that runs in a thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from app.versions.lease import LoadedVersion


@contextmanager
def leased(loaded: LoadedVersion[Any]) -> Iterator[LoadedVersion[Any]]:
    """Leases it for the length of the block."""
    loaded.acquire()
    try:
        yield loaded
    finally:
        loaded.release()
