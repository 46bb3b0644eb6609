"""A request whose client goes away while it waits → given up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from fastapi import Request

# Far above the time of an answer: the many quick requests cost a timer each, and not a task.
_WATCH_AFTER_S = 0.25


@contextlib.contextmanager
def giving_up_with_client(request: Request, give_up: Callable[[], None]) -> Iterator[None]:
    """Calls `give_up` when the client closes the connection inside the block. The body must have been read."""
    loop = asyncio.get_running_loop()
    watching: asyncio.Task[None] | None = None

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        give_up()

    def start() -> None:
        nonlocal watching
        watching = loop.create_task(watch())

    timer = loop.call_later(_WATCH_AFTER_S, start)
    try:
        yield
    finally:
        timer.cancel()
        if watching is not None:
            watching.cancel()
