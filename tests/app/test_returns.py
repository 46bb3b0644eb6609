"""Moments of returns: as NumPy has them, in whatever pieces they come."""

import math

import numpy as np
import pytest

from app.returns import Moments, Returns


@pytest.mark.parametrize("values", [[], [3.0], [1.0, 2.0, 4.0], [-7.5] * 5, [1e9 + 1, 1e9 + 2, 1e9 + 4]])
@pytest.mark.parametrize("cut", [0, 1, 2])
def test_joined_moments_are_those_of_all_numbers(values: list[float], cut: int) -> None:
    numbers = np.array(values)
    whole = Moments.of(numbers[:cut]).joined(Moments.of(numbers[cut:]))
    assert whole.count == len(values)
    if values:
        assert whole.mean == pytest.approx(numbers.mean(), rel=1e-15)
    if len(values) > 1:
        assert whole.variance == pytest.approx(numbers.var(ddof=1), rel=1e-12)
        assert whole.stderr == pytest.approx(math.sqrt(numbers.var(ddof=1) / len(values)), rel=1e-12)
    else:
        assert math.isnan(whole.variance)
        assert math.isnan(whole.stderr)


def test_episodes_added_one_by_one_and_merged_over_workers_are_those_of_one_process() -> None:
    generator = np.random.default_rng(3)
    gained, lengths = generator.normal(1e6, 1.0, 300), generator.integers(1, 500, 300)
    workers = [Returns(), Returns(), Returns()]
    for number, (one, length) in enumerate(zip(gained.tolist(), lengths.tolist(), strict=True)):
        workers[number % 3] = workers[number % 3].with_episode(one, length)
    whole = workers[0].joined(workers[1]).joined(workers[2])
    assert (whole.count, whole.episodes) == (300, 300)
    assert whole.mean == pytest.approx(gained.mean(), rel=1e-14)
    assert whole.stderr == pytest.approx(gained.std(ddof=1) / math.sqrt(300), rel=1e-6)
    assert whole.mean_length == pytest.approx(lengths.mean())
    at_once = Returns.of(gained, lengths)
    assert at_once.stderr == pytest.approx(whole.stderr, rel=1e-6)
    assert at_once.mean_length == pytest.approx(whole.mean_length)


def test_episodes_without_a_return_have_a_length_alone() -> None:
    for gained in (None, math.nan, math.inf, -math.inf, 1e200, -1e200):
        arm = Returns().with_episode(2.0, 10).with_episode(gained, 20)
        assert (arm.episodes, arm.count, arm.mean, arm.mean_length) == (2, 1, 2.0, 15.0)
    arm = Returns.of(np.array([2.0, math.nan, math.inf, -1e200]), np.array([1, 2, 5, 4]))
    assert (arm.episodes, arm.count, arm.mean, arm.mean_length) == (4, 1, 2.0, 3.0)


def test_returns_of_a_simulator_that_has_gone_wrong_are_numbers_still() -> None:
    arm = Returns.of(np.array([1e140, -1e140] * 50), np.ones(100)).joined(Returns().with_episode(-1e140, 1))
    assert arm.count == 101
    assert math.isfinite(arm.returns.m2)
    assert math.isfinite(arm.stderr)


def test_an_arm_without_episodes_has_no_mean() -> None:
    assert math.isnan(Returns().mean)
    assert math.isnan(Returns().mean_length)
    assert math.isnan(Returns().stderr)
    assert Returns().joined(Returns()) == Returns()
