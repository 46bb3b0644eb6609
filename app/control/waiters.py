"""Requests that wait until weights of a train step serve."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class Waiters:
    """Callers that wait for newer weights. Event loop only.

    Args:
      reached: returns whether weights at least as new as a train step serve; raises where waiting is of no use.
      start_scan: starts a scan for newer weights, and calls what it is given when the scan really starts.
    """

    def __init__(
        self, reached: Callable[[int], bool], start_scan: Callable[[Callable[[], None]], asyncio.Task[Any]]
    ) -> None:
        self._reached = reached
        self._start_scan = start_scan
        self._changed = asyncio.Condition()
        self._next_scan: asyncio.Task[Any] | None = None

    async def wait_for(self, train_step: int) -> None:
        """Returns when weights at least as new as `train_step` serve.

        Raises:
          Exception: what `reached` raises.
        """
        if self._reached(train_step):
            return
        # A task of its own: the caller's deadline must not end a swap half-way. One for all who wait for it to start.
        if self._next_scan is None:
            self._next_scan = self._start_scan(self._started)
        await asyncio.shield(self._next_scan)
        async with self._changed:
            while not self._reached(train_step):
                await self._changed.wait()

    async def notify(self) -> None:
        """Has every caller compare again: other weights serve."""
        async with self._changed:
            self._changed.notify_all()

    def _started(self) -> None:
        self._next_scan = None  # whoever comes now may have published after this scan
