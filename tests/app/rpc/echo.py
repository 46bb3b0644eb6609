"""A process for tests: answers `echo` and `pid`, and ends when its link does. `python -m tests.app.rpc.echo`."""

import asyncio
import os
import socket
import sys
from typing import Any

from app.rpc.link import Link


async def serve(end: socket.socket) -> None:
    async def echo(*args: Any) -> tuple[Any, ...]:
        return args

    async def pid() -> int:
        return os.getpid()

    link = await Link.over(end, {"echo": echo, "pid": pid})
    await link.lost()


if __name__ == "__main__":
    asyncio.run(serve(socket.socket(fileno=int(sys.argv[1]))))
