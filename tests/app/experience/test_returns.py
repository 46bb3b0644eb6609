"""Episodes count for the version that ended them, once they were seen from their start."""

from typing import Any

import numpy as np
import pytest

from app.experience.episodes import Episodes
from app.experience.returns import Returns
from tests.support.experience import ChangedMeanwhile

FIRST, MID, LAST = 0, 1, 2


class Log:
    """Numbers rows and their episodes, as the row log does."""

    def __init__(self) -> None:
        self.returns, self._episodes, self._end = Returns(), Episodes(), 0
        self._steps: dict[str, int] = {}

    def add(self, rows: dict[str, Any]) -> None:
        rows["step"] = [self._step(session) for session in rows["session"]]
        episodes, _, changes = self._episodes.assign(rows, self._end)
        self._episodes.keep(changes)
        self._end += len(episodes)
        self.returns.add(rows, episodes)

    def newest(self) -> list[Any]:
        return self.returns.newest()

    def _step(self, session: str) -> int:
        self._steps[session] = self._steps.get(session, -1) + 1
        return self._steps[session]


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
    returns = Log()
    returns.add(rows(("s", FIRST, MID, 1, "1"), ("t", FIRST, MID, 10, "1"), ("s", MID, LAST, 2, "1")))
    returns.add(rows(("s", LAST, FIRST, 100, "1"), ("t", MID, LAST, 5, "2"), ("s", FIRST, LAST, 7, "1")))
    assert [tuple(one) for one in returns.newest()] == [("2", 1, 15.0), ("1", 2, 5.0)]


def test_episode_whose_start_is_missing_counts_for_nobody() -> None:
    returns = Log()
    returns.add(rows(("s", MID, MID, 1, "1"), ("s", MID, LAST, 1, "1"), ("t", LAST, FIRST, 1, "1")))
    assert returns.newest() == []


@pytest.mark.parametrize("count", [12, 13, 40])
def test_newest_twelve_versions_are_kept(count: int) -> None:
    returns = Log()
    for version in range(count):
        returns.add(rows(("s", FIRST, LAST, version, str(version))))
    assert [one.version for one in returns.newest()] == [str(version) for version in range(count)][-12:]


def test_several_rewards_a_step_have_no_return() -> None:
    returns = Log()
    returns.add(rows(("s", FIRST, LAST, 1, "1"), reward=np.zeros((1, 2))))
    assert returns.newest() == []


def test_nest_of_rewards_has_no_return() -> None:
    returns = Log()
    several = rows(("s", FIRST, LAST, 1, "1"))
    several["reward/a"] = several.pop("reward")
    returns.add(several)
    assert returns.newest() == []


def test_episode_that_a_former_process_has_seen_begin_counts_for_nobody() -> None:
    returns = Log()
    returns.add(rows(("s", FIRST, MID, 1, "1")))
    returns.returns = Returns()
    returns.add(rows(("s", MID, LAST, 1, "1"), ("s", LAST, FIRST, 0, "1"), ("s", FIRST, LAST, 7, "1")))
    assert [tuple(one) for one in returns.newest()] == [("1", 1, 7.0)]


def test_who_asks_is_not_disturbed_by_episodes_that_end_meanwhile() -> None:
    returns = Log()
    returns.returns._versions = ChangedMeanwhile()
    returns.add(rows(("s", FIRST, LAST, 1, "1"), ("t", FIRST, LAST, 2, "2")))
    assert [one.version for one in returns.newest()] == ["1", "2"]
