"""Messages of gRPC as they come: read, or found unreadable, and counted among the unfinished requests of a worker."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.message import DecodeError

from app.api.connection_limits import UnfinishedRequests
from app.errors import BodyTooLarge, Malformed, Overloaded, Refusal
from app.wire.limits import SMALL_BYTES

# A field's key is its number and, in the last three bits, its kind (protobuf.dev/programming-guides/encoding): of these
# kinds one says its length, and two have so many bytes.
_BYTES, _FIXED, _MOST_KEY = 2, {1: 8, 5: 4}, 2**32 - 1
_NAME, _VERSION, _ID, _RAW = (number << 3 | _BYTES for number in (1, 2, 3, 7))
# Of the most unfavourable kinds protobuf reads so many within some 60 ms.
_MOST_PARTS, _MOST_OTHER_BYTES = 8192, 2**20


def reader_of(message: Any) -> Callable[[bytes], Any]:
    """Returns what reads messages of a class, or gives the refusal of one that is none: an error would be a bug's."""

    def read(body: bytes) -> Any:
        if len(body) > SMALL_BYTES:
            return BodyTooLarge(f"the message has {len(body)} bytes, at most {SMALL_BYTES} are read")
        try:
            return parsed(message, body)
        except Malformed as refusal:
            return refusal

    return read


def parsed(message: Any, body: bytes) -> Any:
    """Reads a message of a class.

    Raises:
      Malformed: it is none.
    """
    try:
        return message.FromString(body)
    except DecodeError:
        raise Malformed(f"this is no {message.DESCRIPTOR.name}") from None


class InferMessage:
    """A `ModelInferRequest` as it came, whose tensors are not read yet: protobuf does that while all else waits.

    What may stand beside its raw tensors is bounded before, as are its parts. In them each number, each name and each
    empty message becomes an object; a raw tensor is one, however large.

    Attributes:
      body: its bytes.
      model_name, model_version, id: as they stand in it, "" where they do not.
      refusal: why it is not read on, if so.
    """

    __slots__ = ("body", "id", "model_name", "model_version", "refusal")

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.refusal: Refusal | None = None
        found = {_NAME: "", _VERSION: "", _ID: ""}
        try:
            for key, value in _parts(body):
                if key in found:
                    found[key] = value.decode()
        except Refusal as refusal:
            self.refusal = refusal
        except (LookupError, ValueError):
            self.refusal = Malformed("this is no ModelInferRequest")
        self.model_name, self.model_version, self.id = found.values()


def _parts(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields the key of each field of a message, and its bytes where these are no raw tensor.

    Raises:
      BodyTooLarge: there are too many, or too many bytes.
      LookupError, ValueError: this is no message.
    """
    at = count = others = 0
    while at < len(body):
        key, start = _varint(body, at)
        if key & 7 == _BYTES:
            size, start = _varint(body, start)
            at = start + size
        else:
            at = _varint(body, start)[1] if key & 7 == 0 else start + _FIXED[key & 7]
        if at > len(body) or key > _MOST_KEY:
            raise ValueError("it ends within a field, or its number is none")
        is_raw = key == _RAW
        count, others = count + 1, others + (0 if is_raw else at - start)
        if count > _MOST_PARTS or others > _MOST_OTHER_BYTES:
            most = f"{_MOST_PARTS} parts, and {_MOST_OTHER_BYTES} bytes beside raw_input_contents"
            raise BodyTooLarge(f"the message has too much beside raw tensors: at most {most}, are read")
        yield key, b"" if is_raw else body[start:at]


def _varint(body: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = body[at]
        value, at = value | (byte & 0x7F) << shift, at + 1
        if byte < 0x80:
            return value, at
        if (shift := shift + 7) > 63:
            raise ValueError("a number has more than ten bytes")


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
