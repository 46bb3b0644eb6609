"""Answers that nobody reads are bounded however fast they come; the one that was just written has its chance."""

import math

import pytest

from app.api.connection_limits import UnfinishedRequests, UnreadAnswers
from app.memory import FreedMemory

pytestmark = pytest.mark.anyio


class Client:
    """A connection of which nothing is read."""

    gone = False

    def unread_bytes(self) -> int:
        return 1000

    def evict(self) -> None:
        raise AssertionError("it has no unfinished request")

    def abort(self) -> None:
        self.gone = True


async def test_answers_that_come_faster_than_they_stall_are_bounded() -> None:
    answers, clients = UnreadAnswers(10_000, 10, FreedMemory()), [Client() for _ in range(40)]
    for client in clients:
        answers.add(client, 1000)
        answers._checked_at = -math.inf  # else not each of them is checked, so soon after the one before
        assert answers._total <= 11_000 + 1000
    assert clients[0].gone
    assert not clients[-1].gone
    for client in clients:
        answers.discard(client)


async def test_one_large_answer_is_not_given_up_when_it_is_written() -> None:
    answers, client = UnreadAnswers(10_000, 10, FreedMemory()), Client()
    answers.add(client, 50_000)
    answers.discard(client)
    assert not client.gone


class Unfinished(Client):
    """A connection whose request is given up."""

    evicted = False

    def evict(self) -> None:
        self.evicted = True


def test_beyond_the_bound_the_largest_unfinished_request_is_given_up() -> None:
    requests, (small, large, last) = UnfinishedRequests(1000, FreedMemory()), [Unfinished() for _ in range(3)]
    requests.count(small, 300)
    requests.count(large, 600)
    requests.count(large, 650)  # in the place of what it had before
    assert not large.evicted
    requests.count(last, 100)
    assert (small.evicted, large.evicted, last.evicted) == (False, True, False)
    requests.count(last, 700)
    assert not last.evicted


def test_what_was_released_counts_no_more() -> None:
    requests, (one, other) = UnfinishedRequests(1000, FreedMemory()), [Unfinished() for _ in range(2)]
    requests.count(one, 900)
    requests.release(one)
    requests.release(one)
    requests.count(other, 1000)
    assert not other.evicted
