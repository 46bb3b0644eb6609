"""What a person reads of what is tried: the arms that there are, and of each what is known."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.artifacts.bundle import Bundle
from app.control.states import Version
from app.control.traffic_report import arm_row, report
from app.control.trial import Decided, Ended, Trial
from app.metrics import FINE_LATENCY_S
from app.returns import Returns
from app.rpc.messages import ArmFigures, ArmWish, ShadowFigures
from tests.support.swapping import GRAPH

A = Version("a", "A", 1)
NOTHING: tuple[dict[str, ArmFigures], ShadowFigures] = {}, ShadowFigures()


def trial(name: str, share: float = 0.5, **rules: Any) -> Trial:
    bundle = Bundle(Path(name), GRAPH.digest, name.upper(), 2, "fake", "", {})
    return Trial(ArmWish(name, share, **rules), Version(name, name.upper(), 2), GRAPH, bundle, None, 1234.56789)


def returns(*gained: float) -> Returns:
    return Returns.of(np.array(gained), np.full(len(gained), 3.0))


def shadow(figures: ShadowFigures) -> dict[str, Any]:
    row = report(A, None, trial("c"), ({}, figures), None)["shadow"]
    assert isinstance(row, dict)
    return row


def test_without_a_trial_there_is_the_active_version_alone() -> None:
    assert report(A, None, None, NOTHING, None) == {"active": {"version": "a", "train_step": 1}}


def test_a_canary_has_its_wish_and_stands_beside_the_figures_of_the_active_version() -> None:
    by_arm = {"active": ArmFigures(sessions=9), "canary": ArmFigures(sessions=3)}
    rows = report(A, trial("b", 0.25, stop_if_return_drops=0.1), None, (by_arm, ShadowFigures()), None)
    assert rows == {
        "active": {"version": "a", "train_step": 1, "sessions": 9, "episodes": 0, "answers": 0, "failures": 0},
        "canary": {
            "version": "b",
            "train_step": 2,
            "share": 0.25,
            "began_at": 1234.568,
            "stop_if_return_drops": 0.1,
            "sessions": 3,
            "episodes": 0,
            "answers": 0,
            "failures": 0,
        },
    }


def test_a_rule_of_none_is_left_out_and_one_of_zero_is_not() -> None:
    canary = report(A, trial("b", stop_if_return_drops=0.0), None, NOTHING, None)["canary"]
    assert canary["stop_if_return_drops"] == 0.0
    assert "promote_after_episodes" not in canary


def test_figures_of_a_shadow_alone_are_no_figures_of_the_active_version() -> None:
    rows = report(A, None, trial("c", 1.0), ({"active": ArmFigures(sessions=9)}, ShadowFigures()), None)
    assert rows["active"] == {"version": "a", "train_step": 1}
    assert rows["shadow"] == {
        "version": "c",
        "train_step": 2,
        "share": 1.0,
        "began_at": 1234.568,
        "compared": 0,
        "skipped": 0,
        "answers": 0,
        "failures": 0,
    }


@pytest.mark.parametrize(
    ("gained", "known"),
    [
        ((), {}),
        ((math.nan,), {"mean_length": 3.0}),  # an episode without rewards
        ((2.0,), {"mean_return": 2.0, "mean_length": 3.0}),
        ((2.0, 4.0), {"mean_return": 3.0, "stderr": 1.0, "mean_length": 3.0}),
        ((1234567.0, 1234567.0), {"mean_return": 1234570.0, "stderr": 0.0, "mean_length": 3.0}),
    ],
)
def test_of_returns_what_is_known_is_shown_to_six_digits(gained: tuple[float, ...], known: dict[str, float]) -> None:
    row = arm_row(ArmFigures(returns=returns(*gained)))
    assert row == {"sessions": 0, "episodes": len(gained), **known, "answers": 0, "failures": 0}


def test_times_are_milliseconds_to_three_digits_where_anything_was_answered() -> None:
    bucket = FINE_LATENCY_S.index(0.001)
    lower = FINE_LATENCY_S[bucket - 1]
    row = arm_row(ArmFigures(answers=100, seconds={bucket: 100}))
    for name, share in (("p50_ms", 0.5), ("p99_ms", 0.99)):
        assert row[name] == pytest.approx(1000 * (lower + share * (0.001 - lower)), rel=0.005)
        assert row[name] == float(f"{row[name]:.3g}")
    assert "p50_ms" not in arm_row(ArmFigures(answers=100))


def test_a_shadow_agrees_by_the_rows_that_were_compared() -> None:
    row = shadow(ShadowFigures(compared=3, agreed=2, skipped=9, max_difference=0.12345678))
    assert (row["agreement"], row["max_difference"], row["skipped"]) == (0.666667, 0.123457, 9)


def test_a_divergence_is_the_mean_of_the_rows_where_it_is_finite_and_the_others_are_counted() -> None:
    row = shadow(ShadowFigures(compared=10, kl=3.0, kl_rows=4, kl_infinite=6))
    assert (row["mean_kl"], row["infinite_kl"]) == (0.75, 6)
    assert "infinite_kl" not in shadow(ShadowFigures(compared=10, kl=3.0, kl_rows=4))
    assert "mean_kl" not in shadow(ShadowFigures(compared=10, kl_infinite=10))


def test_a_decision_says_what_both_arms_had_come_to_as_json_can_have_it() -> None:
    arms = {"active": {"episodes": 7}, "canary": {"episodes": 5}}
    rows = report(A, None, None, NOTHING, Decided(Ended.STOP, "b", "a lower return", 1234.56789, arms))
    decision = {"action": "stop", "version": "b", "reason": "a lower return", "at": 1234.568, **arms}
    assert json.loads(json.dumps(rows)) == {"active": {"version": "a", "train_step": 1}, "decision": decision}
