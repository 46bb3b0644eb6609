import asyncio
from collections import deque
from typing import Any

import pytest

from app.batching.rule import Job, next_batch

NOW = 100.0


class Done:
    """As much of a future as the rule looks at."""

    def __init__(self, done: bool) -> None:
        self._done = done

    def done(self) -> bool:
        return self._done


def job(text: str) -> Job:
    """`a3` is a job of function a with 3 rows.

    `a3!` is past its deadline, `a3x` has nobody waiting for it, `a3*` wants to be alone.
    """
    deadline = NOW if text.endswith("!") else NOW + 1
    rows = int(text[1:].rstrip("!x*"))
    done: Any = Done(text.endswith("x"))
    return Job(text[0], {"name": text}, rows, isolated=text.endswith("*"), deadline=deadline, waiter=done)


def names(jobs) -> str:
    return " ".join(job.inputs["name"] for job in jobs)


@pytest.mark.parametrize(
    ("waiting", "batch", "expired", "left"),
    [
        ("", "", "", ""),
        ("a1", "a1", "", ""),
        ("a1 a2 a3", "a1 a2 a3", "", ""),
        ("a4 a4 a4", "a4 a4", "", "a4"),
        ("a8 a1", "a8", "", "a1"),
        # Alone is alone, first or not; the others close ranks.
        ("a1* a1", "a1*", "", "a1"),
        ("a1 a1* a2", "a1 a2", "", "a1*"),
        ("a1* a1*", "a1*", "", "a1*"),
        # The first always goes, however large.
        ("a20 a1", "a20", "", "a1"),
        # What does not fit keeps its place; smaller ones behind it may fill the batch.
        ("a5 a4 a3 a1", "a5 a3", "", "a4 a1"),
        ("a5 a4 a2 a1 a1", "a5 a2 a1", "", "a4 a1"),
        # One batch, one function: the first one's. The others keep their order.
        ("a1 d1 a1 d2", "a1 a1", "", "d1 d2"),
        ("d1 a1 a1 d2", "d1 d2", "", "a1 a1"),
        ("a8 d1 a1 d2", "a8", "", "d1 a1 d2"),
        # Expired jobs make no batch and take no room.
        ("a1!", "", "a1!", ""),
        ("d1! a8! a4 a4", "a4 a4", "d1! a8!", ""),
        ("a1 a1! d1! a1", "a1 a1", "a1! d1!", ""),
        # Jobs nobody waits for are dropped without a word.
        ("a1x", "", "", ""),
        ("d1x a1 a9x a7", "a1 a7", "", ""),
    ],
)
def test_next_batch(waiting, batch, expired, left):
    queue = deque(job(text) for text in waiting.split())
    found_batch, found_expired = next_batch(queue, most_rows=8, now=NOW)
    assert (names(found_batch), names(found_expired), names(queue)) == (batch, expired, left)


def test_every_job_goes_exactly_once():
    texts = [f"{'ad'[i % 2]}{1 + i % 5}" for i in range(50)]
    queue = deque(map(job, texts))
    gone = []
    while queue:
        batch, expired = next_batch(queue, most_rows=8, now=NOW)
        assert batch
        assert not expired
        assert len({job.function for job in batch}) == 1
        assert sum(job.rows for job in batch) <= 8
        gone += batch
    assert sorted(job.inputs["name"] for job in gone) == sorted(texts)


def test_cancelled_future_counts_as_nobody_waiting():
    async def run() -> None:
        done = asyncio.get_running_loop().create_future()
        done.cancel()
        cancelled = Job("a", {}, 1, deadline=NOW + 1, waiter=done)
        assert next_batch(deque([cancelled]), 8, NOW) == ([], [])

    asyncio.run(run())
