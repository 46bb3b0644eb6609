"""A request → the bytes of its body, no more than the limit."""

from __future__ import annotations

from fastapi import Request
from starlette.requests import ClientDisconnect

from app.errors import BodyTooLarge, NotJson


async def read_body(request: Request, limit: int) -> bytes:
    """Reads at most `limit` bytes.

    Raises:
      BodyTooLarge: there are more; they are not read.
      NotJson: the client went away before the body's end, so that nobody will see this.
    """
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limit:
        raise BodyTooLarge(f"the body has {length} bytes, at most {limit} are read")
    chunks = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise BodyTooLarge(f"the body has more than {limit} bytes")
            chunks.append(chunk)
    except ClientDisconnect:
        raise NotJson("the connection ended before the body did") from None
    return b"".join(chunks)
