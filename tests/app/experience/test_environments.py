"""Which environments have whole episodes, where there are more than have a place."""

import logging
from typing import Any

import numpy as np
import pytest

from app.experience import environments
from app.experience.environments import NO_EPISODE
from app.experience.episodes import Episodes
from app.experience.texts import Texts
from tests.support.experience import FIRST, LAST, MID

MOST = 16


@pytest.fixture(autouse=True)
def few_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "_MOST_ENVIRONMENTS", MOST)
    monkeypatch.setattr(environments, "_GONE_STEPS", 4 * MOST)


class Recorded:
    """What becomes of the steps of sessions with four environments each, one session a batch. `keyed`: by number."""

    def __init__(self, keyed: bool) -> None:
        self.whole: list[int] = []
        self._keyed = keyed
        self._episodes = Episodes()
        self._rows = 0

    def step(self, session: int, number: int, length: int) -> None:
        keys = np.array([session], np.int64) if self._keyed else None
        numbers = np.zeros(4, np.int64)
        rows: dict[str, Any] = {
            "session": Texts([f"s{session}"], numbers, keys),
            "incarnation": Texts(["i"], numbers),
            "row": np.arange(4, dtype=np.int32),
            "step": np.full(4, number),
            "step_type": np.full(4, FIRST if number % length == 0 else MID),
            "next_step_type": np.full(4, LAST if number % length == length - 1 else MID),
        }
        found, _, changes = self._episodes.assign(rows, self._rows)
        self._episodes.keep(changes)
        self._rows += 4
        if number % length == length - 1:
            self.whole += [session] * int((found != NO_EPISODE).sum())


@pytest.fixture(params=[True, False])
def recorded(request: pytest.FixtureRequest) -> Recorded:
    return Recorded(request.param)


def test_of_too_many_that_step_in_turn_as_many_as_have_a_place_have_whole_episodes(
    recorded: Recorded, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3 * 5):
        for session in range(10):
            recorded.step(session, number, 5)
    assert len(recorded.whole) >= 3 * MOST
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert f"more than {MOST} environments" in caplog.text


def test_who_came_first_keeps_its_place_to_the_end_of_its_episode(recorded: Recorded) -> None:
    for number in range(5):
        for session in range(10 if number else 4):
            recorded.step(session, number, 5)
    assert sorted(recorded.whole) == sorted([0, 1, 2, 3] * 4)


def test_those_whose_episodes_have_ended_or_that_are_gone_make_room(
    recorded: Recorded, caplog: pytest.LogCaptureFixture
) -> None:
    for session in range(100, 140):
        for number in range(2):
            recorded.step(session, number, 2)
    assert len(recorded.whole) == 40 * 4
    assert not caplog.records
    for session in range(4):  # never steps again
        recorded.step(session, 0, 5)
    recorded.whole.clear()
    for number in range(100):
        for session in range(4, 8):
            recorded.step(session, number, 5)
    assert recorded.whole[-16:] == [4] * 4 + [5] * 4 + [6] * 4 + [7] * 4
