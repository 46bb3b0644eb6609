"""What all workers have seen of what is tried, and of the active version beside it; what follows from that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from app.control.arm_metrics import ArmMetrics
from app.control.trial import Ended, Trial
from app.control.workers import Workers
from app.rpc.messages import ArmFigures, ShadowFigures
from app.traffic.assignment import ACTIVE, CANARY
from app.traffic.decision import decide


@dataclass(frozen=True)
class Seen:
    """What one server has seen of what is tried. `canary`, `shadow`: the trials, see `Trial.key`; "" for none."""

    canary: str = ""
    by_arm: Mapping[str, ArmFigures] = field(default_factory=dict)
    shadow: str = ""
    compared: ShadowFigures = field(default_factory=ShadowFigures)


# Gives the other servers of a fleet what this one has seen; returns what they have.
Exchange = Callable[[Seen], Awaitable[Sequence[Seen]]]


class Totals:
    """Figures by arm, since the canary is tried, and how the shadow compares, since it is. Event loop only.

    `own`, `own_shadow`: those of this server; `keys`: of the trials of canary and shadow, see `Trial.key`. `exchange`:
    None where this server belongs to no fleet.
    """

    def __init__(self, workers: Workers, metrics: ArmMetrics) -> None:
        self.metrics = metrics
        self._workers = workers
        self.own: dict[str, ArmFigures] = {}
        self.own_shadow = ShadowFigures()
        self.keys = "", ""
        self.exchange: Exchange | None = None
        self._others: Sequence[Seen] = ()
        # Figures of what was tried before may be on their way.
        self._canaries = self._shadows = 0

    def begin(self, figures: Mapping[str, ArmFigures] | None = None) -> None:
        """Starts for another canary, from what is known of it."""
        self._canaries += 1
        self.own = dict(figures or {})

    def begin_shadow(self, figures: ShadowFigures | None = None) -> None:
        """Starts for another shadow, from what is known of it."""
        self._shadows += 1
        self.own_shadow = figures or ShadowFigures()

    def of(self, arm: str) -> ArmFigures:
        """Returns those of an arm, of all servers."""
        found = self.own.get(arm, ArmFigures())
        for seen in self._others:
            if seen.canary == self.keys[0] and arm in seen.by_arm:
                found = found.joined(seen.by_arm[arm])
        return found

    @property
    def shadow(self) -> ShadowFigures:
        """How the shadow compares, on all servers."""
        found = self.own_shadow
        for seen in self._others:
            if seen.shadow == self.keys[1]:
                found = found.joined(seen.compared)
        return found

    def failed(self, reason: str) -> None:
        """Counts a failure of the canary: this server cannot try it."""
        self.own[CANARY] = self.own.get(CANARY, ArmFigures()).joined(ArmFigures(failures=1, failure=reason))

    async def collect(self) -> None:
        """Adds what the workers have seen since the last time, and learns what other servers have.

        Raises:
          FleetLost: these cannot be asked.
        """
        await self._collect_own()
        if self.exchange is not None:
            self._others = await self.exchange(Seen(self.keys[0], self.own, self.keys[1], self.own_shadow))

    async def _collect_own(self) -> None:
        canaries, shadows = self._canaries, self._shadows
        for one in await self._workers.traffic_figures():
            for arm, figures in one.arms.items() if canaries == self._canaries else ():
                self.own[arm] = self.own.get(arm, ArmFigures()).joined(figures)
                self.metrics.add(arm, figures, self.own[arm].returns.mean)
            if one.shadow is not None and shadows == self._shadows:
                self.own_shadow = self.own_shadow.joined(one.shadow)
                self.metrics.add_shadow(one.shadow)

    def decision(self, trial: Trial) -> tuple[Ended, str] | None:
        """Returns how a canary's trial is to end by its figures, and why; None while it goes on."""
        canary = self.of(CANARY)
        if canary.failures:
            count = f"{canary.failures} of {canary.failures + canary.answers} requests"
            return Ended.STOP, f"it failed on {count}, which the active version answered: {canary.failure}"
        decision = decide(self.of(ACTIVE).returns, canary.returns, trial.rule)
        return None if decision is None else (Ended(decision.action.value), decision.reason)
