"""Answers leave together, after the last batch that was to be delivered then, and after what has to come before."""

from collections.abc import Callable

import pytest

from app.batching.cork import Cork


class Events:
    """What has happened, in its order; a sender that notes what it sends."""

    def __init__(self) -> None:
        self.cork = Cork()
        self.all: list[str] = []

    def write_now(self, data: bytes) -> None:
        self.all.append(f"sent {data.decode()}")

    def answering(self, *answers: str) -> Callable[[], None]:
        """Returns what delivers a batch with these answers."""

        def deliver() -> None:
            for answer in answers:
                assert self.cork.before_sending(lambda answer=answer: self.all.append(f"recorded {answer}"))
                self.all.append(answer)
                assert self.cork.hold(self, answer.encode())

        return deliver


def leaving(*answers: str) -> list[str]:
    return [f"recorded {answer}" for answer in answers] + [f"sent {answer}" for answer in answers]


def test_answers_of_a_batch_leave_after_the_last_was_written_and_all_are_recorded() -> None:
    events = Events()
    events.cork.run([events.answering("a", "b")])
    assert events.all == ["a", "b", *leaving("a", "b")]


def test_batches_that_are_delivered_together_leave_together_and_a_later_one_by_itself() -> None:
    events = Events()
    events.cork.run([events.answering("a"), events.answering("b")])
    events.cork.run([events.answering("later")])
    assert events.all == ["a", "b", *leaving("a", "b"), "later", *leaving("later")]


def test_answers_of_several_batches_are_held_back_though_nothing_comes_before_them() -> None:
    events = Events()
    held = []
    events.cork.run([lambda: held.append(events.cork.hold(events, b"a"))] * 20)
    assert held == [True] * 20
    assert events.all == ["sent a"] * 20
    assert not events.cork.hold(events, b"alone")


def test_many_answers_leave_in_parts() -> None:
    events = Events()
    answers = [str(number) for number in range(70)]
    events.cork.run([events.answering(*answers)])
    assert events.all == [*answers[:64], *leaving(*answers[:64]), *answers[64:], *leaving(*answers[64:])]


def test_large_answers_leave_in_smaller_parts() -> None:
    events = Events()
    answers = ["a" * 30_000, "b" * 30_000, "c" * 30_000, "d" * 60_000, "e"]
    events.cork.run([events.answering(*answers)])
    assert events.all == [*answers[:3], *leaving(*answers[:3]), *answers[3:], *leaving(*answers[3:])]


@pytest.mark.parametrize(("count", "rows", "leave_together"), [(7, 7, False), (8, 512, True), (8, 513, False)])
def test_many_answers_of_one_batch_leave_together_where_they_are_small(
    count: int, rows: int, leave_together: bool
) -> None:
    events = Events()
    held = []

    def deliver() -> None:
        events.cork.expect(count, rows)
        held.append(events.cork.hold(events, b"a"))
        events.all.append("written")

    events.cork.run([deliver])
    assert held == [leave_together]
    assert events.all == ["written", "sent a"][: 1 + leave_together]
    events.cork.expect(count, rows)
    assert not events.cork.hold(events, b"by itself"), "no batch is delivered"


def test_what_needs_nothing_before_it_leaves_at_once() -> None:
    events = Events()
    held = []
    events.cork.run([lambda: held.append(events.cork.hold(events, b"a"))])
    assert held == [False]
    assert not events.cork.before_sending(lambda: None), "no batch is delivered"


def test_a_batch_that_fails_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    events = Events()

    def failing() -> None:
        events.answering("b")()
        raise ValueError("a bug")

    events.cork.run([failing, events.answering("c")])
    assert events.all == ["b", "c", *leaving("b", "c")]
    assert not events.cork.hold(events, b"d")
    assert "a bug" in caplog.text


def test_neither_does_what_comes_before_an_answer_nor_a_connection_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    events = Events()

    class Broken:
        def write_now(self, data: bytes) -> None:
            raise ValueError("no connection")

    def deliver() -> None:
        events.cork.before_sending(lambda: 1 / 0)
        events.cork.hold(Broken(), b"lost")
        events.answering("b")()

    events.cork.run([deliver])
    assert events.all == ["b", *leaving("b")]
    assert "no connection" in caplog.text
    assert "ZeroDivisionError" in caplog.text
