"""The change from one version to the next: restored on standby, verified, switched to, the old one drained.

There are two copies of a policy. One serves; the other stands by, and is the one that a checkpoint is restored into.
The switch is one assignment on the event loop, between two batches.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from app.engine.base import Engine
from app.errors import SwapRefused
from app.metrics import PolicyMetrics
from app.swap.history import History
from app.swap.lease import Slot
from app.swap.plan import Candidate
from app.swap.restorer import Restorer, Weights
from app.swap.states import EXPORT, State, Version

T = TypeVar("T")
log = logging.getLogger("policy_server.swap")


class Changeover:
    """Changes of one policy's active version, one at a time: the caller sees to that."""

    def __init__(self, policy: str, history: History, lane: Executor, metrics: PolicyMetrics) -> None:
        self._policy = policy
        self._history = history
        self._lane = lane
        self._metrics = metrics
        self._standby: Slot[Engine] | None = None
        self._draining: set[asyncio.Task[None]] = set()
        self.active: Slot[Engine]

    async def begin(self, workshop: Restorer) -> None:
        """The export's own weights become active.

        Raises:
          SwapRefused: they do not answer probe inputs.
        """
        engine = await self._work(workshop.standby)
        weights = await self._work(lambda: workshop.weights(engine))
        version = self._history.version(EXPORT, workshop.digest, weights.train_step)
        _loaded(version, engine, weights)
        version.move(State.ACTIVE)
        self.active = Slot(engine, version)
        self._metrics.active(version.train_step)
        # The second copy, made while nobody waits for it.
        self._standby = Slot(await self._work(workshop.standby), version)

    async def to_export(self, workshop: Restorer) -> None:
        """The weights in the export of `workshop` become active.

        Raises:
          SwapRefused: they may not serve; nothing has changed.
        """
        if self.active.version.key == (EXPORT, workshop.digest):
            return
        await self.drained()  # it may be the export's version that still drains
        version = self._history.version(EXPORT, workshop.digest, -1)
        engine = await self._work(workshop.standby)
        await self._ready(version, engine, lambda: workshop.weights(engine))

    async def to_checkpoint(self, workshop: Restorer, candidate: Candidate) -> None:
        """The weights of a checkpoint become active.

        Raises:
          SwapRefused: they may not serve; nothing has changed.
        """
        if self.active.version.key == (candidate.name, candidate.digest):
            return
        await self.drained()  # the copy that served before is the one to restore into
        version = self._history.version(candidate.name, candidate.digest, candidate.train_step)
        slot = self._standby
        engine = slot.engine if slot is not None else await self._work(workshop.standby)
        self._standby = None  # until the restore has gone well the copy is not to be trusted
        await self._ready(version, engine, lambda: workshop.restore(engine, candidate.folder), candidate.stamp)

    async def drained(self) -> None:
        """Returns when no batch runs on older weights than the active ones."""
        while self._draining:
            await asyncio.wait(self._draining)

    def forget_copies(self) -> None:
        """The standby copy is of no more use: its graph is an older one."""
        self._standby = None

    async def _ready(
        self, version: Version, engine: Engine, prepare: Callable[[], Weights], stamp: object = None
    ) -> None:
        """Found → loaded → verified → active, or refused."""
        if version.state is not State.FOUND:
            version.move(State.FOUND)
        try:
            weights = await self._work(prepare)
        except SwapRefused as refusal:
            self._history.refuse(version, str(refusal), stamp)
            raise SwapRefused(f"checkpoint {version.name} is refused: {refusal}") from None
        _loaded(version, engine, weights)
        self._switch(Slot(engine, version))

    def _switch(self, slot: Slot[Engine]) -> None:
        """The one assignment that changes what serves."""
        old, self.active = self.active, slot
        slot.version.move(State.ACTIVE)
        old.version.move(State.DRAINING)
        self._metrics.active(slot.version.train_step)
        self._metrics.swapped(slot.version.times["active"] - slot.version.times.get("found", slot.version.seen_at))
        if old.idle:
            self._release(old, slot.version)
        else:
            task = asyncio.create_task(self._drain(old, slot.version))
            self._draining.add(task)
            task.add_done_callback(self._draining.discard)

    async def _drain(self, slot: Slot[Engine], successor: Version) -> None:
        await slot.drained()
        self._release(slot, successor)

    def _release(self, slot: Slot[Engine], successor: Version) -> None:
        slot.version.move(State.RELEASED)
        self._standby = self._standby or slot
        stages = successor.stages()
        drained_s = slot.version.times["released"] - slot.version.times["draining"]
        for stage, seconds in (stages | {"drained": drained_s}).items():
            self._metrics.stage(stage, seconds)
        log.info(
            "%s: %s (train step %d) serves: %s; %s before it drained in %.1f ms",
            self._policy,
            successor.name,
            successor.train_step,
            ", ".join(f"{stage} in {seconds * 1000:.1f} ms" for stage, seconds in stages.items()),
            slot.version.name,
            drained_s * 1000,
        )

    async def _work(self, job: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._lane, job)


def _loaded(version: Version, engine: Engine, weights: Weights) -> None:
    version.move(State.LOADED, at=weights.loaded_at)
    version.train_step, version.metadata, version.engine = weights.train_step, weights.metadata, engine.name
    version.move(State.VERIFIED)
