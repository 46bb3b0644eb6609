"""Episodes count for the version that ended them, once they were seen from their start."""

from typing import Any

import numpy as np
import pytest

from app.experience.returns import Returns

FIRST, MID, LAST = 0, 1, 2


def rows(*found: tuple[str, int, int, float, str], reward: Any = None) -> dict[str, Any]:
    """Of (session, step type, next step type, reward, version)."""
    sessions, kinds, following, gained, versions = zip(*found, strict=True)
    return {
        "session": list(sessions),
        "incarnation": ["a"] * len(found),
        "row": np.zeros(len(found), np.int32),
        "step_type": np.array(kinds),
        "next_step_type": np.array(following),
        "reward": np.array(gained) if reward is None else reward,
        "version": list(versions),
    }


def test_mean_return_by_version_over_batches() -> None:
    returns = Returns()
    returns.add(rows(("s", FIRST, MID, 1, "1"), ("t", FIRST, MID, 10, "1"), ("s", MID, LAST, 2, "1")))
    returns.add(rows(("s", LAST, FIRST, 100, "1"), ("t", MID, LAST, 5, "2"), ("s", FIRST, LAST, 7, "1")))
    assert [tuple(one) for one in returns.newest()] == [("2", 1, 15.0), ("1", 2, 5.0)]


def test_episode_whose_start_is_missing_counts_for_nobody() -> None:
    returns = Returns()
    returns.add(rows(("s", MID, MID, 1, "1"), ("s", MID, LAST, 1, "1"), ("t", LAST, FIRST, 1, "1")))
    assert returns.newest() == []


@pytest.mark.parametrize("count", [12, 13, 40])
def test_newest_twelve_versions_are_kept(count: int) -> None:
    returns = Returns()
    for version in range(count):
        returns.add(rows(("s", FIRST, LAST, version, str(version))))
    assert [one.version for one in returns.newest()] == [str(version) for version in range(count)][-12:]


def test_several_rewards_a_step_have_no_return() -> None:
    returns = Returns()
    returns.add(rows(("s", FIRST, LAST, 1, "1"), reward=np.zeros((1, 2))))
    assert returns.newest() == []
