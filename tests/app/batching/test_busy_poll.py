"""The event loop looks for the next request for a moment, and less and less often where none comes in time."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from app.batching import busy_poll
from app.batching.busy_poll import BusyPoll

WINDOW_S = 100e-6


class Loop:
    """An event loop whose turns are driven by hand."""

    def __init__(self) -> None:
        self.due: list[Callable[[], object]] = []

    def call_soon(self, call: Callable[[], object]) -> None:
        self.due.append(call)

    def turn(self) -> bool:
        """Runs what is due; returns whether the loop would go on without sleeping."""
        due, self.due = self.due, []
        for call in due:
            call()
        return bool(self.due)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=5.0)
    monkeypatch.setattr(busy_poll, "perf_counter", lambda: clock.now)
    return clock


def polling(cores: int = 2) -> tuple[Loop, BusyPoll]:
    loop: Any = Loop()
    return loop, BusyPoll(loop, cores)


def looks(loop: Loop, poll: BusyPoll, clock: SimpleNamespace) -> bool:
    """Whether the loop looks for a request behind an answer; none comes."""
    poll.answered()
    looked = loop.turn()
    clock.now += WINDOW_S
    loop.turn()
    assert not loop.due
    return looked


def test_no_turn_sleeps_until_the_time_is_over(clock: SimpleNamespace) -> None:
    loop, poll = polling()
    poll.answered()
    for _ in range(9):
        assert loop.turn()
        clock.now += WINDOW_S / 10
    assert loop.turn()
    clock.now += WINDOW_S / 5
    assert not loop.turn()


def test_an_answer_meanwhile_begins_the_time_anew_and_looks_once_a_turn(clock: SimpleNamespace) -> None:
    loop, poll = polling()
    for _ in range(5):
        poll.answered()
        poll.answered()
        assert len(loop.due) == 1
        assert loop.turn()
        clock.now += WINDOW_S * 0.9
    assert loop.turn()


def test_looks_in_vain_are_left_out_more_and_more_often_and_never_for_good(clock: SimpleNamespace) -> None:
    loop, poll = polling()
    found = [looks(loop, poll, clock) for _ in range(400)]
    at = [number for number, looked in enumerate(found) if looked]
    assert at == [0, 2, 6, 14, 30, 62, 126, 191, 256, 321, 386]


def test_a_request_that_comes_in_time_makes_good_for_those_that_did_not(clock: SimpleNamespace) -> None:
    loop, poll = polling()
    for _ in range(62):
        looks(loop, poll, clock)
    poll.answered()
    assert loop.turn()
    assert looks(loop, poll, clock)
    assert [looks(loop, poll, clock) for _ in range(2)] == [False, True]


def test_on_one_core_nobody_could_ask_meanwhile(clock: SimpleNamespace) -> None:
    loop, poll = polling(cores=1)
    assert [looks(loop, poll, clock) for _ in range(5)] == [False] * 5
