"""Moves one policy from version to version: beside the data way, never inside it.

Decisions come from `plan`; the work is done by a workshop in the control lane (one thread); the switch is one
assignment on the event loop, between two batches.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from app.engine.base import Engine
from app.errors import SwapRefused, TooOld, UnknownVersion
from app.metrics import PolicyMetrics
from app.swap import plan
from app.swap.changeover import Changeover
from app.swap.history import History
from app.swap.lease import Slot
from app.swap.plan import Candidate
from app.swap.restorer import Restorer
from app.swap.source import Sight, Source
from app.swap.states import EXPORT, Version
from app.swap.store import KEPT, Kept, Memory, Pin, Store

T = TypeVar("T")
log = logging.getLogger("policy_server.swap")

# A checkpoint without checkpoint.json counts as whole when nothing in it is younger than this.
REST_S = 0.25
# An explicit reload gives such a checkpoint this long to come to rest.
PATIENCE_S = 5.0


@dataclass(frozen=True)
class Swapped:
    """How a reload ended: what serves now, what served before, and how long it took."""

    version: Version
    previous: Version
    took_ms: float


class Manager:
    """The versions of one policy. Methods run on the event loop; one swap at a time."""

    def __init__(
        self, name: str, workshop: Restorer, source: Source, store: Store, lane: Executor, metrics: PolicyMetrics
    ) -> None:
        self.name = name
        self._workshop = workshop
        self._source = source
        self._store = store
        self._lane = lane
        self._metrics = metrics
        self._one_at_a_time = asyncio.Lock()
        self._changed = asyncio.Condition()
        self._history = History(name, metrics)
        self._next_look: asyncio.Task[float | None] | None = None
        self._background: set[asyncio.Task[Any]] = set()
        self._served: list[Kept] = []
        self._pin: Pin | None = None
        self._changeover = Changeover(name, self._history, lane, metrics)

    @property
    def active(self) -> Slot[Engine]:
        """The version that serves, with its engine."""
        return self._changeover.active

    @property
    def pinned(self) -> str | None:
        """The name of the version that an operator wants to stay at; None while the newest serves."""
        return self._pin.name if self._pin is not None else None

    async def start(self) -> None:
        """Loads the export, then what was pinned before a restart, or the newest checkpoint that may serve.

        Raises:
          SwapRefused: not even the export's own weights answer probe inputs.
        """
        await self._changeover.begin(self._workshop)
        memory = await self._work(lambda: self._store.recall(self._workshop.digest))
        self._served = list(memory.served)
        if memory.pin is not None:
            await self._resume(memory.pin)
        await self.catch_up()
        await self._note(self._pin)

    async def _resume(self, pin: Pin) -> None:
        """Goes back to the version that was pinned before a restart."""
        if pin.name != EXPORT:
            sight = await self._look(afresh=False)
            remembered = next((kept for kept in reversed(self._served) if kept.name == pin.name), None)
            try:
                if remembered is not None and (there := await self._whereabouts(remembered, sight)) is not None:
                    await self._swap_to(there)
                else:
                    await self._swap_to(_named(pin.name, sight))
            except (SwapRefused, UnknownVersion) as error:
                log.warning("%s: the pin on %s is dropped: %s", self.name, pin.name, error)
                return
        self._pin = pin

    async def check(self, folder: Path) -> int:
        """Judges a checkpoint that lies anywhere, without restoring it; returns its train step, -1 if unknown.

        Raises:
          SwapRefused: it may not serve.
        """
        return await self._work(lambda: self._workshop.check(folder))

    def versions(self) -> list[Version]:
        """Every version seen, the latest seen first."""
        return self._history.all()

    async def reload(self, name: str | None) -> Swapped:
        """Swaps to the checkpoint `name` (and stays there), or to the newest one (and goes on watching).

        Returns when no batch runs on older weights any more.

        Raises:
          UnknownVersion: no checkpoint of that name.
          SwapRefused: it may not serve; nothing has changed.
        """
        began = time.perf_counter()
        async with self._one_at_a_time:
            previous = self.active.version
            sight = await self._look_patiently(name)
            if name == EXPORT:
                await self._swap_to_export(self._workshop)
            elif name is not None:
                await self._swap_to(_named(name, sight))
            else:
                await self._swap_to_newest(sight)
            await self._note(Pin(name) if name is not None else None)
            await self._changeover.drained()
        return Swapped(self.active.version, previous, (time.perf_counter() - began) * 1000)

    async def reload_export(self) -> Swapped:
        """Loads the graph anew from the export's folder, serves its weights and stays there.

        Raises:
          SwapRefused: it cannot be loaded, or its specs differ: callers could not tell what hit them.
        """
        began = time.perf_counter()
        async with self._one_at_a_time:
            previous = self.active.version
            workshop = await self._work(self._workshop.reopened)
            await self._swap_to_export(workshop)
            self._workshop = workshop
            self._served = self._served[-1:]  # the others were served by another graph
            await self._note(Pin(EXPORT))  # or watching would put an older checkpoint in its place at once
            await self._changeover.drained()
            # The copies of the old graph, also the one just drained, are of no use for the checkpoints to come.
            self._changeover.forget_copies()
        return Swapped(self.active.version, previous, (time.perf_counter() - began) * 1000)

    async def rollback(self) -> Swapped:
        """Swaps back to the version that served before the active one, and stays there.

        Its checkpoint may be gone from the policy's folder: the last ones are kept.

        Raises:
          SwapRefused: none served before, or it cannot be served any more; nothing has changed.
        """
        began = time.perf_counter()
        async with self._one_at_a_time:
            previous = self.active.version
            if len(self._served) < 2:
                raise SwapRefused(f"no version served before {previous.name} that is still known")
            *older, target, _ = self._served
            if target.name == EXPORT:
                await self._swap_to_export(self._workshop)
            else:
                there = await self._whereabouts(target, await self._look(afresh=False))
                if there is None:
                    raise SwapRefused(f"checkpoint {target.name}, which served before, is gone")
                await self._swap_to(there)
            self._served = [*older, target]
            await self._note(Pin(target.name, held=True))
            await self._changeover.drained()
        return Swapped(self.active.version, previous, (time.perf_counter() - began) * 1000)

    async def _whereabouts(self, kept: Kept, sight: Sight) -> Candidate | None:
        """Where a version that served can be restored from: the policy's folder, or the server's own copy."""
        for candidate in sight.complete:
            if (candidate.name, candidate.digest) == (kept.name, kept.digest):
                return candidate
        folder = await self._work(lambda: self._store.folder_of(kept.digest))
        return Candidate(kept.name, folder, kept.digest, kept.train_step) if folder is not None else None

    async def close(self) -> None:
        """Finishes what goes on beside: copies of weights that are being kept."""
        while self._background:
            await asyncio.wait(self._background)

    def stale(self) -> bool:
        """Whether the graph in the export's folder is another one than what serves."""
        return self._workshop.stale()

    async def catch_up(self) -> float | None:
        """One look for something newer: swaps to it where there is any. Does nothing while pinned.

        Returns:
          Seconds after which another look is worth it (a checkpoint is still being written), else None.
        """
        async with self._one_at_a_time:
            return await self._catch_up()

    async def _catch_up(self) -> float | None:
        if self._pin is not None and (self._pin.held or self._pin.name == EXPORT):
            return None
        sight = await self._look(afresh=False)
        if self._pin is not None:
            if self._pin.name in sight.names():
                return None
            log.warning("%s: checkpoint %s is gone, and the pin on it is dropped", self.name, self._pin.name)
            await self._note(None)
        version = self.active.version
        refused = self._history.refused()
        for candidate in plan.worth_trying(sight.complete, version.name, version.digest, version.train_step, refused):
            try:
                await self._swap_to(candidate)
                await self._note(None)
                break
            except SwapRefused:
                continue  # it is told under `versions`; the next best may serve
        return REST_S if sight.unsettled else None

    async def wait_for(self, train_step: int) -> None:
        """Returns when weights at least as new as `train_step` serve.

        Raises:
          TooOld: a pinned version is older; no waiting would help.
        """
        if self.active.version.train_step >= train_step:
            return
        self._refuse_if_pinned(train_step)
        # A task of its own: the caller's deadline must not end a swap half-way. One for all who wait for it to begin.
        if self._next_look is None:
            self._next_look = asyncio.create_task(self._look_for_all())
            self._beside(self._next_look)
        await asyncio.shield(self._next_look)
        async with self._changed:
            while self.active.version.train_step < train_step:
                self._refuse_if_pinned(train_step)
                await self._changed.wait()

    async def _look_for_all(self) -> float | None:
        async with self._one_at_a_time:
            self._next_look = None  # whoever comes now may have published after this look
            return await self._catch_up()

    def _refuse_if_pinned(self, train_step: int) -> None:
        if self._pin is not None:
            version = self.active.version
            raise TooOld(
                f"version {version.name} (train step {version.train_step}) is pinned, min_train_step is {train_step}"
            )

    async def _look_patiently(self, name: str | None) -> Sight:
        """A look that gives checkpoints still being written some seconds to become complete."""
        deadline = time.monotonic() + PATIENCE_S
        sight = await self._look(afresh=True)
        while time.monotonic() < deadline and (name in sight.unsettled if name is not None else sight.unsettled):
            await asyncio.sleep(REST_S / 2)
            sight = await self._look(afresh=False)
        return sight

    async def _look(self, afresh: bool) -> Sight:
        sight = await self._work(lambda: self._source.look(REST_S, afresh))
        self._history.observe(sight)
        return sight

    async def _swap_to_newest(self, sight: Sight) -> None:
        """The newest that may serve; where all are refused, the first one's reason is the answer."""
        first_refusal: SwapRefused | None = None
        for candidate in plan.newest_first(sight.complete):
            try:
                await self._swap_to(candidate)
                return
            except SwapRefused as refusal:
                first_refusal = first_refusal or refusal
        if first_refusal is not None:
            raise first_refusal
        await self._swap_to_export(self._workshop)

    async def _swap_to(self, candidate: Candidate) -> None:
        await self._changeover.to_checkpoint(self._workshop, candidate)
        self._keep(candidate)
        await self._tell()

    async def _swap_to_export(self, workshop: Restorer) -> None:
        await self._changeover.to_export(workshop)
        await self._tell()

    async def _tell(self) -> None:
        """Wakes those who wait for newer weights."""
        async with self._changed:
            self._changed.notify_all()

    def _keep(self, candidate: Candidate) -> None:
        """Has the weights copied, after they serve: nobody waits for it."""
        self._beside(asyncio.create_task(self._work(lambda: self._store.keep(candidate.digest, candidate.folder))))

    def _beside(self, task: asyncio.Task[Any]) -> None:
        self._background.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(self._background.discard)

    async def _note(self, pin: Pin | None) -> None:
        """Remembers, for a restart too, what serves now and whether it is pinned."""
        self._pin = pin
        version = self.active.version
        active = Kept(version.name, version.digest, version.train_step)
        if not self._served or self._served[-1] != active:
            self._served = [*self._served, active][-KEPT:]
        memory = Memory(self._workshop.digest, tuple(self._served), pin)
        await self._work(lambda: self._store.remember(memory))

    async def _work(self, job: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._lane, job)


def _named(name: str, sight: Sight) -> Candidate:
    for candidate in sight.complete:
        if candidate.name == name:
            return candidate
    if name in sight.unreadable:
        raise SwapRefused(f"checkpoint {name} is refused: {sight.unreadable[name]}")
    if name in sight.incomplete:
        raise SwapRefused(f"checkpoint {name} is incomplete: {sight.incomplete[name]}")
    there = sorted((c.name for c in plan.newest_first(sight.complete)[:5]), reverse=True)
    raise UnknownVersion(f"no checkpoint {name!r}; the newest are: {', '.join(there) or 'none'}")
