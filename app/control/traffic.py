"""What is tried beside the active version of one policy, as operators ask for it and as its figures decide."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from signal import SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV
from typing import Any

from app import tasks
from app.artifacts.names import EXPORT
from app.control import pins, plan
from app.control.changes import Changes
from app.control.pins import Event
from app.control.plan import Candidate, OwnWeights
from app.control.scanner import Scanner
from app.control.source import Scan
from app.control.states import State
from app.control.targets import Past, Target, TargetSwapper
from app.control.traffic_report import report
from app.control.trial import Ended, Trial
from app.control.trials import Trials, is_same
from app.errors import FleetLost, SwapRefused
from app.rpc.messages import Swapped, TrafficWish
from app.traffic.assignment import ACTIVE, CANARY

log = logging.getLogger("policy_server.swap")

LOOK_EVERY_S = 1.0
# A server that is killed forgets what has come of a trial in the last so many seconds.
SAVE_EVERY_S = 5.0
# A checkpoint that is still being written has so long to become complete, as for a reload.
PATIENCE_S = 5.0
# How a process ends by what runs in it, and not by somebody who ends it.
_CRASHES = tuple(f"killed by {signal.name}" for signal in (SIGSEGV, SIGABRT, SIGBUS, SIGFPE, SIGILL))


class Traffic:
    """The traffic of one policy. Event loop only; what changes its `trials` has the lock of `changes`.

    `swap`: has a target serve.
    """

    def __init__(
        self,
        trials: Trials,
        scanner: Scanner,
        targets: TargetSwapper,
        changes: Changes,
        swap: Callable[[Target], Awaitable[None]],
    ) -> None:
        self.trials = trials
        self._scanner = scanner
        self._targets = targets
        self._changes = changes
        self._swap = swap
        # In a fleet one server decides for all.
        self.decides: Callable[[], bool] = lambda: True
        self._looking: asyncio.Task[None] | None = None

    @property
    def has_canary(self) -> bool:
        """True while a canary is tried: nothing else is swapped to by watching."""
        return self.trials.canary is not None

    @property
    def served_before(self) -> str:
        """The name of the version that served before a restart, where a canary was tried beside it; else ""."""
        served = self._targets.records.served
        return served[-1].name if self.trials.resumes and served else ""

    def ranked(self, scan: Scan, own: OwnWeights) -> list[Candidate | OwnWeights]:
        """Returns what may serve, the newest first: see `plan.ranked`; what was tried and stopped is left out."""
        return plan.ranked(self.trials.stopped.allowed(scan.complete), own)

    async def resume(self, scan: Scan) -> None:
        """Tries again what was tried before a restart, with the lock acquired."""
        await self.trials.resume(scan)
        self.look_on()

    async def close(self) -> None:
        """Looks no more, and saves what has come of it."""
        if self._looking is not None:
            await tasks.end(self._looking)
            await self.trials.save()

    async def put(self, wish: TrafficWish) -> dict[str, Any]:
        """Tries what is wished, and ends what else is tried; returns the report.

        Raises:
          UnknownVersion: no checkpoint of that name.
          SwapRefused: it may not serve, or serves already; nothing has changed.
        """
        return await self._changes.finish(self._put_when_complete(wish))

    async def _put_when_complete(self, wish: TrafficWish) -> dict[str, Any]:
        until, afresh = time.monotonic() + PATIENCE_S, True
        names = {arm.checkpoint for arm in (wish.canary, wish.shadow) if arm is not None}

        async def attempt() -> dict[str, Any] | None:
            scan = await self._scanner.scan(afresh, None if afresh else names)
            if names & scan.still_changing and time.monotonic() < until:
                return None
            await self._put(wish, scan)
            return self.report()

        while (done := await self._changes.run(attempt)) is None:
            afresh = False
            await self._scanner.changed_or_rested()
        return done

    async def _put(self, wish: TrafficWish, scan: Scan) -> None:
        trials, before = self.trials, self.trials.canary
        canary, shadow = await trials.wished(wish, scan)
        if before is not None:
            await trials.totals.collect()
        instead = "ended its trial" if canary is None else f"tries {canary.version.name} instead"
        await trials.use(canary, shadow, (Ended.STOP, f"an operator {instead}"))
        if canary is not None and not is_same(canary, before):
            trials.note_canary()
        await trials.save()
        self.look_on()

    async def promote(self) -> Swapped:
        """Makes the canary active, and stays there.

        Raises:
          SwapRefused: there is none, or it may not serve any more.
        """
        return await self._changes.finish(self._changes.make(partial(self._promote, "an operator promoted it")))

    async def _promote(self, reason: str) -> None:
        trial, targets = self.trials.canary, self._targets
        if trial is None:
            raise SwapRefused("no canary is tried")
        name = trial.version.name
        try:
            await self._swap(Past(trial.record, await self._scanner.scan(only={name})))
        except SwapRefused as refusal:
            await self.trials.finish(Ended.STOP, f"it was to become active, and cannot: {refusal}")
            raise
        await self.trials.finish(Ended.PROMOTE, reason)
        await targets.persist(pins.after(targets.records.pin, pins.reloaded(name), name))

    @property
    def has_report(self) -> bool:
        """True where anything is tried beside the active version, or a canary was."""
        return self._is_tried or self.trials.decided is not None

    def report(self) -> dict[str, Any]:
        """Returns what `GET …/traffic` shows."""
        trials, totals = self.trials, self.trials.totals
        figures = {arm: totals.of(arm) for arm in (ACTIVE, CANARY)}, totals.shadow
        return report(self._targets.swapper.active, trials.canary, trials.shadow, figures, trials.decided)

    async def current_report(self) -> dict[str, Any]:
        """Returns `report`, with what the workers have seen up to now."""
        if self._is_tried:
            with contextlib.suppress(FleetLost):  # what this server knows, then
                await self.trials.totals.collect()
        return self.report()

    async def changed(self, event: Event) -> None:
        """Ends what is tried where an operator has had another version serve, with the lock acquired."""
        active, trials = self._targets.swapper.active, self.trials
        if trials.shadow is not None and trials.shadow.version is active:
            await trials.use(trials.canary, None)
        if trials.canary is not None:
            await trials.finish(Ended.PROMOTE if trials.canary.version is active else Ended.END, event.value)
        elif trials.stopped.known:
            await trials.save()

    async def scanned(self, scan: Scan) -> None:
        """Ends the trial of a canary whose checkpoint has gone, with the lock acquired."""
        canary = self.trials.canary
        if canary is None or canary.wish.checkpoint == EXPORT:
            return
        there = {candidate.name: candidate.digest for candidate in scan.complete}
        if not scan.has(canary.version.name):
            await self.trials.finish(Ended.STOP, "its checkpoint was deleted")
        elif there.get(canary.version.name, canary.version.digest) != canary.version.digest:
            await self.trials.finish(Ended.STOP, "other files have taken the place of its checkpoint")

    def worker_ended(self, how: str) -> None:
        """Stops a canary that was tried in a worker which has crashed: its successors would load it, too."""
        trial = self.trials.canary
        if trial is not None and how in _CRASHES:
            reason = f"a worker was {how} while it was tried"
            self._changes.start(self._changes.run(partial(self._act, trial, Ended.STOP, reason)))

    @property
    def _is_tried(self) -> bool:
        return self.trials.canary is not None or self.trials.shadow is not None

    def look_on(self) -> None:
        """Looks at what is tried from now on, where anything is."""
        if self._is_tried and (self._looking is None or self._looking.done()):
            self._looking = asyncio.create_task(self._look_again_and_again())

    async def _look_again_and_again(self) -> None:
        while self._is_tried:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self._look()
            except FleetLost:
                pass  # the fleet's part says it: nothing is decided meanwhile
            except Exception:
                log.exception("what is tried cannot be looked at; the next look may succeed")

    async def _look(self) -> None:
        trials = self.trials
        trial = trials.canary
        await trials.totals.collect()
        decision = None if trial is None else self._trouble(trial)
        if trial is not None and decision is None and self.decides():
            decision = self._decision(trial)
        if trial is not None and decision is not None:
            await self._changes.finish(self._changes.run(partial(self._act, trial, *decision)))
        elif trials.unsaved_s >= SAVE_EVERY_S:
            await trials.save()

    def _trouble(self, trial: Trial) -> tuple[Ended, str] | None:
        """Returns how a trial has to end that cannot go on here, and why."""
        if trial.version.state not in (State.VERIFIED, State.ACTIVE):
            return Ended.STOP, trial.version.reason
        if self._targets.admission.not_tried:
            return Ended.STOP, f"a worker cannot load it: {self._targets.admission.not_tried}"
        return None

    def _decision(self, trial: Trial) -> tuple[Ended, str] | None:
        if trial.version.state is State.ACTIVE:  # by a server of the fleet that was killed just then
            return Ended.PROMOTE, "another server of the fleet has it serve"
        return self.trials.totals.decision(trial)

    async def _act(self, trial: Trial, action: Ended, reason: str) -> None:
        if self.trials.canary is not trial:
            return  # somebody else was faster
        if action is Ended.PROMOTE:
            with contextlib.suppress(SwapRefused):  # the trial has ended, with that reason
                await self._promote(reason)
        else:
            await self.trials.finish(action, reason)
