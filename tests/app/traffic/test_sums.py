"""Returns and lengths of episodes, step by step."""

import math

import numpy as np
import pytest

from app.traffic.sums import finished, followed

FIRST, MID, LAST = 0, 1, 2
NAN = math.nan


def types(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def rewards(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


# Steps of one row, each a step type and a reward (None: none was sent) → the (return, length) of each episode that
# ended and counts.
@pytest.mark.parametrize(
    ("steps", "episodes"),
    [
        ([(FIRST, None), (MID, 1.0), (LAST, 2.0)], [(3.0, 2)]),
        ([(FIRST, 5.0), (LAST, 2.0)], [(2.0, 1)]),  # a reward of the first step belongs to no action of this episode
        ([(FIRST, None), (MID, None), (LAST, 4.0)], [(4.0, 2)]),  # what is left out counts as 0
        ([(FIRST, None), (MID, 4.0), (LAST, None)], [(4.0, 2)]),
        ([(FIRST, None), (MID, None), (LAST, None)], [(NAN, 2)]),  # without rewards there is no return
        ([(MID, 1.0), (LAST, 2.0)], []),  # it began before
        ([(MID, 1.0), (LAST, 2.0), (FIRST, 9.0), (LAST, 1.0)], [(1.0, 1)]),
        ([(FIRST, None), (LAST, 1.0), (FIRST, 9.0), (MID, 1.0), (LAST, 1.0)], [(1.0, 1), (2.0, 2)]),
        ([(FIRST, None), (LAST, 1.0), (MID, 1.0), (LAST, 1.0)], [(1.0, 1)]),  # what follows the end counts for nothing
        ([(FIRST, None), (MID, 1.0), (FIRST, None), (LAST, 7.0)], [(7.0, 1)]),  # given up, and begun anew
        ([(FIRST, None)], []),
        ([(FIRST, None), (MID, math.inf), (LAST, 1.0)], [(math.inf, 2)]),
    ],
)
def test_an_episode_has_its_return_and_its_length(steps: list, episodes: list) -> None:
    sums, ended, found = None, None, []
    for kind, reward in steps:
        sums = followed(sums, ended, types(kind), None if reward is None else rewards(reward))
        found += finished(sums, types(kind)).tolist()
        ended = types(kind) == LAST if kind == LAST else None
    np.testing.assert_array_equal(np.array(found).reshape(-1, 2), np.array(episodes, float).reshape(-1, 2))


def test_each_row_has_its_own_episode() -> None:
    sums = followed(None, None, types(FIRST, MID, FIRST), None)
    sums = followed(sums, None, types(MID, LAST, LAST), rewards(1, 2, 3))
    assert finished(sums, types(MID, LAST, LAST)).tolist() == [[3.0, 1.0]]
    sums = followed(sums, np.array([False, True, True]), types(LAST, FIRST, MID), rewards(10, 20, 30))
    assert finished(sums, types(LAST, FIRST, MID)).tolist() == [[11.0, 2.0]]
    assert np.isnan(sums[2]).all()


def test_several_rewards_a_step_have_no_one_return() -> None:
    sums = followed(None, None, types(FIRST), None)
    sums = followed(sums, None, types(LAST), np.ones((1, 2), np.float32))
    np.testing.assert_array_equal(finished(sums, types(LAST)), [[NAN, 1.0]])


def test_returns_of_many_small_rewards_keep_their_digits() -> None:
    """In float32 the sum of 100,000 rewards of 0.1 would be 1.5 too high."""
    sums = followed(None, None, types(FIRST), None)
    for _ in range(100_000):
        sums = followed(sums, None, types(MID), rewards(0.1))
    assert sums[0].tolist() == [pytest.approx(100_000 * float(np.float32(0.1)), rel=1e-9), 100_000]


def test_what_was_known_stays_as_it_was() -> None:
    """A step that is asked twice at once follows the same record."""
    before = followed(None, None, types(FIRST), None)
    kept = before.copy()
    followed(before, None, types(MID), rewards(1.0))
    np.testing.assert_array_equal(before, kept)
