"""A constant is answered to whatever comes, without reading HTTP: uvloop, and nothing else.

`python -m bench.serving.raw PORT ANSWER MEDIA_TYPE`: the least that a connection costs in Python. ANSWER is a file. A
request has to come in one piece, as small ones do.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import uvloop


def raw(answer: bytes, media_type: str) -> type[asyncio.Protocol]:
    """The protocol."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\nContent-Length: {len(answer)}\r\n\r\n"
    whole = head.encode() + answer

    class Raw(asyncio.Protocol):
        transport: asyncio.Transport

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            self.transport = transport

        def data_received(self, _: bytes) -> None:
            self.transport.write(whole)

    return Raw


async def serve(port: int, answer: Path, media_type: str) -> None:
    """Answers until the process is ended."""
    server = await asyncio.get_running_loop().create_server(raw(answer.read_bytes(), media_type), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
