"""The versions that are tried beside the active one of a policy: how a trial begins, ends, and outlives a restart.

A canary is verified like any version, and stays so: what ends its trial makes it active, refuses or releases it.

    tried ──► promote     active: by its episodes, by an operator, or reloaded
      ├─────► stop        refused: a lower return, a failure, a crash, a deletion, or an operator
      └─────► end         released: an operator has another version serve
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import replace

from app.control.arm_metrics import ArmMetrics
from app.control.history import History
from app.control.source import Scan
from app.control.states import State
from app.control.stopped import StoppedVersions
from app.control.targets import TargetSwapper
from app.control.totals import Totals
from app.control.traffic_report import arm_row
from app.control.trial import Decided, Ended, SavedTraffic, SavedTrial, Trial, readable_reason
from app.errors import FleetLost, SwapRefused, UnknownVersion
from app.logs import about
from app.rpc.messages import ArmWish, TrafficPlan, TrafficWish
from app.traffic.assignment import ACTIVE, CANARY

log = logging.getLogger("policy_server.swap")
audit = logging.getLogger("policy_server.audit")


# How the trial of a canary ends, and why; and as another server has noted it, where one has.
Conclusion = tuple[Ended, str] | tuple[Ended, str, Decided]


class Trials:
    """Those of one policy. Event loop only; the caller of what changes them sees to it that nobody else does.

    `totals`: what has come of the canary; `decided`: how the last one's trial ended; `stopped`: those that may not
    serve since.
    """

    def __init__(self, policy: str, history: History, targets: TargetSwapper) -> None:
        self.canary: Trial | None = None
        self.shadow: Trial | None = None
        self.decided: Decided | None = None
        self.totals = Totals(targets.swapper.workers, ArmMetrics(history.metrics))
        self.stopped = StoppedVersions()
        self._policy = policy
        self._history = history
        self._targets = targets
        self._loaded = SavedTraffic()
        self._saved_at = 0.0

    async def load(self) -> None:
        """Loads what was tried before a restart; `resume` tries it again."""
        self._loaded = saved = await self._targets.records.load_traffic()
        self.totals.begin(saved.figures)
        self.totals.begin_shadow(saved.shadow_figures)
        self.decided, self.stopped.known = saved.decided, saved.stopped

    @property
    def resumes(self) -> bool:
        """True where a restart has to find the version that served, as a canary was tried beside it."""
        return self._loaded.canary is not None

    async def resume(self, scan: Scan) -> None:
        """Tries again what was tried before a restart, now that a version serves."""
        saved, self._loaded = self._loaded, SavedTraffic()
        await self.refuse_stopped(scan)
        canary, reason = await self._resumed(saved.canary, scan)
        shadow, _ = await self._resumed(saved.shadow, scan)
        if saved.canary is not None or saved.shadow is not None:
            await self.use(canary, shadow)
        if saved.canary is not None and canary is None:
            reason = f"it could not be tried after a restart: {reason}"
            self.decided = Decided(Ended.END, saved.canary.record.name, readable_reason(reason), time.time())
            await self.save()

    async def refuse_stopped(self, scan: Scan) -> None:
        """Refuses what was stopped and is there still, but for what is used now."""
        await self._targets.swapper.drained()  # what served until now may be one of them
        tried = [trial.version.digest for trial in (self.canary, self.shadow) if trial is not None]
        self.stopped.refuse(self._history, scan, {self._targets.swapper.active.digest, *tried})

    async def _resumed(self, saved: SavedTrial | None, scan: Scan) -> tuple[Trial | None, str]:
        """Returns the trial of before a restart, or why there is none."""
        if saved is None:
            return None, ""
        try:
            trial = await self.made(saved.wish, scan)
            if trial.version.digest != saved.record.digest:
                self._release(trial)
                raise SwapRefused("its files are others than before")
        except (SwapRefused, UnknownVersion) as error:
            name = saved.record.name
            log.warning("%s: %s is not tried any more: %s", self._policy, name, error, extra=about(self._policy, name))
            return None, str(error)
        return replace(trial, began_at=saved.began_at), ""

    async def made(self, wish: ArmWish, scan: Scan) -> Trial:
        """Returns the trial that is wished, with a version that was verified.

        Raises:
          UnknownVersion: no checkpoint of that name.
          SwapRefused: it may not serve, or serves already.
        """
        target = self._targets.named(wish.checkpoint, scan)
        for known in (self.canary, self.shadow):
            if known is not None and (known.wish.checkpoint, known.version.digest) == (wish.checkpoint, target.digest):
                return replace(known, wish=wish)
        version, graph, bundle = await self._targets.beside(target)
        return Trial(wish, version, graph, bundle, getattr(target, "stamp", None), time.time())

    async def wished(self, wish: TrafficWish, scan: Scan) -> tuple[Trial | None, Trial | None]:
        """Returns the trials of a canary and of a shadow that are wished: see `made`."""
        canary = None if wish.canary is None else await self.made(wish.canary, scan)
        try:
            return canary, None if wish.shadow is None else await self.made(wish.shadow, scan)
        except (SwapRefused, UnknownVersion):
            if canary is not None and not _is_in(canary, (self.canary, self.shadow)):
                self._release(canary)
            raise

    async def use(self, canary: Trial | None, shadow: Trial | None, ended: Conclusion | None = None) -> None:
        """Has the workers try these, and nothing else. `ended`: how the trial of a canary ends that is not among them.

        Raises:
          SwapRefused: one of them cannot load one, which is refused then; what was tried before still is.
        """
        await self._targets.swapper.protocol.begin()
        before = self.canary, self.shadow
        plan = TrafficPlan(None if canary is None else canary.arm, None if shadow is None else shadow.arm)
        try:
            await self._targets.admission.traffic(plan)
        except SwapRefused as refusal:
            for trial in (canary, shadow):
                if trial is not None and not _is_in(trial, before):
                    self._history.refuse(trial.version, str(refusal), trial.stamp)
            raise
        if before[0] is not None and ended is not None and not is_same(before[0], canary):
            self._conclude(before[0], *ended)
        self.canary, self.shadow = canary, shadow
        self.totals.keys = _key(canary), _key(shadow)
        if shadow is None or (before[1] is not None and not is_same(before[1], shadow)):
            self.totals.begin_shadow()
        if before[1] is not None and not _is_in(before[1], (canary, shadow)):
            self._release(before[1])
        self.totals.metrics.shares(*(0.0 if one is None else one.wish.share for one in (canary, shadow)))
        await self.save()
        await self._targets.persist(self._targets.records.pin)  # keeps what they run from

    def note_canary(self) -> None:
        """Notes that the canary is another one than before, of which nothing has come yet."""
        trial = self.canary
        assert trial is not None, "it is tried now"
        self.totals.begin()
        name, share = trial.version.name, 100 * trial.wish.share
        log.info("%s: %s is tried on %g %% of the sessions that begin", self._policy, name, share)

    async def finish(self, action: Ended, reason: str) -> None:
        """Ends the trial of the canary."""
        assert self.canary is not None, "there is one to end"
        with contextlib.suppress(FleetLost):
            await self.totals.collect()
        await self.use(None, self.shadow, (action, reason))

    def _conclude(self, trial: Trial, action: Ended, reason: str, decided: Decided | None = None) -> None:
        """Notes how the trial of a canary has ended. `decided`: as another server has noted it."""
        version, reason = trial.version, readable_reason(reason)
        arms = {arm: arm_row(self.totals.of(arm)) for arm in (ACTIVE, CANARY)}
        self.decided = decided or Decided(action, version.name, reason, time.time(), arms)
        if action is Ended.PROMOTE:
            self._history.explain(version, f"promoted: {reason}")
        elif action is Ended.END:
            self._release(trial, f"its trial ended: {reason}")
        else:
            why = f"its trial as the canary was stopped: {reason}"
            if version.state is not State.REFUSED:
                self._history.refuse(version, why, trial.stamp)
            self.stopped.add(version.digest, why)
        self.totals.metrics.decided(action)
        words = (self._policy, version.name, action, reason)
        log.info("%s: the trial of %s ends (%s): %s", *words, extra=about(self._policy, version.name))
        audit.info("%s: canary %s: %s: %s", *words)

    def _release(self, trial: Trial, reason: str = "") -> None:
        if trial.version.state is State.VERIFIED:
            trial.version.move(State.RELEASED, reason)

    @property
    def unsaved_s(self) -> float:
        """The seconds since the last `save`."""
        return time.monotonic() - self._saved_at

    async def save(self) -> None:
        """Saves what is tried and what has come of it."""
        self._saved_at = time.monotonic()
        self.stopped.forget(self._targets.swapper.active.digest)
        canary, shadow = SavedTrial.of(self.canary), SavedTrial.of(self.shadow)
        figures = dict(self.totals.own), self.totals.own_shadow
        saved = SavedTraffic(canary, shadow, *figures, self.decided, self.stopped.known)
        self._targets.tried = saved.agreed
        await self._targets.records.save_traffic(saved)


def _key(trial: Trial | None) -> str:
    return "" if trial is None else trial.key


def is_same(trial: Trial, other: Trial | None) -> bool:
    """Returns whether the other one tries the same version."""
    return other is not None and other.version is trial.version


def _is_in(trial: Trial, others: tuple[Trial | None, Trial | None]) -> bool:
    return any(is_same(trial, other) for other in others)
