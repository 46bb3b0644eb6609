"""What all workers have seen of what is tried, and of the active version beside it; what follows from that."""

from __future__ import annotations

from collections.abc import Mapping

from app.control.arm_metrics import ArmMetrics
from app.control.trial import Ended, Trial
from app.control.workers import Workers
from app.rpc.messages import ArmFigures, ShadowFigures
from app.traffic.assignment import ACTIVE, CANARY
from app.traffic.decision import decide


class Totals:
    """Figures by arm, since the canary is tried, and how the shadow compares, since it is. Event loop only."""

    def __init__(self, workers: Workers, metrics: ArmMetrics) -> None:
        self.metrics = metrics
        self._workers = workers
        self.by_arm: dict[str, ArmFigures] = {}
        self.shadow = ShadowFigures()
        # Figures of what was tried before may be on their way.
        self._canaries = self._shadows = 0

    def begin(self, figures: Mapping[str, ArmFigures] | None = None) -> None:
        """Starts for another canary, from what is known of it."""
        self._canaries += 1
        self.by_arm = dict(figures or {})

    def begin_shadow(self, figures: ShadowFigures | None = None) -> None:
        """Starts for another shadow, from what is known of it."""
        self._shadows += 1
        self.shadow = figures or ShadowFigures()

    def of(self, arm: str) -> ArmFigures:
        """Returns those of an arm."""
        return self.by_arm.get(arm, ArmFigures())

    async def collect(self) -> None:
        """Adds what the workers have seen since the last time."""
        canaries, shadows = self._canaries, self._shadows
        for one in await self._workers.traffic_figures():
            for arm, figures in one.arms.items() if canaries == self._canaries else ():
                self.by_arm[arm] = self.of(arm).joined(figures)
                self.metrics.add(arm, figures, self.by_arm[arm].returns.mean)
            if one.shadow is not None and shadows == self._shadows:
                self.shadow = self.shadow.joined(one.shadow)
                self.metrics.add_shadow(one.shadow)

    def decision(self, trial: Trial) -> tuple[Ended, str] | None:
        """Returns how a canary's trial is to end by its figures, and why; None while it goes on."""
        canary = self.of(CANARY)
        if canary.failures:
            count = f"{canary.failures} of {canary.failures + canary.answers} requests"
            return Ended.STOP, f"it failed on {count}, which the active version answered: {canary.failure}"
        decision = decide(self.of(ACTIVE).returns, canary.returns, trial.rule)
        return None if decision is None else (Ended(decision.action.value), decision.reason)
