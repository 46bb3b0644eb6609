"""A request → the bytes of its body, no more than the limit: whole, or piece by piece as they come."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import Request
from starlette.requests import ClientDisconnect

from app.errors import BodyTooLarge, NotJson


async def read_body(request: Request, limit: int) -> bytes:
    """The bytes of `body_parts`, all at once."""
    return b"".join([part async for part in body_parts(request, limit)])


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
