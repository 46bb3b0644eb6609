"""Deadlines of jobs that wait, and of those whose batch runs."""

import pytest

from app.batching.rule import Pause
from app.errors import DeadlinePassed
from tests.support.batcher import answers, open_harness

pytestmark = pytest.mark.anyio


async def test_job_past_its_deadline_is_never_computed():
    async with open_harness() as harness:
        harness.engine.go_on.clear()
        first = harness.submit(1)
        await harness.held()
        late, in_time = harness.submit(2, timeout=0), harness.submit(3)
        harness.engine.go_on.set()
        with pytest.raises(DeadlinePassed):
            await late
        assert [answers(await job) for job in (first, in_time)] == [[1], [3]]
        assert harness.engine.calls == [1, 1]


async def test_held_job_past_its_deadline_is_never_computed():
    async with open_harness() as harness:
        await harness.batcher.pause(Pause.WAIT)
        late, in_time = harness.submit(1, timeout=0), harness.submit(2)
        harness.batcher.resume()
        with pytest.raises(DeadlinePassed):
            await late
        assert answers(await in_time) == [2]
        assert harness.engine.calls == [1]


async def test_deadline_of_a_job_whose_batch_runs_passes_while_it_runs():
    async with open_harness() as harness:
        harness.engine.go_on.clear()
        running, waiting = harness.submit(1, timeout=0.2), harness.submit(2, function="distribution", timeout=0.2)
        await harness.held()
        for job in (running, waiting):
            with pytest.raises(DeadlinePassed):
                await job
        harness.engine.go_on.set()
        assert answers(await harness.submit(3)) == [3]
        assert harness.engine.functions == ["action", "action"]


async def test_deadline_of_a_paused_job_passes_in_the_pause():
    async with open_harness() as harness:
        later = harness.submit(1, timeout=60)
        await later
        await harness.batcher.pause(Pause.WAIT)
        long, short = harness.submit(1, timeout=60), harness.submit(2, timeout=0.01)
        with pytest.raises(DeadlinePassed, match="policy p is paused"):
            await short
        harness.batcher.resume()
        assert answers(await long) == [1]


async def test_deadlines_that_are_due_at_once_among_later_ones():
    async with open_harness() as harness:
        await harness.batcher.pause(Pause.WAIT)
        long = harness.submit(1, timeout=60)
        hasty = [harness.submit(value, timeout=timeout) for value in range(20) for timeout in (0.0, 0.001, -1.0)]
        for job in hasty:
            with pytest.raises(DeadlinePassed):
                await job
        harness.batcher.resume()
        assert answers(await long) == [1]
