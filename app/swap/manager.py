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
from typing import Any, Protocol, TypeVar

from app.engine.base import Engine
from app.errors import SwapRefused, TooOld, UnknownVersion
from app.metrics import PolicyMetrics
from app.swap import plan
from app.swap.history import History
from app.swap.lease import Slot
from app.swap.plan import Candidate
from app.swap.source import Sight, Source
from app.swap.states import EXPORT, State, Version

T = TypeVar("T")
log = logging.getLogger("policy_server.swap")

# A checkpoint without checkpoint.json counts as whole when nothing in it is younger than this.
REST_S = 0.25
# An explicit reload gives such a checkpoint this long to come to rest.
PATIENCE_S = 5.0


class Weights(Protocol):
    """What a workshop says of a copy that is ready."""

    @property
    def train_step(self) -> int:
        """The train step in the weights; -1 if unknown."""

    @property
    def metadata(self) -> Any:
        """Arrays by name."""


class Restorer(Protocol):
    """The part of a workshop that a manager needs. All of it blocks."""

    digest: str

    def stale(self) -> bool:
        """Whether the export's graph was replaced since it was opened."""

    def reopened(self) -> Restorer:
        """The same for the graph that lies there now, if its specs are equal; else SwapRefused."""

    def standby(self) -> Any:
        """A copy with the export's weights that nobody uses yet."""

    def weights(self, engine: Any) -> Weights:
        """Verifies what the copy holds; SwapRefused where it may not serve."""

    def restore(self, engine: Any, folder: Path) -> Weights:
        """Restores a checkpoint into the copy and verifies it; SwapRefused where it may not serve."""


@dataclass(frozen=True)
class Swapped:
    """How a reload ended: what serves now, what served before, and how long it took."""

    version: Version
    previous: Version
    took_ms: float


class Manager:
    """The versions of one policy. Methods run on the event loop; one swap at a time."""

    def __init__(self, name: str, workshop: Restorer, source: Source, lane: Executor, metrics: PolicyMetrics) -> None:
        self.name = name
        self._workshop = workshop
        self._source = source
        self._lane = lane
        self._metrics = metrics
        self._one_at_a_time = asyncio.Lock()
        self._changed = asyncio.Condition()
        self._history = History(name, metrics)
        self._catching_up: set[asyncio.Task[float | None]] = set()
        self._standby: Slot[Engine] | None = None
        self._draining: set[asyncio.Task[None]] = set()
        self.pinned: str | None = None
        self.active: Slot[Engine]

    async def start(self) -> None:
        """Loads the export, then the newest checkpoint that may serve.

        Raises:
          SwapRefused: not even the export's own weights answer probe inputs.
        """
        engine = await self._work(self._workshop.standby)
        weights = await self._work(lambda: self._workshop.weights(engine))
        version = self._history.version(EXPORT, self._workshop.digest, weights.train_step)
        version.metadata, version.engine = weights.metadata, engine.name
        for state in (State.LOADED, State.VERIFIED, State.ACTIVE):
            version.move(state)
        self.active = Slot(engine, version)
        self._metrics.active(version.train_step)
        # The second copy, made while nobody waits for it.
        self._standby = Slot(await self._work(self._workshop.standby), version)
        await self.catch_up()

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
            self.pinned = name
            await self._drained()
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
            self.pinned = EXPORT  # or watching would put an older checkpoint in its place at once
            await self._drained()
            # The copies of the old graph, also the one just drained, are of no use for the checkpoints to come.
            self._standby = None
        return Swapped(self.active.version, previous, (time.perf_counter() - began) * 1000)

    def stale(self) -> bool:
        """Whether the graph in the export's folder is another one than what serves."""
        return self._workshop.stale()

    async def catch_up(self) -> float | None:
        """One look for something newer: swaps to it where there is any. Does nothing while pinned.

        Returns:
          Seconds after which another look is worth it (a checkpoint is still being written), else None.
        """
        async with self._one_at_a_time:
            if self.pinned == EXPORT:
                return None
            sight = await self._look(afresh=False)
            if self.pinned is not None:
                if self.pinned in sight.names():
                    return None
                log.warning("%s: checkpoint %s is gone, and the pin on it is dropped", self.name, self.pinned)
                self.pinned = None
            version = self.active.version
            refused = self._history.refused_digests()
            for candidate in plan.worth_trying(
                sight.complete, version.name, version.digest, version.train_step, refused
            ):
                try:
                    await self._swap_to(candidate)
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
        # A task of its own: the caller's deadline must not end a swap half-way.
        looking = asyncio.create_task(self.catch_up())
        self._catching_up.add(looking)
        looking.add_done_callback(self._catching_up.discard)
        await asyncio.shield(looking)
        async with self._changed:
            while self.active.version.train_step < train_step:
                self._refuse_if_pinned(train_step)
                await self._changed.wait()

    def _refuse_if_pinned(self, train_step: int) -> None:
        if self.pinned is not None:
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

    async def _swap_to_export(self, workshop: Restorer) -> None:
        if self.active.version.key == (EXPORT, workshop.digest):
            return
        await self._drained()  # it may be the export's version that still drains
        version = self._history.version(EXPORT, workshop.digest, -1)
        engine = await self._work(workshop.standby)
        await self._ready(version, engine, lambda: workshop.weights(engine))

    async def _swap_to(self, candidate: Candidate) -> None:
        if self.active.version.key == (candidate.name, candidate.digest):
            return
        await self._drained()  # the copy that served before is the one to restore into
        version = self._history.version(candidate.name, candidate.digest, candidate.train_step)
        slot = self._standby
        engine = slot.engine if slot is not None else await self._work(self._workshop.standby)
        self._standby = None  # until the restore has gone well the copy is not to be trusted
        await self._ready(version, engine, lambda: self._workshop.restore(engine, candidate.folder))

    async def _ready(self, version: Version, engine: Engine, prepare: Callable[[], Weights]) -> None:
        """Found → loaded → verified → active, or refused."""
        if version.state is not State.FOUND:
            version.move(State.FOUND)
        try:
            weights = await self._work(prepare)
        except SwapRefused as refusal:
            self._history.refuse(version, str(refusal))
            raise SwapRefused(f"checkpoint {version.name} is refused: {refusal}") from None
        version.move(State.LOADED)
        version.train_step, version.metadata, version.engine = (
            weights.train_step,
            weights.metadata,
            engine.name,
        )
        version.move(State.VERIFIED)
        await self._switch(Slot(engine, version))

    async def _switch(self, slot: Slot[Engine]) -> None:
        """The one assignment that changes what serves."""
        old, self.active = self.active, slot
        slot.version.move(State.ACTIVE)
        old.version.move(State.DRAINING)
        self._metrics.active(slot.version.train_step)
        self._metrics.swapped(slot.version.times["active"] - slot.version.times.get("found", slot.version.seen_at))
        log.info("%s: %s (train step %d) serves", self.name, slot.version.name, slot.version.train_step)
        if old.idle:
            self._release(old)
        else:
            task = asyncio.create_task(self._drain(old))
            self._draining.add(task)
            task.add_done_callback(self._draining.discard)
        async with self._changed:
            self._changed.notify_all()

    async def _drain(self, slot: Slot[Engine]) -> None:
        await slot.drained()
        self._release(slot)

    def _release(self, slot: Slot[Engine]) -> None:
        slot.version.move(State.RELEASED)
        self._standby = self._standby or slot

    async def _drained(self) -> None:
        while self._draining:
            await asyncio.wait(self._draining)

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
