"""What all workers have seen of the versions that are tried, and of the active one, and what follows from that."""

from __future__ import annotations

from collections.abc import Mapping

from app.control.arm_metrics import ArmMetrics
from app.control.trial import Ended, Trial
from app.control.workers import Workers
from app.rpc.messages import ArmFigures, ShadowFigures
from app.traffic.assignment import ACTIVE, CANARY
from app.traffic.decision import decide


class Totals:
    """Figures by arm, since the canary is tried, and those of the shadow, since it is. Event loop only."""

    def __init__(self, workers: Workers, metrics: ArmMetrics) -> None:
        self.metrics = metrics
        self._workers = workers
        self._began = self._shadow_began = 0
        self.by_arm: dict[str, ArmFigures] = {}
        self.shadow = ShadowFigures()

    def begin(self, figures: Mapping[str, ArmFigures] | None = None) -> None:
        """Starts for another canary, from what is known of it."""
        self._began += 1
        self.by_arm = dict(figures or {})

    def begin_shadow(self, figures: ShadowFigures | None = None) -> None:
        """Starts for another shadow, from what is known of it."""
        self._shadow_began += 1
        self.shadow = figures or ShadowFigures()

    def of(self, arm: str) -> ArmFigures:
        """Returns those of an arm."""
        return self.by_arm.get(arm, ArmFigures())

    async def collect(self) -> None:
        """Adds what the workers have seen since the last time."""
        began, shadow_began = self._began, self._shadow_began
        taken = await self._workers.traffic_figures()
        for one in taken:
            if one.shadow is not None and shadow_began == self._shadow_began:
                self.shadow = self.shadow.joined(one.shadow)
                self.metrics.add_shadow(one.shadow)
        if began != self._began:
            return  # another canary is tried meanwhile
        for one in taken:
            for arm, figures in one.arms.items():
                self.by_arm[arm] = self.of(arm).joined(figures)
                self.metrics.add(arm, figures, self.by_arm[arm].returns.mean)

    def decision(self, trial: Trial) -> tuple[Ended, str] | None:
        """Returns how a canary's trial is to end by its figures, and why; None while it goes on."""
        canary = self.of(CANARY)
        if canary.failures:
            count = f"{canary.failures} of {canary.failures + canary.answers} requests"
            return Ended.STOP, f"it failed on {count}, which the active version answered: {canary.failure}"
        decision = decide(self.of(ACTIVE).returns, canary.returns, trial.rule)
        return None if decision is None else (Ended(decision.action.value), decision.reason)
