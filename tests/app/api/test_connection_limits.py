"""Answers that nobody reads are bounded however fast they come; the one that was just written has its chance."""

import asyncio
import math

from app.api.connection_limits import UnreadAnswers
from app.memory import FreedMemory


class Client:
    """A connection of which nothing is read."""

    gone = False

    def unread_bytes(self) -> int:
        return 1000

    def evict(self) -> None:
        raise AssertionError("it has no unfinished request")

    def abort(self) -> None:
        self.gone = True


def test_answers_that_come_faster_than_they_stall_are_bounded() -> None:
    async def test() -> list[bool]:
        answers, clients = UnreadAnswers(10_000, 10, FreedMemory()), [Client() for _ in range(40)]
        for client in clients:
            answers.add(client, 1000)
            answers._checked_at = -math.inf  # else not each of them is checked, so soon after the one before
            assert answers._total <= 11_000 + 1000
        return [client.gone for client in clients]

    gone = asyncio.run(test())
    assert gone[0]
    assert not gone[-1]


def test_one_large_answer_is_not_given_up_when_it_is_written() -> None:
    async def test() -> bool:
        answers, client = UnreadAnswers(10_000, 10, FreedMemory()), Client()
        answers.add(client, 50_000)
        answers.discard(client)
        return client.gone

    assert not asyncio.run(test())
