"""Notice that something may have changed, for any number of waiters, none of which misses one. Event loop only."""

from __future__ import annotations

import asyncio
import contextlib


class Notice:
    """To wait: take `next` first, look at what may change, then `wait` for what was taken."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def next(self) -> asyncio.Event:
        """Returns the event that the next `give` sets."""
        return self._event

    def give(self) -> None:
        """Wakes all that wait."""
        self._event.set()
        self._event = asyncio.Event()

    @staticmethod
    async def wait(event: asyncio.Event, seconds: float) -> None:
        """Returns when the event is set, or so many seconds have passed: notices from Redis can be lost."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()
