"""A request → the bytes of its body, no more than the limit: whole, or piece by piece as they come."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import cast

from fastapi import Request
from starlette.requests import ClientDisconnect

from app.errors import BodyTooLarge, NotJson
from app.wire.limits import QUICK_BYTES


class BodyBuffer:
    """The pieces of a body as they come.

    A large one grows in one place: to join its pieces at its end would take twice its size, and long.
    """

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._large: bytearray | None = None

    def add(self, piece: bytes) -> None:
        """The next piece."""
        if self._large is not None:
            self._large += piece
            return
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > QUICK_BYTES and len(self._pieces) > 1:
            self._large, self._pieces = bytearray().join(self._pieces), []

    def take(self) -> bytes:
        """All of it; the buffer is empty afterwards. A large one is a bytearray, which is read alike."""
        large, pieces = self._large, self._pieces
        self._large, self._pieces, self._size = None, [], 0
        if large is not None:
            return cast(bytes, large)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def read_body(request: Request, limit: int) -> bytes:
    """The bytes of `body_parts`, all at once."""
    buffer = BodyBuffer()
    async for part in body_parts(request, limit):
        buffer.add(part)
    return buffer.take()


async def body_parts(request: Request, limit: int) -> AsyncIterator[bytes]:
    """Gives at most `limit` bytes, in pieces; what is not asked for is not read.

    Raises:
      BodyTooLarge: there are more; they are not read.
      NotJson: the client went away before the body's end, so that nobody will see this.
    """
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limit:
        raise BodyTooLarge(f"the body has {length} bytes, at most {limit} are read")
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise BodyTooLarge(f"the body has more than {limit} bytes")
            yield part
    except ClientDisconnect:
        raise NotJson("the connection ended before the body did") from None
