"""Moves one policy from version to version: beside the requests, never in their way.

Decisions come from `plan` and `pins`; the work is done by the builder process; the workers switch, all of them, when
all are ready. The manager lives in the control process, of which there is one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from app.control import pins, plan
from app.control.changes import Changes
from app.control.history import History
from app.control.pins import Event
from app.control.plan import Candidate
from app.control.records import Records
from app.control.reexport import ExportFolder
from app.control.scanner import REST_S, Scanner
from app.control.source import Scan
from app.control.states import Version
from app.control.targets import Past, Target, TargetSwapper
from app.control.traffic import Traffic
from app.control.trials import Trials
from app.control.waiters import Waiters
from app.errors import FleetLost, SwapRefused, TooOld
from app.logs import about
from app.rpc.messages import Swapped

log = logging.getLogger("policy_server.swap")

# An explicit reload gives a checkpoint that is still being written this long to become complete.
PATIENCE_S = 5.0
# What cannot be read for now is looked for again after this long.
LATER_S = 1.0


class Manager:
    """The versions of one policy, their workers (`admission`), and its folder (`export`). One change at a time."""

    def __init__(
        self,
        name: str,
        history: History,
        export: ExportFolder,
        scanner: Scanner,
        records: Records,
        targets: TargetSwapper,
    ) -> None:
        self.name = name
        self.history = history
        self.export = export
        self.scanner = scanner
        self.records = records
        self.targets = targets
        self._swapper, self.admission = targets.swapper, targets.admission
        self._waiters = Waiters(self._serves, self._start_scan)
        self.changes = Changes(targets.swapper)
        self.traffic = Traffic(Trials(name, history, targets), scanner, targets, self.changes, self.swap)
        self._nothing_in: object = None

    @property
    def active(self) -> Version:
        """The version that serves."""
        return self._swapper.active

    @property
    def pinned(self) -> str | None:
        """The name of the version that an operator wants to stay at; None while the newest serves."""
        return None if self.records.pin is None else self.records.pin.name

    async def start(self) -> None:
        """Finds what to serve: what was pinned before a restart, or the newest that may serve.

        Raises:
          UnusablePolicy: the folder holds no policy that can be served.
          SwapRefused: not even the export's own weights answer probe inputs.
        """
        await self.export.open()
        saved_state = await self.records.load(self.export.graph)
        self.export.saved_again = saved_state.saved_again
        await self.traffic.trials.load()
        async with self.changes.lock:
            scan = await self.scanner.scan()
            self.records.pin = await self.targets.resume(saved_state.pin, self.traffic.served_before, scan)
            resumed = self._swapper.serves
            if not resumed and not await self._swap_to_first(self.traffic.ranked(scan, self.export.own())):
                await self.swap(self.export.graph)
            await self.traffic.resume(scan)
            if resumed:
                await self._catch_up(everything=True)  # it drops a pin on what is gone
            await self.targets.persist(self.records.pin)

    async def check(self, folder: Path) -> int:
        """Checks a checkpoint that lies anywhere, without restoring it; returns its train step, -1 if unknown.

        Raises:
          SwapRefused: it may not serve.
        """
        return await self.targets.preparing.check(self.export.graph, folder)

    def watch(self, watched: bool = True) -> None:
        """Says whether something calls `catch_up` whenever the policy's folder changes."""
        self.export.watched = watched

    def changed(self, paths: Iterable[str] | None) -> None:
        """Has the next scan read what these paths belong to; None: everything."""
        self.scanner.changed(paths)

    def versions(self) -> list[Version]:
        """Returns every version seen, the latest seen first."""
        return self.history.all()

    async def reload(self, name: str | None) -> Swapped:
        """Swaps to the checkpoint `name` (and stays there), or to the newest one (and goes on watching).

        Returns when no batch runs on older weights any more.

        Raises:
          UnknownVersion: no checkpoint of that name.
          SwapRefused: it may not serve; nothing has changed.
        """
        return await self.changes.finish(self._reload(name))

    async def _reload(self, name: str | None) -> Swapped:
        """Scans until what is wanted is complete; other swaps go on while it is waited for."""
        began, until, afresh = time.perf_counter(), math.inf, True

        async def attempt() -> Swapped | None:
            nonlocal until
            until = time.monotonic() + PATIENCE_S if afresh else until
            scan, still_changing = await self.scanner.scan_for(name, afresh)
            if still_changing and time.monotonic() < until:
                return None
            return await self.changes.make_locked(partial(self._reload_from, scan, name), began)

        while (swapped := await self.changes.run(attempt)) is None:
            afresh = False
            await self.scanner.changed_or_rested()
        return swapped

    async def _reload_from(self, scan: Scan, name: str | None) -> None:
        if name is not None:
            await self.swap(self.targets.named(name, scan))
        else:
            await self._swap_to_newest(scan)
        await self._changed(pins.reloaded(name), name or "")

    async def _changed(self, event: Event, name: str = "") -> None:
        """Notes what an operator has asked for, and done."""
        await self.traffic.changed(event)
        await self.targets.persist(pins.after(self.records.pin, event, name))

    async def reload_export(self) -> Swapped:
        """Loads the graph anew from the export's folder, serves its weights and stays there.

        Raises:
          SwapRefused: it cannot be loaded, or its specs differ, which callers have no way to notice.
        """
        return await self.changes.finish(self.changes.make(self._reload_export))

    async def _reload_export(self) -> None:
        graph = await self.export.open_anew()
        await self.swap(graph)
        if graph.digest != self.export.graph.digest:  # what served before is made anew for this graph
            self.records.replace_graph(graph.digest)
        self.export.adopt(graph, watched=False)
        # Pinned, or watching would put an older checkpoint in its place at once.
        await self._changed(Event.RELOADED_EXPORT)

    async def rollback(self) -> Swapped:
        """Swaps back to the version that served before the active one, and stays there.

        Its checkpoint may be gone from the policy's folder: the last ones are kept.

        Raises:
          SwapRefused: none served before, or it cannot be served any more; nothing has changed.
        """
        return await self.changes.finish(self.changes.make(self._rollback))

    async def _rollback(self) -> None:
        before = self.records.before()
        if before is None:
            raise SwapRefused(f"no version served before {self.active.name} that is still known")
        await self.swap(Past(before, await self.scanner.scan(only={before.name})))
        self.records.roll_back()
        await self._changed(Event.ROLLED_BACK, before.name)

    async def close(self) -> None:
        """See `Changes.close`."""
        await self.traffic.close()
        await self.changes.close()

    def stale(self) -> bool:
        """Whether the graph in the export's folder is another one than what serves."""
        return self.export.stale or self._swapper.offer()[1].digest != self.export.graph.digest

    async def catch_up(self) -> float | None:
        """Scans once for something newer, and swaps to it where there is any: not while pinned, or a canary is tried.

        Returns:
          Seconds after which another scan is worth it (a checkpoint is still being written), else None.
        """
        try:
            return await self.changes.run(self._catch_up)
        except FleetLost as error:
            log.info("%s: nothing is swapped now: %s", self.name, error, extra=about(self.name))
            return LATER_S

    async def _catch_up(self, everything: bool = False) -> float | None:
        pin = self.records.pin
        if pins.needs_no_scan(pin) and not self.traffic.has_canary:
            return None
        try:
            scan = await self.scanner.scan(only=None if everything else {self.active.name})
        except SwapRefused as error:
            log.warning("%s: %s", self.name, error, extra=about(self.name))
            return LATER_S
        await self.traffic.scanned(scan)
        if pin is not None:
            if pins.needs_no_scan(pin) or self.records.pin_stays(scan.has(pin.name)):
                return None
            log.warning("%s: %s is gone, and the pin on it is dropped", self.name, pin.name, extra=about(self.name))
            await self.targets.persist(pins.after(pin, Event.DELETED))
        if self.traffic.has_canary:
            return None
        still_changing = await self.scanner.scan_export()
        active = Candidate(self.active.name, Path(), self.active.digest, self.active.train_step)
        own, fresh = self.export.own(), self.export.fresh_own()
        if self._nothing_in != (decided_on := (scan, active, own, fresh)):
            newer = plan.newer(scan.complete, active, own, fresh, self.history.refused())
            if await self._swap_to_first(newer):
                await self.targets.persist(self.records.pin)
            self._nothing_in = None if newer else decided_on
        return REST_S if scan.still_changing or still_changing else None

    async def wait_for(self, train_step: int) -> None:
        """Returns when weights at least as new as `train_step` serve.

        Raises:
          TooOld: a pinned version is older; no waiting would help.
        """
        await self._waiters.wait_for(train_step)

    def _serves(self, train_step: int) -> bool:
        version = self.active
        if version.train_step < train_step and self.records.pin is not None:
            raise TooOld(
                f"version {version.name} (train step {version.train_step}) is pinned, min_train_step is {train_step}"
            )
        return version.train_step >= train_step

    def _start_scan(self, started: Callable[[], None]) -> asyncio.Task[float | None]:
        async def scan() -> float | None:
            started()
            return await self._catch_up(everything=True)

        return self.changes.start(self.changes.run(scan))

    async def _swap_to_newest(self, scan: Scan) -> None:
        """Swaps to the newest that may serve; where all are refused, raises the first one's reason."""
        first_refusal: SwapRefused | None = None
        own = self.export.fresh_own() or self.export.own()
        for target in self.traffic.ranked(scan, own):
            try:
                await self.swap(target)
                return
            except SwapRefused as refusal:
                first_refusal = first_refusal or refusal
        if first_refusal is not None:
            raise first_refusal
        await self.swap(own)

    async def _swap_to_first(self, targets: Iterable[Target]) -> bool:
        """Swaps to the first that may serve; returns whether one may. `versions` shows why the others may not."""
        for target in targets:
            with contextlib.suppress(SwapRefused):
                await self.swap(target)
                return True
        return False

    async def swap(self, target: Target) -> None:
        """Swaps to a target, with the lock of `changes` acquired; raises SwapRefused where it may not serve."""
        await self.targets.to(target)
        await self._waiters.notify()
