"""Moves one policy from version to version: beside the data way, never inside it.

Decisions come from `plan`; the work is done by the workshop process; the fronts switch, all of them, when all are
ready. The manager lives in the control process, of which there is one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from app.engine.bundle import Bundle, Graph, Prepared
from app.errors import SwapRefused, TooOld, UnknownVersion, UnusablePolicy
from app.folders.exports import identify_export
from app.metrics import PolicyMetrics
from app.swap import plan
from app.swap.changeover import Changeover
from app.swap.fleet import Front
from app.swap.history import History
from app.swap.plan import Candidate
from app.swap.preparing import Preparing, Workshop
from app.swap.source import Sight, Source
from app.swap.states import EXPORT, Version
from app.swap.store import KEPT, Kept, Memory, Pin, Store
from saver.artifact import GRAPH_FILE

T = TypeVar("T")
log = logging.getLogger("policy_server.swap")

# A checkpoint without checkpoint.json counts as whole when nothing in it is younger than this.
REST_S = 0.25
# An explicit reload gives such a checkpoint this long to come to rest.
PATIENCE_S = 5.0


@dataclass(frozen=True)
class Swapped:
    """How a reload ended: what serves now, what served before, and how long it took."""

    version: str
    train_step: int
    previous: str
    took_ms: float


class Manager:
    """The versions of one policy. Methods run on the event loop; one swap at a time."""

    def __init__(
        self,
        name: str,
        folder: Path,
        workshop: Workshop,
        source: Source,
        store: Store,
        lane: Executor,
        metrics: PolicyMetrics,
    ) -> None:
        self.name = name
        self._folder = folder
        self._workshop = workshop
        self._source = source
        self._store = store
        self._lane = lane
        self._one_at_a_time = asyncio.Lock()
        self._changed = asyncio.Condition()
        self._history = History(name, metrics)
        self._next_look: asyncio.Task[float | None] | None = None
        self._background: set[asyncio.Task[Any]] = set()
        self._served: list[Kept] = []
        self._offered: Counter[str] = Counter()
        self._pin: Pin | None = None
        self._paused: str | None = None
        self._changeover = Changeover(name, self._history, metrics)
        self._preparing = Preparing(workshop, store, self._changeover, lane)
        self._graph: Graph
        self._graph_stamp: object = None

    @property
    def active(self) -> Version:
        """The version that serves."""
        return self._changeover.active

    @property
    def pinned(self) -> str | None:
        """The name of the version that an operator wants to stay at; None while the newest serves."""
        return self._pin.name if self._pin is not None else None

    async def start(self) -> None:
        """Finds what to serve: what was pinned before a restart, or the newest that may serve.

        Raises:
          UnusablePolicy: the folder holds no policy that can be served.
          SwapRefused: not even the export's own weights answer probe inputs.
        """
        self._graph_stamp = _stamp(self._folder)
        exported = await self._work(lambda: identify_export(self._folder))
        there = await self._work(lambda: self._store.graph(exported.digest))
        self._graph = there or await self._workshop.open(self._folder, self._store.graphs)
        memory = await self._work(lambda: self._store.recall(self._graph.digest))
        self._served = list(memory.served)
        async with self._one_at_a_time:
            if memory.pin is not None:
                await self._resume(memory.pin)
            if self._changeover.begun:
                await self._catch_up()  # it drops a pin on what is gone
            else:
                await self._begin()
            await self._note(self._pin)

    async def _begin(self) -> None:
        for candidate in plan.newest_first((await self._look(afresh=False)).complete):
            try:
                await self._swap_to(candidate)
            except SwapRefused:
                continue  # it is told under `versions`; the next best may serve
            return
        await self._swap_to_export(self._graph)

    async def _resume(self, pin: Pin) -> None:
        """Goes back to the version that was pinned before a restart."""
        sight = await self._look(afresh=False)
        try:
            remembered = next((kept for kept in reversed(self._served) if kept.name == pin.name), None)
            if pin.name == EXPORT:
                await self._swap_to_export(self._graph)
            elif remembered is not None:
                await self._swap_back(remembered, sight)
            else:
                await self._swap_to(sight.named(pin.name))
        except (SwapRefused, UnknownVersion) as error:
            log.warning("%s: the pin on %s is dropped: %s", self.name, pin.name, error)
            return
        self._pin = pin

    @contextlib.contextmanager
    def offered(self) -> Iterator[tuple[Version, Graph, Bundle]]:
        """What a front has to load before it can be admitted; within, its files stay where they are."""
        offer = self._changeover.offer()
        digest = offer[2].digest
        self._offered[digest] += 1
        try:
            yield offer
        finally:
            self._offered[digest] -= 1

    async def admit(self, front: Front, loaded: tuple[str, str]) -> None:
        """Takes in a front that has loaded the version `loaded` (name and digest); it is asked in every swap from now.

        Raises:
          LinkLost: it is gone already.
        """
        async with self._one_at_a_time:
            await self._changeover.admit(front, loaded)
            if self._paused is not None:
                await front.pause(self._paused)

    async def pause(self, mode: str) -> str | None:
        """Pauses every front; returns what is in force when no batch runs any more."""
        self._paused = mode
        await self._changeover.fleet.pause(mode)
        return self._paused

    async def resume(self) -> None:
        """Lets every front answer again."""
        self._paused = None
        await self._changeover.fleet.resume()

    async def check(self, folder: Path) -> int:
        """Judges a checkpoint that lies anywhere, without restoring it; returns its train step, -1 if unknown.

        Raises:
          SwapRefused: it may not serve.
        """
        return await self._workshop.check(self._graph, folder)

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
        return await self._timed(lambda: self._reload(name))

    async def _reload(self, name: str | None) -> None:
        sight = await self._look_patiently(name)
        if name == EXPORT:
            await self._swap_to_export(self._graph)
        elif name is not None:
            await self._swap_to(sight.named(name))
        else:
            await self._swap_to_newest(sight)
        await self._note(Pin(name) if name is not None else None)

    async def reload_export(self) -> Swapped:
        """Loads the graph anew from the export's folder, serves its weights and stays there.

        Raises:
          SwapRefused: it cannot be loaded, or its specs differ: callers could not tell what hit them.
        """
        return await self._timed(self._reload_export)

    async def _reload_export(self) -> None:
        stamp = _stamp(self._folder)
        try:
            graph = await self._workshop.open(self._folder, self._store.graphs)
        except UnusablePolicy as error:
            raise SwapRefused(str(error)) from error
        if (graph.spec, graph.serving) != (self._graph.spec, self._graph.serving):
            raise SwapRefused("the new graph has other specs: a server started anew can serve it")
        await self._swap_to_export(graph)
        if graph.digest != self._graph.digest:  # what served before did so by another graph
            self._served = [kept for kept in self._served[-1:] if kept.name != EXPORT]
        self._graph, self._graph_stamp = graph, stamp
        await self._note(Pin(EXPORT))  # or watching would put an older checkpoint in its place at once

    async def rollback(self) -> Swapped:
        """Swaps back to the version that served before the active one, and stays there.

        Its checkpoint may be gone from the policy's folder: the last ones are kept.

        Raises:
          SwapRefused: none served before, or it cannot be served any more; nothing has changed.
        """
        return await self._timed(self._rollback)

    async def _rollback(self) -> None:
        if len(self._served) < 2:
            raise SwapRefused(f"no version served before {self.active.name} that is still known")
        *older, target, _ = self._served
        if target.name == EXPORT:
            await self._swap_to_export(self._graph)
        else:
            await self._swap_back(target, await self._look(afresh=False))
        self._served = [*older, target]
        await self._note(Pin(target.name, held=True))

    async def _timed(self, change: Callable[[], Coroutine[Any, Any, None]]) -> Swapped:
        """One change, when it is its turn; it is finished also where nobody waits for it any more."""

        async def whole() -> Swapped:
            began = time.perf_counter()
            async with self._one_at_a_time:
                previous = self.active.name
                await change()
                await self._changeover.drained()
                took_ms = (time.perf_counter() - began) * 1000
                return Swapped(self.active.name, self.active.train_step, previous, took_ms)

        task = asyncio.create_task(whole())
        self._beside(task)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Finishes what goes on beside: swaps that nobody waits for."""
        while self._background:
            await asyncio.wait(self._background)

    def stale(self) -> bool:
        """Whether the graph in the export's folder is another one than what serves."""
        return _stamp(self._folder) != self._graph_stamp

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
        version = self.active
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
        if self.active.train_step >= train_step:
            return
        self._refuse_if_pinned(train_step)
        # A task of its own: the caller's deadline must not end a swap half-way. One for all who wait for it to begin.
        if self._next_look is None:
            self._next_look = asyncio.create_task(self._look_for_all())
            self._beside(self._next_look)
        await asyncio.shield(self._next_look)
        async with self._changed:
            while self.active.train_step < train_step:
                self._refuse_if_pinned(train_step)
                await self._changed.wait()

    async def _look_for_all(self) -> float | None:
        async with self._one_at_a_time:
            self._next_look = None  # whoever comes now may have published after this look
            return await self._catch_up()

    def _refuse_if_pinned(self, train_step: int) -> None:
        if self._pin is not None:
            version = self.active
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
        await self._swap_to_export(self._graph)

    async def _swap_to(self, candidate: Candidate) -> None:
        """To a checkpoint that lies in one of the policy's folders."""
        version = self._history.version(candidate.name, candidate.digest, candidate.train_step)
        await self._swap(version, lambda: self._preparing.checkpoint(self._graph, candidate), candidate.stamp)

    async def _swap_back(self, kept: Kept, sight: Sight) -> None:
        """To a version that served before."""
        version = self._history.version(kept.name, kept.digest, kept.train_step)
        await self._swap(version, lambda: self._preparing.past(self._graph, kept, sight))

    async def _swap_to_export(self, graph: Graph) -> None:
        version = self._history.version(EXPORT, graph.digest, -1)
        await self._swap(version, lambda: self._preparing.export(graph), graph=graph)

    async def _swap(
        self,
        version: Version,
        prepare: Callable[[], Awaitable[Prepared]],
        stamp: object = None,
        graph: Graph | None = None,
    ) -> None:
        await self._changeover.to(version, graph or self._graph, prepare, stamp)
        await self._tell()

    async def _tell(self) -> None:
        """Wakes those who wait for newer weights."""
        async with self._changed:
            self._changed.notify_all()

    def _beside(self, task: asyncio.Task[Any]) -> None:
        self._background.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(self._background.discard)

    async def _note(self, pin: Pin | None) -> None:
        """Remembers, for a restart too, what serves now and whether it is pinned."""
        self._pin = pin
        version = self.active
        active = Kept(version.name, version.digest, version.train_step)
        if not self._served or self._served[-1] != active:
            self._served = [*self._served, active][-KEPT:]
        memory = Memory(self._graph.digest, tuple(self._served), pin)
        offered = [digest for digest, count in self._offered.items() if count]
        await self._work(lambda: self._store.remember(memory, offered))

    async def _work(self, job: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._lane, job)


def _stamp(folder: Path) -> tuple[int, int, int] | None:
    """What changes when the graph in an export's folder is replaced."""
    try:
        stat = (folder / GRAPH_FILE).stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
