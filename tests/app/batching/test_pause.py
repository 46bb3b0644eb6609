"""A pause, a stop and an end: what is answered, what waits, and what is refused."""

import asyncio

import pytest

from app.batching.rule import INITIAL_STATE, Pause
from app.errors import NotReady, Overloaded
from tests.support.batcher import answers, open_harness, settled

pytestmark = pytest.mark.anyio


async def test_close_finishes_what_was_accepted_and_then_takes_nothing():
    async with open_harness() as harness:
        harness.engine.go_on.clear()
        accepted = [harness.submit(0)]
        await harness.held()
        accepted += [harness.submit(1), harness.submit(2, function="distribution")]
        closing = asyncio.create_task(harness.batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(NotReady, match="stopping"):
            harness.submit(3)
        assert not closing.done()
        harness.engine.go_on.set()
        await closing
        assert [answers(job.result()) for job in accepted] == [[0], [1], [2]]


async def test_close_without_work_returns_at_once():
    async with open_harness() as harness:
        await harness.batcher.close()
        with pytest.raises(NotReady):
            harness.submit(0)


async def test_pause_waits_for_the_batch_that_runs_and_holds_what_waits_and_comes():
    async with open_harness() as harness:
        harness.engine.go_on.clear()
        running = harness.submit(1)
        await harness.held()
        waiting = harness.submit(2)
        pause = asyncio.create_task(harness.batcher.pause(Pause.WAIT))
        await settled()
        assert not pause.done()
        coming = harness.submit(3, function=INITIAL_STATE)
        harness.engine.go_on.set()
        assert await pause is Pause.WAIT
        assert running.done()
        coming_later = harness.submit(4)
        await settled()
        assert not any(job.done() for job in (waiting, coming, coming_later))
        harness.swap(10)
        harness.batcher.resume()
        assert [answers(await job) for job in (waiting, coming_later)] == [[12], [14]]
        assert (await coming).version == "v10"
        assert harness.leased == ["v0", "v10", "v10"]


async def test_pause_of_an_idle_policy_answers_at_once_and_resume_of_one_not_paused_changes_nothing():
    async with open_harness() as harness:
        harness.batcher.resume()
        assert harness.batcher.paused is None
        assert await harness.batcher.pause(Pause.WAIT) is harness.batcher.paused is Pause.WAIT
        assert 'policy_server_paused{policy="p"} 1.0' in harness.metrics.text().decode()
        harness.batcher.resume()
        assert 'policy_server_paused{policy="p"} 0.0' in harness.metrics.text().decode()
        assert answers(await harness.submit(1)) == [1]


async def test_rejecting_pause_finishes_what_was_accepted_and_refuses_what_comes():
    async with open_harness() as harness:
        harness.engine.go_on.clear()
        running = harness.submit(1)
        await harness.held()
        waiting = harness.submit(2)
        pause = asyncio.create_task(harness.batcher.pause(Pause.REJECT))
        await settled()
        with pytest.raises(NotReady, match="policy p is paused"):
            harness.submit(3)
        harness.engine.go_on.set()
        assert await pause is Pause.REJECT
        assert [answers(job.result()) for job in (running, waiting)] == [[1], [2]]
        harness.batcher.resume()
        assert answers(await harness.submit(4)) == [4]


async def test_pause_changes_its_mode():
    async with open_harness() as harness:
        await harness.batcher.pause(Pause.WAIT)
        held = harness.submit(1)
        assert await harness.batcher.pause(Pause.REJECT) is Pause.REJECT
        with pytest.raises(NotReady, match="policy p is paused"):
            await held
        assert await harness.batcher.pause(Pause.WAIT) is Pause.WAIT
        held = harness.submit(2)
        assert await harness.batcher.pause(Pause.WAIT) is Pause.WAIT
        harness.batcher.resume()
        assert answers(await held) == [2]


async def test_rejecting_twice_keeps_what_was_accepted():
    async with open_harness() as harness:
        harness.engine.go_on.clear()
        running = harness.submit(1)
        await harness.held()
        waiting = harness.submit(2)
        pauses = [asyncio.create_task(harness.batcher.pause(Pause.REJECT)) for _ in range(2)]
        await settled()
        harness.engine.go_on.set()
        await asyncio.gather(*pauses)
        assert [answers(job.result()) for job in (running, waiting)] == [[1], [2]]


async def test_pause_overtaken_by_resume_says_so():
    async with open_harness() as harness:
        harness.engine.go_on.clear()
        running = harness.submit(1)
        await harness.held()
        pause = asyncio.create_task(harness.batcher.pause(Pause.WAIT))
        await settled()
        harness.batcher.resume()
        harness.engine.go_on.set()
        assert await pause is None
        assert answers(await running) == [1]


async def test_pause_that_is_given_up_stays_in_force_and_harms_no_batch():
    async with open_harness() as harness:
        harness.engine.go_on.clear()
        running = harness.submit(1)
        await harness.held()
        pause = asyncio.create_task(harness.batcher.pause(Pause.WAIT))
        await settled()
        pause.cancel()
        harness.engine.go_on.set()
        assert answers(await running) == [1]
        held = harness.submit(2)
        await settled()
        assert not held.done()
        harness.batcher.resume()
        assert answers(await held) == [2]


async def test_queue_stays_bounded_while_paused_and_drops_those_nobody_waits_for():
    async with open_harness(queue=2) as harness:
        await harness.batcher.pause(Pause.WAIT)
        gone, stays = harness.submit(1), harness.submit(2)
        with pytest.raises(Overloaded):
            harness.submit(3)
        gone.cancel()
        comes = harness.submit(3)
        harness.batcher.resume()
        assert [answers(await job) for job in (stays, comes)] == [[2], [3]]
        assert harness.engine.calls == [2]


async def test_stopping_refuses_what_is_held_and_holds_nothing_more():
    async with open_harness() as harness:
        await harness.batcher.pause(Pause.WAIT)
        held = harness.submit(1)
        harness.batcher.refuse_paused()
        for refused in (held, asyncio.create_task(harness.batcher.pause(Pause.WAIT))):
            with pytest.raises(NotReady, match="stopping"):
                await refused
        with pytest.raises(NotReady, match="stopping"):
            harness.submit(2)


async def test_stopping_finishes_what_a_rejecting_pause_had_accepted():
    async with open_harness() as harness:
        harness.engine.go_on.clear()
        jobs = [harness.submit(1)]
        await harness.held()
        jobs.append(harness.submit(2))
        pause = asyncio.create_task(harness.batcher.pause(Pause.REJECT))
        await settled()
        harness.batcher.refuse_paused()
        harness.engine.go_on.set()
        await pause
        assert [answers(job.result()) for job in jobs] == [[1], [2]]


async def test_stopping_holds_up_nobody_who_is_not_paused():
    async with open_harness() as harness:
        harness.batcher.refuse_paused()
        assert answers(await harness.submit(1)) == [1]


async def test_close_while_paused_refuses_what_is_held():
    async with open_harness() as harness:
        await harness.batcher.pause(Pause.WAIT)
        held = harness.submit(1)
        await harness.batcher.close()
        with pytest.raises(NotReady, match="stopping"):
            await held
        assert not harness.engine.calls


async def test_a_hold_that_takes_the_place_of_another_ends_with_its_own_release() -> None:
    async with open_harness() as harness:
        await harness.batcher.hold(60)
        await harness.batcher.hold(60)
        waiting = harness.submit(1)
        harness.batcher.release()
        async with asyncio.timeout(20):
            assert answers(await waiting) == [1]
