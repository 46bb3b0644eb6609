"""The metrics of what is tried beside the active version of one policy."""

from __future__ import annotations

import math

from app.metric_table import ARMS, COMPARISONS, DECISIONS
from app.metrics import PolicyMetrics
from app.rpc.messages import ArmFigures, ShadowFigures
from app.traffic.assignment import SHADOW


class ArmMetrics:
    """Counts what has come of each arm."""

    def __init__(self, metrics: PolicyMetrics) -> None:
        self._metrics = metrics
        # Or the first of each would be no increase.
        for decision in DECISIONS:
            metrics.labelled("canary_decisions", decision)
        for comparison in COMPARISONS:
            metrics.labelled("shadow_rows", comparison)
        for arm in ARMS:
            self.add(arm, ArmFigures(), math.nan)
        self.shares(0.0, 0.0)

    def shares(self, canary: float, shadow: float) -> None:
        """Records the shares of the arms, 0 for one that is not there."""
        for arm, share in zip(ARMS, (1 - canary, canary, shadow), strict=True):
            self._metrics.labelled("arm_share", arm).set(share)

    def add(self, arm: str, figures: ArmFigures, mean_return: float) -> None:
        """Counts what has come of an arm. `mean_return`: of all its episodes; NaN where there is none."""
        counts = (
            ("arm_sessions", figures.sessions),
            ("arm_episodes", figures.returns.episodes),
            ("arm_answers", figures.answers),
            ("arm_failures", figures.failures),
        )
        for name, count in counts:
            self._metrics.labelled(name, arm).inc(count)
        self._metrics.labelled("arm_mean_return", arm).set(mean_return)

    def add_shadow(self, figures: ShadowFigures) -> None:
        """Counts what has come of the shadow."""
        differ = figures.compared - figures.agreed
        for comparison, rows in zip(COMPARISONS, (figures.agreed, differ, figures.skipped), strict=True):
            self._metrics.labelled("shadow_rows", comparison).inc(rows)
        self._metrics.labelled("arm_answers", SHADOW).inc(figures.answers)
        self._metrics.labelled("arm_failures", SHADOW).inc(figures.failures)

    def decided(self, decision: str) -> None:
        """Counts the end of a canary's trial."""
        self._metrics.labelled("canary_decisions", decision).inc()
