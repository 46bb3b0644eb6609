"""The changes of one policy: one at a time, each finished also where nobody waits for it any more. Event loop only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from app.control.swap import Swapper
from app.fleet.protocol import Busy
from app.rpc.messages import Swapped

T = TypeVar("T")
Change = Callable[[], Coroutine[Any, Any, None]]


class Changes:
    """The lock that a change holds, and what goes on in the background."""

    def __init__(self, swapper: Swapper) -> None:
        self.lock = asyncio.Lock()
        self._swapper = swapper
        self._background: set[asyncio.Task[Any]] = set()

    async def finish(self, change: Coroutine[Any, Any, T]) -> T:
        """Waits for a change, which is finished also where nobody waits for it any more."""
        return await asyncio.shield(self.start(change))

    async def run(self, change: Callable[[], Awaitable[T]]) -> T:
        """Runs a change when its turn has come, with the lock acquired; again where another server was faster."""
        while True:
            async with self.lock:
                try:
                    return await change()
                except Busy:
                    pass
                finally:
                    await self._swapper.protocol.end()
            await self._swapper.protocol.free()

    async def make(self, change: Change) -> Swapped:
        """Makes one change when its turn has come: see `make_locked`."""
        return await self.run(partial(self.make_locked, change, time.perf_counter()))

    async def make_locked(self, change: Change, began: float) -> Swapped:
        """Makes one change, with the lock acquired; returns when no batch runs on older weights any more.

        `began`: when it was asked for, by `time.perf_counter`.
        """
        previous = self._swapper.active.name
        await change()
        await self._swapper.drained()
        active = self._swapper.active
        return Swapped(active.name, active.train_step, previous, (time.perf_counter() - began) * 1000)

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Runs something in the background, until `close` at the latest."""
        task = asyncio.create_task(work)
        self._background.add(task)  # the loop itself has only weak references to tasks
        task.add_done_callback(self._background.discard)
        return task

    async def close(self) -> None:
        """Finishes what goes on in the background: swaps that nobody waits for."""
        while self._background:
            await asyncio.wait(self._background)
