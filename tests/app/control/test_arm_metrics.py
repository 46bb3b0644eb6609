"""The metrics of each arm are there from the start, and grow by what has come of it since."""

import math

import numpy as np
import pytest

from app.control.arm_metrics import ArmMetrics
from app.metrics import Metrics
from app.returns import Returns
from app.rpc.messages import ArmFigures, ShadowFigures


class Scenario:
    def __init__(self) -> None:
        self.metrics = Metrics()
        self.arms = ArmMetrics(self.metrics.policy("p"))

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"policy_server_{name}", {"policy": "p", **labels})


@pytest.mark.parametrize("name", ["sessions", "episodes", "answers", "failures"])
def test_what_every_arm_has_come_to_is_zero_before_the_first(name: str) -> None:
    scenario = Scenario()
    assert [scenario.value(f"arm_{name}_total", arm=arm) for arm in ("active", "canary", "shadow")] == [0.0] * 3


def test_decisions_and_comparisons_are_zero_before_the_first() -> None:
    scenario = Scenario()
    decisions = [scenario.value("canary_decisions_total", decision=one) for one in ("stop", "promote", "end")]
    compared = [scenario.value("shadow_rows_total", comparison=one) for one in ("agree", "differ", "skipped")]
    assert (decisions, compared) == ([0.0] * 3, [0.0] * 3)


def test_a_mean_return_is_no_number_before_an_episode_has_ended() -> None:
    mean = Scenario().value("arm_mean_return", arm="canary")
    assert mean is not None
    assert math.isnan(mean)


def test_the_active_version_has_the_sessions_that_the_canary_has_not_and_a_shadow_takes_none() -> None:
    scenario = Scenario()
    for canary, shadow in ((0.25, 1.0), (0.0, 0.0)):
        scenario.arms.shares(canary, shadow)
        shares = [scenario.value("arm_share", arm=arm) for arm in ("active", "canary", "shadow")]
        assert shares == [1 - canary, canary, shadow]


def test_what_has_come_of_an_arm_is_added_and_its_mean_return_replaced() -> None:
    scenario = Scenario()
    returns = Returns.of(np.array([1.0, math.nan]), np.array([2.0, 2.0]))
    for mean in (1.0, 4.0):
        scenario.arms.add("canary", ArmFigures(3, returns, answers=5, failures=1), mean)
    counts = ("arm_sessions_total", "arm_episodes_total", "arm_answers_total", "arm_failures_total", "arm_mean_return")
    assert [scenario.value(name, arm="canary") for name in counts] == [6.0, 4.0, 10.0, 2.0, 4.0]
    assert scenario.value("arm_sessions_total", arm="active") == 0.0


def test_a_row_of_a_shadow_agrees_differs_or_was_skipped() -> None:
    scenario = Scenario()
    for _ in range(2):
        scenario.arms.add_shadow(ShadowFigures(compared=10, agreed=7, skipped=4, answers=6, failures=2))
    compared = [scenario.value("shadow_rows_total", comparison=one) for one in ("agree", "differ", "skipped")]
    assert compared == [14.0, 6.0, 8.0]
    assert scenario.value("arm_answers_total", arm="shadow") == 12.0
    assert scenario.value("arm_failures_total", arm="shadow") == 4.0


def test_the_end_of_a_trial_is_counted_by_how_it_ended() -> None:
    scenario = Scenario()
    scenario.arms.decided("promote")
    assert scenario.value("canary_decisions_total", decision="promote") == 1.0
    assert scenario.value("canary_decisions_total", decision="stop") == 0.0
