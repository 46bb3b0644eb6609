"""What is tried beside the active version of a policy → JSON for a person. What is not known is left out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from app.control.states import Version
from app.control.trial import Decided, Trial
from app.local_histogram import quantile
from app.metrics import FINE_LATENCY_S
from app.rpc.messages import ArmFigures, ShadowFigures
from app.traffic.assignment import ACTIVE, CANARY


def report(
    active: Version,
    canary: Trial | None,
    shadow: Trial | None,
    figures: tuple[Mapping[str, ArmFigures], ShadowFigures],
    decided: Decided | None,
) -> dict[str, Any]:
    """Returns the arms that there are, with their versions and what they have come to, and the last decision.

    `figures`: of the canary and the active version by arm, and of the shadow.
    """
    by_arm, compared = figures
    rows: dict[str, Any] = {"active": _of(active)}
    if canary is not None:
        rows["active"] |= arm_row(by_arm.get(ACTIVE, ArmFigures()))
        rows["canary"] = _of(canary.version) | _wish(canary) | arm_row(by_arm.get(CANARY, ArmFigures()))
    if shadow is not None:
        rows["shadow"] = _of(shadow.version) | _wish(shadow) | _shadow_row(compared)
    if decided is not None:
        arms = {arm: dict(row) for arm, row in decided.arms.items()}
        rows["decision"] = {
            "action": decided.action.value,
            "version": decided.version,
            "reason": decided.reason,
            "at": round(decided.at, 3),
            **arms,
        }
    return rows


def arm_row(figures: ArmFigures) -> dict[str, Any]:
    """Returns what an arm has come to; returns to six digits, times in milliseconds to three."""
    returns = figures.returns
    row: dict[str, Any] = {"sessions": figures.sessions, "episodes": returns.episodes}
    for name, value in (
        ("mean_return", returns.mean),
        ("stderr", returns.stderr),
        ("mean_length", returns.mean_length),
    ):
        if math.isfinite(value):
            row[name] = _rounded(value, 6)
    return row | _answers(figures)


def _shadow_row(figures: ShadowFigures) -> dict[str, Any]:
    """What a shadow has come to. A divergence that is infinite somewhere has no mean: those rows are counted."""
    row: dict[str, Any] = {"compared": figures.compared, "skipped": figures.skipped}
    if figures.compared:
        row["agreement"] = _rounded(figures.agreed / figures.compared, 6)
        row["max_difference"] = _rounded(figures.max_difference, 6)
    if figures.kl_rows:
        row["mean_kl"] = _rounded(figures.kl / figures.kl_rows, 6)
    if figures.kl_infinite:
        row["infinite_kl"] = figures.kl_infinite
    return row | _answers(figures)


def _answers(figures: ArmFigures | ShadowFigures) -> dict[str, Any]:
    row: dict[str, Any] = {"answers": figures.answers, "failures": figures.failures}
    if figures.seconds:
        for name, share in (("p50_ms", 0.5), ("p99_ms", 0.99)):
            row[name] = _rounded(1000 * quantile(FINE_LATENCY_S, figures.seconds, share), 3)
    return row


def _of(version: Version) -> dict[str, Any]:
    return {"version": version.name, "train_step": version.train_step}


def _wish(trial: Trial) -> dict[str, Any]:
    wish = trial.wish
    rules = {"promote_after_episodes": wish.promote_after_episodes, "stop_if_return_drops": wish.stop_if_return_drops}
    return {
        "share": wish.share,
        "began_at": round(trial.began_at, 3),
        **{name: value for name, value in rules.items() if value is not None},
    }


def _rounded(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")
