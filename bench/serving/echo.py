"""A body is read and decoded, a constant is answered: the HTTP around an answer, and nothing else.

`python -m bench.serving.echo PORT ANSWER MEDIA_TYPE`: uvicorn with uvloop and httptools, as the server runs on, and a
raw ASGI application without middleware. ANSWER is a file.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import orjson
import uvicorn

from bench.serving.payloads import BINARY

Message = dict[str, Any]


def echo(
    answer: bytes, media_type: str
) -> Callable[[Any, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]:
    """The application."""
    decode: Callable[[bytes], Any] = msgspec.msgpack.decode if media_type == BINARY else orjson.loads
    headers = [(b"content-type", media_type.encode()), (b"content-length", str(len(answer)).encode())]
    start = {"type": "http.response.start", "status": 200, "headers": headers}
    end = {"type": "http.response.body", "body": answer}

    async def application(
        _: Any, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        message = await receive()
        body = message["body"]
        if message["more_body"]:
            pieces = [body]
            while message["more_body"]:
                message = await receive()
                pieces.append(message["body"])
            body = b"".join(pieces)
        decode(body)
        await send(start)
        await send(end)

    return application


def main() -> None:
    """Serves until it is asked to stop."""
    port, answer, media_type = sys.argv[1:]
    uvicorn.run(
        echo(Path(answer).read_bytes(), media_type),
        port=int(port),
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        interface="asgi3",
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
    )


if __name__ == "__main__":
    main()
