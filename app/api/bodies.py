"""A request → the bytes of its body, decoded, no more than the limit: whole, or piece by piece as they come."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import cast

from fastapi import Request
from starlette.requests import ClientDisconnect

from app.api.encodings import Decoder, decoder_of
from app.errors import BodyTooLarge, NotJson

# So much of a decoded body may be there beside any number of others; more, one after the other.
_MODEST_BYTES = 2**20


async def read_body(request: Request, limit: int) -> bytes:
    """The bytes of the body, decoded.

    Raises:
      BodyTooLarge, NotJson, NotDecodable, UnknownEncoding: as `body_parts`.
    """
    decoder = decoder_of(request)
    body = b"".join([part async for part in _received(request, limit)])
    if not body and request.headers.get("content-length", "").strip("0"):
        raise NotJson("the body that was announced is not there")
    if decoder is None or not body:
        return body
    return await _decoded(decoder, body, limit, _turn(request))


async def body_parts(request: Request, limit: int) -> AsyncIterator[bytes]:
    """Gives at most `limit` decoded bytes, in pieces; what is not asked for is not read.

    Raises:
      BodyTooLarge: there are more; they are not read.
      NotJson: the client went away before the body's end, so that nobody will see this.
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


async def _decoded(decoder: Decoder, body: bytes, limit: int, turn: asyncio.Lock) -> bytes:
    """Decodes with breaks for others: a full body takes some hundred milliseconds."""
    pieces: list[bytes] = []
    size, has_turn = 0, False
    async with contextlib.AsyncExitStack() as stack:
        for piece in decoder.pieces(body):
            size += len(piece)
            _check_decoded(size, limit)
            pieces.append(piece)
            if size > _MODEST_BYTES and not has_turn:
                has_turn = True
                await stack.enter_async_context(turn)
            await asyncio.sleep(0)
        decoder.check_end()
        return b"".join(pieces)


def _check_decoded(size: int, limit: int) -> None:
    if size > limit:
        raise BodyTooLarge(f"the body, decoded, has more than {limit} bytes")
