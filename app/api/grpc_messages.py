"""Messages of gRPC as they come: read, or found unreadable, and counted among the unfinished requests of a worker."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.message import DecodeError

from app.api.connection_limits import UnfinishedRequests
from app.errors import Malformed, Overloaded
from app.wire.limits import SMALL_BYTES


def reader_of(message: Any) -> Callable[[bytes], Any]:
    """Returns what reads messages of a class, or gives the refusal of one that is none: an error would be a bug's."""

    def read(body: bytes) -> Any:
        try:
            return message.FromString(body)
        except DecodeError:
            return Malformed(f"this is no {message.DESCRIPTOR.name}")

    return read


class CountedMessage:
    """The message of the call that the current task answers: an owner of memory, which has nothing unsent itself."""

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self.is_evicted = False

    def evict(self) -> None:
        """See `Owner`."""
        self.is_evicted = True
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    def unread_bytes(self) -> int:
        """See `Owner`."""
        return 0

    def abort(self) -> None:
        """See `Owner`."""


@contextlib.contextmanager
def counted(unfinished: UnfinishedRequests, size: int) -> Iterator[None]:
    """Counts a message of `size` bytes until the block ends; small ones are no part of the bound, as over HTTP.

    Raises:
      Overloaded: all unfinished requests take too much memory together, and this is the largest.
    """
    if size <= SMALL_BYTES:
        yield
        return
    message = CountedMessage()
    try:
        unfinished.count(message, size)
        if not message.is_evicted:
            yield
    except asyncio.CancelledError:
        if not message.is_evicted:
            raise
    finally:
        unfinished.release(message)
    if message.is_evicted:
        raise Overloaded("the unfinished requests of all clients take too much memory together")
