"""Moves one policy from version to version: beside the data way, never inside it.

Decisions come from `plan`; the work is done by the builder process; the workers switch, all of them, when all are
ready. The manager lives in the control process, of which there is one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from app.artifacts.bundle import Bundle, Graph, Prepared
from app.artifacts.names import EXPORT
from app.control import plan
from app.control.history import History
from app.control.plan import Candidate, OwnWeights
from app.control.prepare import Builder, Preparing
from app.control.reexport import ExportFolder
from app.control.source import Scan, Source
from app.control.state_dir import MOST_RECORDS, Pin, SavedState, StateDir, VersionRecord
from app.control.states import Version
from app.control.swap import Swapper
from app.control.workers import Worker
from app.errors import SwapRefused, TooOld, UnknownVersion
from app.metrics import PolicyMetrics
from app.rpc.messages import Swapped

T = TypeVar("T")
log = logging.getLogger("policy_server.swap")

# A checkpoint without checkpoint.json counts as whole when nothing in it is younger than this.
REST_S = 0.25
# An explicit reload gives such a checkpoint this long to come to rest.
PATIENCE_S = 5.0
# What cannot be read for now is looked for again after this long.
LATER_S = 1.0


class Manager:
    """The versions of one policy. Methods run on the event loop; one swap at a time."""

    def __init__(
        self,
        name: str,
        folder: Path,
        builder: Builder,
        source: Source,
        state_dir: StateDir,
        executor: Executor,
        metrics: PolicyMetrics,
    ) -> None:
        self.name = name
        self._builder = builder
        self._source = source
        self._state_dir = state_dir
        self._executor = executor
        self._one_at_a_time = asyncio.Lock()
        self._changed = asyncio.Condition()
        self._history = History(name, metrics)
        self._next_scan: asyncio.Task[float | None] | None = None
        self._background: set[asyncio.Task[Any]] = set()
        self._served: list[VersionRecord] = []
        self._offered: Counter[str] = Counter()
        self._pin: Pin | None = None
        self._paused: str | None = None
        self._swapper = Swapper(name, self._history, metrics)
        self._preparing = Preparing(builder, state_dir, self._swapper, executor)
        self._export = ExportFolder(name, folder, builder, state_dir, executor)
        self._nothing_in: object = None
        # Whether something calls `catch_up` whenever the policy's folder changes.
        self.watched = False

    @property
    def active(self) -> Version:
        """The version that serves."""
        return self._swapper.active

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
        await self._export.open()
        if self._graph.python_code:
            code = "; ".join(self._graph.python_code)
            log.warning(
                "%s: Python code stayed in the process that saved the policy, and is missing: %s", self.name, code
            )
        saved_state = await self._in_executor(lambda: self._state_dir.load(self._graph.digest, self._graph))
        self._served, self._export.saved_again = list(saved_state.served), saved_state.saved_again
        async with self._one_at_a_time:
            if saved_state.pin is not None:
                await self._resume(saved_state.pin)
            if self._swapper.begun:
                await self._catch_up(everything=True)  # it drops a pin on what is gone
            else:
                await self._begin()
            await self._persist(self._pin)

    @property
    def _graph(self) -> Graph:
        """What checkpoints are served with."""
        return self._export.graph

    async def _begin(self) -> None:
        for candidate in plan.ranked((await self._scan()).complete, self._export.own()):
            try:
                await self._swap_to(candidate)
            except SwapRefused:
                continue  # it is told under `versions`; the next best may serve
            return
        await self._swap_to_export(self._graph)

    async def _resume(self, pin: Pin) -> None:
        """Goes back to the version that was pinned before a restart."""
        scan = await self._scan()
        try:
            served_before = next((record for record in reversed(self._served) if record.name == pin.name), None)
            if served_before is not None:
                await self._swap_back(served_before, scan)
            elif pin.name == EXPORT:
                await self._swap_to_export(self._graph)
            else:
                await self._swap_to(scan.named(pin.name))
        except (SwapRefused, UnknownVersion) as error:
            log.warning("%s: the pin on %s is dropped: %s", self.name, pin.name, error)
            return
        self._pin = pin

    @contextlib.contextmanager
    def offered(self) -> Iterator[tuple[Version, Graph, Bundle]]:
        """What a worker has to load before it can be admitted; within, its files stay where they are."""
        offer = self._swapper.offer()
        with self._protected(offer[2]):
            yield offer

    async def admit(self, worker: Worker, loaded: tuple[str, str]) -> None:
        """Takes in a worker that has loaded the version `loaded` (name and digest); it is asked in every swap from now.

        A swap that is under way is not waited for: it may take long, and the worker could be the only one.

        Raises:
          LinkLost: it is gone already.
          SwapRefused: it cannot load what serves by now.
        """
        while loaded != (wanted := self._swapper.wanted())[0].key:
            version, graph, bundle = wanted
            with self._protected(bundle):
                await worker.prepare(graph, bundle)
                await worker.activate(*version.key)
            loaded = version.key
        self._swapper.workers.admit(worker)
        if self._paused is not None:
            await worker.pause(self._paused)

    @contextlib.contextmanager
    def _protected(self, bundle: Bundle) -> Iterator[None]:
        """Within, the files of the bundle stay where they are."""
        self._offered[bundle.digest] += 1
        try:
            yield
        finally:
            self._offered[bundle.digest] -= 1

    async def pause(self, mode: str) -> str | None:
        """Pauses every worker; returns what is in force when no batch runs any more."""
        self._paused = mode
        await self._swapper.workers.pause(mode)
        return self._paused

    async def resume(self) -> None:
        """Lets every worker answer again."""
        self._paused = None
        await self._swapper.workers.resume()

    async def check(self, folder: Path) -> int:
        """Judges a checkpoint that lies anywhere, without restoring it; returns its train step, -1 if unknown.

        Raises:
          SwapRefused: it may not serve.
        """
        return await self._builder.check(self._graph, folder)

    def changed(self, paths: Iterable[str] | None) -> None:
        """Has the next look look at what these paths belong to; None: at everything."""
        self._source.changed(paths)

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
        scan = await self._scan_until_settled(name)
        if name == EXPORT:
            await self._swap_to_export(self._graph)
        elif name is not None:
            await self._swap_to(scan.named(name))
        else:
            await self._swap_to_newest(scan)
        await self._persist(Pin(name) if name is not None else None)

    async def reload_export(self) -> Swapped:
        """Loads the graph anew from the export's folder, serves its weights and stays there.

        Raises:
          SwapRefused: it cannot be loaded, or its specs differ: callers could not tell what hit them.
        """
        return await self._timed(self._reload_export)

    async def _reload_export(self) -> None:
        graph = await self._export.open_anew()
        await self._swap_to_export(graph)
        if graph.digest != self._graph.digest:  # what served before is made anew for this graph
            self._served = [
                replace(record, graph=graph.digest) for record in self._served[-1:] if record.name != EXPORT
            ]
        self._export.adopt(graph, watched=False)
        await self._persist(Pin(EXPORT))  # or watching would put an older checkpoint in its place at once

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
        await self._swap_back(target, await self._scan(only={target.name}))
        self._served = [*older, target]
        await self._persist(Pin(target.name, survives_deletion=True))

    async def _timed(self, change: Callable[[], Coroutine[Any, Any, None]]) -> Swapped:
        """One change, when it is its turn; it is finished also where nobody waits for it any more."""

        async def whole() -> Swapped:
            began = time.perf_counter()
            async with self._one_at_a_time:
                previous = self.active.name
                await change()
                await self._swapper.drained()
                took_ms = (time.perf_counter() - began) * 1000
                return Swapped(self.active.name, self.active.train_step, previous, took_ms)

        task = asyncio.create_task(whole())
        self._keep_alive(task)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Finishes what goes on beside: swaps that nobody waits for."""
        while self._background:
            await asyncio.wait(self._background)

    def stale(self) -> bool:
        """Whether the graph in the export's folder is another one than what serves."""
        return self._export.stale or self._swapper.offer()[1].digest != self._graph.digest

    def stale_reason(self) -> str:
        """Why what was saved over the export is not served; empty where nothing was found against it."""
        return self._export.reason

    async def catch_up(self) -> float | None:
        """One look for something newer: swaps to it where there is any. Does nothing while pinned.

        Returns:
          Seconds after which another look is worth it (a checkpoint is still being written), else None.
        """
        async with self._one_at_a_time:
            return await self._catch_up()

    async def _catch_up(self, everything: bool = False) -> float | None:
        if self._pin is not None and (self._pin.survives_deletion or self._pin.name == EXPORT):
            return None
        try:
            scan = await self._scan(only=None if everything else {self.active.name})
        except SwapRefused as error:
            log.warning("%s: %s", self.name, error)
            return LATER_S
        if self._pin is not None:
            if scan.has(self._pin.name):
                return None
            log.warning("%s: checkpoint %s is gone, and the pin on it is dropped", self.name, self._pin.name)
            await self._persist(None)
        still_changing = await self._scan_export()
        active = Candidate(self.active.name, Path(), self.active.digest, self.active.train_step)
        own, fresh = self._export.own(), self._export.fresh_own(self.watched)
        decided_on = (scan, active, own, fresh)
        if self._nothing_in != decided_on:
            newer = plan.newer(scan.complete, active, own, fresh, self._history.refused())
            await self._swap_to_any(newer)
            self._nothing_in = None if newer else decided_on
        return REST_S if scan.still_changing or still_changing else None

    async def _swap_to_any(self, newer: Iterable[Candidate | OwnWeights]) -> None:
        """To the first that may serve, if one may."""
        for candidate in newer:
            try:
                await self._swap_to(candidate)
                await self._persist(None)
                return
            except SwapRefused:
                continue  # it is told under `versions`; the next best may serve

    async def _scan_export(self, afresh: bool = False) -> bool:
        """Whether something is being saved over the export just now. `afresh` forgets what was found against it."""
        try:
            still_changing = await self._export.scan(REST_S, afresh)
        except SwapRefused as refusal:
            self._history.refuse(self._history.version(EXPORT, "", -1), str(refusal))
            return False
        if not still_changing and not self._export.reason:
            self._history.mended(EXPORT)
        if self._export.fresh is not None:
            self._history.version(EXPORT, self._export.fresh.digest, self._export.fresh.train_step)
        return still_changing

    async def wait_for(self, train_step: int) -> None:
        """Returns when weights at least as new as `train_step` serve.

        Raises:
          TooOld: a pinned version is older; no waiting would help.
        """
        if self.active.train_step >= train_step:
            return
        self._refuse_if_pinned(train_step)
        # A task of its own: the caller's deadline must not end a swap half-way. One for all who wait for it to begin.
        if self._next_scan is None:
            self._next_scan = asyncio.create_task(self._scan_for_all())
            self._keep_alive(self._next_scan)
        await asyncio.shield(self._next_scan)
        async with self._changed:
            while self.active.train_step < train_step:
                self._refuse_if_pinned(train_step)
                await self._changed.wait()

    async def _scan_for_all(self) -> float | None:
        async with self._one_at_a_time:
            self._next_scan = None  # whoever comes now may have published after this look
            return await self._catch_up(everything=True)

    def _refuse_if_pinned(self, train_step: int) -> None:
        if self._pin is not None:
            version = self.active
            raise TooOld(
                f"version {version.name} (train step {version.train_step}) is pinned, min_train_step is {train_step}"
            )

    async def _scan_until_settled(self, name: str | None) -> Scan:
        """A look that gives checkpoints still being written some seconds to become complete."""
        deadline = time.monotonic() + PATIENCE_S
        of_export = name is None
        scan = await self._scan(afresh=True)
        saving = of_export and await self._scan_export(afresh=True)
        while time.monotonic() < deadline and (
            saving or scan.still_changing if of_export else name in scan.still_changing
        ):
            await asyncio.sleep(REST_S / 2)
            saving = of_export and await self._scan_export()
            scan = await self._scan(only=set() if name is None else {name})
        return scan

    async def _scan(self, afresh: bool = False, only: Collection[str] | None = None) -> Scan:
        """See `Source.scan`."""
        try:
            scan = await self._in_executor(lambda: self._source.scan(REST_S, afresh, only))
        except OSError as error:
            raise SwapRefused(f"the checkpoints cannot be looked for now: {error.strerror}", for_now=True) from error
        fresh = self._export.fresh
        self._history.observe(scan, {(EXPORT, fresh.digest)} if fresh is not None else set())
        return scan

    async def _swap_to_newest(self, scan: Scan) -> None:
        """The newest that may serve; where all are refused, the first one's reason is the answer."""
        first_refusal: SwapRefused | None = None
        own = self._export.fresh_own(self.watched) or self._export.own()
        for candidate in plan.ranked(scan.complete, own):
            try:
                await self._swap_to(candidate)
                return
            except SwapRefused as refusal:
                first_refusal = first_refusal or refusal
        if first_refusal is not None:
            raise first_refusal
        await self._swap_to(own)

    async def _swap_to(self, candidate: Candidate | OwnWeights) -> None:
        """To a checkpoint that lies in one of the policy's folders, or to the export as it lies there now."""
        if isinstance(candidate, OwnWeights):
            await self._swap_to_newest_export(candidate)
            return
        version = self._history.version(candidate.name, candidate.digest, candidate.train_step)
        if self._swapper.begun and self.active is version:
            return
        try:
            graph = await self._with_room(lambda: self._preparing.graph_for(self._graph, candidate))
        except SwapRefused as refusal:
            await self._swapper.drained()  # it may be this very version that still drains
            version.want()
            self._history.refuse(version, str(refusal), object() if refusal.for_now else candidate.stamp)
            raise SwapRefused(f"checkpoint {version.name} is refused: {refusal}", refusal.for_now) from None

        async def prepare() -> Prepared:
            prepared = await self._with_room(lambda: self._preparing.checkpoint(graph, candidate))
            found = prepared.bundle.train_step
            if candidate.train_step not in (-1, found):  # as newer it would take turns with what is newer than it is
                raise SwapRefused(f"checkpoint.json says train step {candidate.train_step}, the weights say {found}")
            return prepared

        await self._swap(version, prepare, candidate.stamp, graph)

    async def _with_room(self, make: Callable[[], Awaitable[T]]) -> T:
        """What `make` makes; while there is no room for it, the versions to roll back to go, the oldest first."""
        while True:
            try:
                return await make()
            except SwapRefused as refusal:
                spare = next((record for record in self._served[:-1] if record.digest != self._served[-1].digest), None)
                if not refusal.no_room or spare is None or not self._swapper.begun:
                    raise
                log.warning("%s: no room: version %s, to which one could roll back, is deleted", self.name, spare.name)
                self._served = [record for record in self._served if record.digest != spare.digest]
                await self._in_executor(lambda: self._state_dir.forget(spare.digest))  # noqa: B023 — it is waited for

    async def _swap_back(self, record: VersionRecord, scan: Scan) -> None:
        """To a version that served before."""
        graph = self._graph
        if record.graph not in ("", graph.digest):  # the export has been saved again since
            before = await self._in_executor(lambda: self._state_dir.graph(record.graph))
            graph = before if before is not None else graph
        if record.name == EXPORT and record.digest == graph.digest:
            await self._swap_to_export(graph)
            return
        version = self._history.version(record.name, record.digest, record.train_step)
        await self._swap(version, lambda: self._preparing.past(graph, record, scan), graph=graph)

    async def _swap_to_newest_export(self, own: OwnWeights) -> None:
        """To the weights of the graph, or of the one that was saved over it, which then is the graph."""
        fresh = self._export.fresh
        if fresh is None or fresh.digest != own.digest:
            await self._swap_to_export(self._graph)
            return
        try:
            await self._swap_to_export(fresh)
        except SwapRefused as refusal:
            if not refusal.for_now:
                self._export.refuse(str(refusal))
            raise
        self._export.adopt(fresh, self.watched)

    async def _swap_to_export(self, graph: Graph) -> None:
        version = self._history.version(EXPORT, graph.digest, graph.train_step)
        await self._swap(version, lambda: self._preparing.export(graph), graph=graph)

    async def _swap(
        self,
        version: Version,
        prepare: Callable[[], Awaitable[Prepared]],
        stamp: object = None,
        graph: Graph | None = None,
    ) -> None:
        await self._swapper.to(version, graph or self._graph, prepare, stamp)
        await self._tell()

    async def _tell(self) -> None:
        """Wakes those who wait for newer weights."""
        async with self._changed:
            self._changed.notify_all()

    def _keep_alive(self, task: asyncio.Task[Any]) -> None:
        self._background.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(self._background.discard)

    async def _persist(self, pin: Pin | None) -> None:
        """Remembers, for a restart too, what serves now and whether it is pinned."""
        self._pin = pin
        version = self.active
        active = VersionRecord(version.name, version.digest, version.train_step, self._swapper.offer()[1].digest)
        if not self._served or self._served[-1] != active:
            self._served = [*self._served, active][-MOST_RECORDS:]
        saved_state = SavedState(self._graph.digest, tuple(self._served), pin, self._export.saved_again)
        offered = [digest for digest, count in self._offered.items() if count]
        offered += [self._export.fresh.digest] if self._export.fresh is not None else []
        await self._in_executor(lambda: self._state_dir.save(saved_state, offered))

    async def _in_executor(self, job: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, job)
