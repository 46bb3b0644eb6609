"""A request → the bytes of its body, decoded, no more than the limit: whole, or piece by piece as they come."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import cast

from fastapi import Request
from starlette.requests import ClientDisconnect

from app.api.encodings import PIECE_BYTES, Decoder, decoder_of
from app.errors import BodyTooLarge, ClientGone, DeadlinePassed, NotJson
from app.wire.limits import SHORT_BODY_BYTES

# Between two looks at whether somebody still waits for a body that is decoded.
_PIECES_A_LOOK = 16


class BodyBuffer:
    """The pieces of a body as they come.

    A large one grows in one place: to join its pieces at its end would take twice its size, and long.
    """

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._large: bytearray | None = None

    def add(self, piece: bytes) -> None:
        """Adds the next piece."""
        if self._large is not None:
            self._large += piece
            return
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > SHORT_BODY_BYTES and len(self._pieces) > 1:
            self._large, self._pieces = bytearray().join(self._pieces), []

    def take(self) -> bytes:
        """Returns the body; the buffer is empty afterwards. A large one is a bytearray, which is read alike."""
        large, pieces = self._large, self._pieces
        self._large, self._pieces, self._size = None, [], 0
        if large is not None:
            return cast(bytes, large)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def read_body(request: Request, limit: int, deadline_s: float | None = None) -> bytes:
    """Reads the bytes of the body, decoded. `deadline_s`: for decoding it; small ones need none, which do not wait.

    Raises:
      BodyTooLarge, NotJson, NotDecodable, UnknownEncoding: as `body_parts`.
      DeadlinePassed: other bodies were decoded all the time.
    """
    decoder = decoder_of(request)
    buffer = BodyBuffer()
    async for part in _received(request, limit):
        buffer.add(part)
    body = buffer.take()
    if not body and request.headers.get("content-length", "").strip("0"):
        raise NotJson("the body that was announced is not there")
    if decoder is None or not body:
        return body
    try:
        async with asyncio.timeout(deadline_s):
            return await _decoded(request, decoder, body, limit)
    except TimeoutError:
        raise DeadlinePassed("the deadline passed before the body was decoded") from None


async def body_parts(request: Request, limit: int) -> AsyncIterator[bytes]:
    """Gives at most `limit` decoded bytes, in pieces; what is not asked for is not read.

    Raises:
      BodyTooLarge: there are more; they are not read.
      NotJson: the client went away before the body's end; no client will see this.
      NotDecodable, UnknownEncoding: it is not in an encoding that is read.
    """
    decoder = decoder_of(request)
    if decoder is None:
        async for part in _received(request, limit):
            yield part
        return
    size = 0
    async for part in _received(request, limit):
        for piece in decoder.pieces(part):
            size += len(piece)
            _check_decoded(size, limit)
            yield piece
            await asyncio.sleep(0)
    decoder.check_end()


async def _received(request: Request, limit: int) -> AsyncIterator[bytes]:
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limit:
        raise BodyTooLarge(f"the body has {length} bytes, at most {limit} are read")
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise BodyTooLarge(f"the body has more than {limit} bytes")
            if part:
                yield part
    except ClientDisconnect:
        raise NotJson("the connection ended before the body did") from None


def _turn(request: Request) -> asyncio.Lock:
    state = request.app.state
    if not hasattr(state, "large_bodies"):
        state.large_bodies = asyncio.Lock()
    return cast(asyncio.Lock, state.large_bodies)


async def _decoded(request: Request, decoder: Decoder, body: bytes, limit: int) -> bytes:
    """Decodes with breaks for others: a full body takes some hundred milliseconds.

    What is more than one piece is decoded one body after the other, so that many small bodies that stand for large
    ones take no more memory than one; a body whose client has gone meanwhile is not decoded.
    """
    buffer = BodyBuffer()
    size, has_turn = 0, False
    async with contextlib.AsyncExitStack() as stack:
        for number, piece in enumerate(decoder.pieces(body), 1):
            size += len(piece)
            _check_decoded(size, limit)
            buffer.add(piece)
            looks = number % _PIECES_A_LOOK == 0
            if size > PIECE_BYTES and not has_turn:
                await stack.enter_async_context(_turn(request))
                has_turn = looks = True
            if looks and await request.is_disconnected():
                raise ClientGone("the client went away before its body was decoded")
            await asyncio.sleep(0)
        decoder.check_end()
        return buffer.take()


def _check_decoded(size: int, limit: int) -> None:
    if size > limit:
        raise BodyTooLarge(f"the body, decoded, has more than {limit} bytes")
