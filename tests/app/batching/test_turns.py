"""Jobs that run as soon as they come, and those that wait for others of the same turn of the event loop."""

import asyncio

import pytest

from app.batching.cork import Cork
from app.batching.rule import Pause
from app.batching.turns import Arrivals, Turns
from app.errors import NotReady
from tests.support.batcher import Harness, answers, open_harness, settled, threads_of

pytestmark = pytest.mark.anyio
SHORT_S = 1.0


async def warm(harness: Harness) -> None:
    """Has the batcher know that calls are short."""
    assert answers(await harness.submit(0)) == [0]
    harness.engine.calls.clear()


async def test_a_job_that_comes_alone_is_answered_before_the_call_returns() -> None:
    async with open_harness(inline_s=SHORT_S) as harness:
        await warm(harness)
        for value in range(5):
            done = harness.submit_alone(value)
            assert answers(done.result()) == [value]
            await asyncio.sleep(0)
        assert harness.engine.calls == [1] * 5


async def test_jobs_of_one_turn_wait_for_each_other_from_the_second_on() -> None:
    async with open_harness(inline_s=SHORT_S) as harness:
        await warm(harness)
        found = [harness.submit_alone(value) for value in range(4)]
        assert [done.done() for done in found] == [True, False, False, False]
        await asyncio.gather(*found)
        found = [harness.submit_alone(value) for value in range(4)]
        assert not any(done.done() for done in found)
        assert [answers(await done) for done in found] == [[value] for value in range(4)]
        assert harness.engine.calls == [1, 3, 4]


async def test_jobs_run_alone_again_after_some_turns_with_one() -> None:
    async with open_harness(inline_s=SHORT_S) as harness:
        await warm(harness)
        await asyncio.gather(*[harness.submit_alone(value) for value in range(3)])
        waited = 0
        while not (done := harness.submit_alone(7)).done():
            assert answers(await done) == [7]
            waited += 1
        assert 1 <= waited < 100


async def test_policies_share_turns_but_not_those_who_wait() -> None:
    turns = Turns(asyncio.get_running_loop())
    one, other = Arrivals(turns), Arrivals(turns)
    found = []
    for arrivals in (one, other, one, other):
        found.append(arrivals.is_alone())
        if found[-1]:
            arrivals.note_alone()
    assert found == [True, True, False, False]
    await asyncio.sleep(0)
    assert [arrivals.is_alone() for arrivals in (one, Arrivals(turns))] == [False, True]


class Sender:
    """A connection that notes what it sends."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def write_now(self, data: bytes) -> None:
        self.sent.append(data)

    def answered(self, arrivals: Arrivals, cork: Cork, data: bytes) -> None:
        """A job that comes now runs at once, and is answered."""
        assert arrivals.is_alone()
        if not cork.hold(self, data):
            self.write_now(data)
        arrivals.note_alone()


async def test_answers_of_several_policies_in_one_turn_leave_together_behind_the_first() -> None:
    turns, sender = Turns(asyncio.get_running_loop()), Sender()
    policies = [Arrivals(turns) for _ in range(3)]
    for number, arrivals in enumerate(policies):
        sender.answered(arrivals, turns.cork, b"%d" % number)
    assert sender.sent == [b"0"]
    await asyncio.sleep(0)
    assert sender.sent == [b"0", b"1", b"2"]
    sender.answered(policies[1], turns.cork, b"alone in the next turn")
    assert sender.sent[3:] == [b"alone in the next turn"]


async def test_many_answers_of_one_turn_leave_in_parts_and_none_overtakes() -> None:
    turns, sender = Turns(asyncio.get_running_loop()), Sender()
    answers = [b"%d" % number for number in range(40)]
    for answer in answers:
        sender.answered(Arrivals(turns), turns.cork, answer)
    assert 16 < len(sender.sent) < 40
    await asyncio.sleep(0)
    assert sender.sent == answers


async def test_a_long_call_runs_in_the_thread_and_the_next_jobs_wait_for_it() -> None:
    async with open_harness() as harness:
        threads = threads_of(harness)
        harness.engine.go_on.clear()
        first = harness.submit_alone(1)
        await harness.held()
        await asyncio.sleep(0)
        second = harness.submit_alone(2)
        await settled()
        assert not second.done()
        harness.engine.go_on.set()
        assert [answers(await done) for done in (first, second)] == [[1], [2]]
        assert all("MainThread" not in name for name in threads)


async def test_what_waits_is_not_overtaken() -> None:
    async with open_harness(inline_s=SHORT_S) as harness:
        await warm(harness)
        first = harness.submit(1)
        second = harness.submit_alone(2)
        assert not second.done()
        await asyncio.gather(first, second)
        assert harness.engine.calls == [2]


async def test_a_job_alone_waits_for_the_end_of_a_pause_and_of_a_hold_or_is_refused() -> None:
    async with open_harness(inline_s=SHORT_S) as harness:
        await warm(harness)
        await harness.batcher.pause(Pause.WAIT)
        waits = harness.submit_alone(1)
        await settled()
        assert not waits.done()
        harness.batcher.resume()
        assert answers(await waits) == [1]
        await harness.batcher.hold(60)
        held = harness.submit_alone(2)
        await settled()
        assert not held.done()
        harness.batcher.release()
        assert answers(await held) == [2]
        await harness.batcher.pause(Pause.REJECT)
        with pytest.raises(NotReady):
            harness.submit_alone(3)


async def test_a_job_alone_that_fails_fails_alone() -> None:
    async with open_harness(inline_s=SHORT_S) as harness:
        await warm(harness)
        harness.engine.fails_at = 1.0
        broken = harness.submit_alone(1)
        assert "RuntimeError" in str(broken.exception())
        await asyncio.sleep(0)
        assert answers(await harness.submit_alone(2)) == [2]
