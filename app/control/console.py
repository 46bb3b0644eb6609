"""Updates of what the console shows, for the workers. Event loop only.

The state is read once for all pages of all workers, while any of them is open: each worker that has one asks for what
comes after the update that it knows (`Console.after`), and waits. Nothing here waits for a builder, a disk or a fleet.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from typing import Any

import orjson

from app import tasks
from app.control.console_view import Parts, View
from app.rate_history import EVERY_S, RateHistory, Sample, sampled
from app.rpc.messages import ConsoleUpdate
from app.wire.merge_patch import difference

log = logging.getLogger("policy_server.console")

# Figures are read so often; what happens to a version is shown at once, but not more often than the second.
_PERIOD_S, _SHORTEST_S = 0.5, 0.05
# A worker is between two updates, or its last page has gone.
_IDLE_S = 2.0
_AGAIN_S = 1.0


class Console:
    """The updates, by numbers that grow."""

    def __init__(self, parts: Parts) -> None:
        self._view = View(parts)
        self._number = 0
        self._state: dict[str, Any] = {}
        self._patch = self._json = b""
        self._history = RateHistory()
        self._samples: dict[str, Sample] = {}
        self._sampled_at = -math.inf
        self._asking, self._asked_at = 0, 0.0
        self._read_at = -math.inf
        self._news = asyncio.Event()
        self._changed = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None
        parts.swaps.changed = self._changed.set

    async def after(self, number: int) -> ConsoleUpdate:
        """Returns the update after `number`, once there is one; all of the state where no patch leads there."""
        self._asking += 1
        try:
            if self._reading is None:
                self._state = {}
                self._reading = asyncio.create_task(self._read())
            while number == self._number or not self._state:
                await self._news.wait()
        finally:
            self._asking -= 1
            self._asked_at = time.monotonic()
        if number == self._number - 1:
            return ConsoleUpdate(self._number, patch=self._patch, samples=self._samples)
        self._json = self._json or orjson.dumps({**self._state, "history": self._history.samples})
        return ConsoleUpdate(self._number, state=self._json)

    async def close(self) -> None:
        """Reads no more."""
        if self._reading is not None:
            await tasks.end(self._reading)

    async def _read(self) -> None:
        try:
            self._read_at = -math.inf
            await self._view.begin()
            while self._asking or time.monotonic() - self._asked_at < _IDLE_S:
                try:
                    await self._update()
                except Exception:  # a bug of ours: the next round may succeed
                    log.exception("what the console shows cannot be read")
                    await asyncio.sleep(_AGAIN_S)
        finally:
            self._reading = None

    async def _update(self) -> None:
        """Publishes what has changed; returns when it is time for the next update."""
        self._changed.clear()
        if time.monotonic() - self._read_at >= _PERIOD_S:
            self._read_at = time.monotonic()
            await self._view.read_figures()
        self._publish(self._view.state())
        await asyncio.sleep(_SHORTEST_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._read_at + _PERIOD_S - time.monotonic()):
                await self._changed.wait()

    def _publish(self, state: dict[str, Any]) -> None:
        patch = difference(self._state, state)
        if not patch:
            return
        # After a pause nobody can go on from what was known then.
        self._number += 1 if self._state else 2
        self._state, self._patch, self._json, self._samples = state, orjson.dumps(patch), b"", {}
        if time.monotonic() - self._sampled_at >= EVERY_S:
            self._sampled_at = time.monotonic()
            self._samples = sampled(round(time.time(), 3), state["rates"])
            self._history.add(self._samples)
        self._news.set()
        self._news = asyncio.Event()
