"""A request whose client goes away while it waits → given up, so that it takes no room and no batch."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from fastapi import Request

from app.errors import ClientGone

# Far above the time of an answer: the many quick requests cost a timer each, and not a task.
_WATCH_AFTER_S = 0.25


@contextlib.contextmanager
def given_up_with_its_client(request: Request) -> Iterator[None]:
    """Ends what runs inside when the client closes the connection. The body must have been read.

    Raises:
      ClientGone: that happened.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    gone = False
    watching: asyncio.Task[None] | None = None

    async def watch() -> None:
        nonlocal gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone = True
        task.cancel()

    def start() -> None:
        nonlocal watching
        watching = loop.create_task(watch())

    timer = loop.call_later(_WATCH_AFTER_S, start)
    try:
        yield
    except asyncio.CancelledError:
        if not gone:
            raise
        task.uncancel()
        raise ClientGone("the client went away before its answer was there") from None
    finally:
        timer.cancel()
        if watching is not None:
            watching.cancel()
