"""Requests that become one job at the end of the turn in which they come."""

import asyncio
from typing import Any

import pytest

from app.batching.rule import Each, Job, Pause
from app.errors import DeadlinePassed, EngineFailed, Overloaded
from tests.support.batcher import Harness, answers, depend, open_harness, settled

pytestmark = pytest.mark.anyio


class Requests:
    """A few of them."""

    def __init__(self, harness: Harness, timeout: float = 60.0) -> None:
        self.harness, self.timeout = harness, timeout
        self.values: list[float] = []
        self.jobs: list[Job] = []

    def __len__(self) -> int:
        return len(self.values)

    def add(self, value: float) -> bool:
        taken = self.harness.batcher.gathers(self)
        if taken:
            self.values.append(value)
        return taken

    def job(self) -> Job | None:
        values, self.values = self.values, []
        if not values:
            return None
        self.jobs.append(self.harness.job(*values, timeout=self.timeout, requests=len(values)))
        return self.jobs[-1]


async def crowded(harness: Harness) -> None:
    """Several requests have come at once, so that several are expected."""
    await asyncio.gather(*(harness.submit(float(value)) for value in range(5)))


async def test_they_are_one_job_once_many_have_come_at_once() -> None:
    async with open_harness(inline_s=1.0) as harness:
        requests = Requests(harness)
        assert not requests.add(1.0)
        await harness.submit(0.0)
        assert not requests.add(1.0)
        await crowded(harness)
        assert all(requests.add(value) for value in (1.0, 2.0, 3.0, 4.0))
        beside = harness.submit(5.0)
        assert answers(await beside) == [5.0]
        (job,) = requests.jobs
        assert answers(await job.waiter) == [1.0, 2.0, 3.0, 4.0]


async def test_few_are_gathered_no_more() -> None:
    async with open_harness(inline_s=1.0) as harness:
        requests = Requests(harness)
        await crowded(harness)
        assert requests.add(1.0)
        await settled()
        assert answers(await requests.jobs[0].waiter) == [1.0]
        assert not requests.add(2.0)


async def test_another_group_waits_by_itself() -> None:
    async with open_harness(inline_s=1.0) as harness:
        one, other = Requests(harness), Requests(harness)
        await crowded(harness)
        assert one.add(1.0)
        assert not other.add(2.0)
        await settled()
        assert answers(await one.jobs[0].waiter) == [1.0]


async def test_they_count_in_the_queue() -> None:
    async with open_harness(queue=6, inline_s=1.0) as harness:
        requests = Requests(harness)
        await crowded(harness)
        first = harness.submit(0.0)
        assert [requests.add(float(value)) for value in range(6)] == [True] * 5 + [False]
        with pytest.raises(Overloaded, match="6 requests wait already"):
            harness.submit(9.0)
        await settled()
        assert answers(await first) == [0.0]
        assert answers(await requests.jobs[0].waiter) == [0.0, 1.0, 2.0, 3.0, 4.0]


async def test_a_pause_keeps_them_until_their_deadline() -> None:
    async with open_harness(inline_s=1.0) as harness:
        requests = Requests(harness, timeout=0.05)
        await crowded(harness)
        assert requests.add(1.0)
        await harness.batcher.pause(Pause.WAIT)
        assert not requests.add(2.0)
        await settled()
        with pytest.raises(DeadlinePassed):
            await requests.jobs[0].waiter


async def test_what_was_gathered_is_finished_before_a_pause_that_rejects_and_the_end() -> None:
    async with open_harness(inline_s=1.0) as harness:
        requests = Requests(harness)
        await crowded(harness)
        assert requests.add(1.0)
        await harness.batcher.pause(Pause.REJECT)
        assert answers(await requests.jobs[0].waiter) == [1.0]
        harness.batcher.resume()
        await crowded(harness)
        assert requests.add(2.0)
        await harness.batcher.close()
        assert answers(await requests.jobs[1].waiter) == [2.0]


async def test_while_a_call_runs_each_is_a_job_of_its_own() -> None:
    async with open_harness(inline_s=1.0) as harness:
        requests = Requests(harness)
        await crowded(harness)
        harness.batcher._parts.__dict__["inline_s"] = 0.0
        harness.engine.go_on.clear()
        harness.submit(1.0)
        await harness.held()
        assert not requests.add(2.0)
        harness.engine.go_on.set()


async def each_of(job: Job) -> list[Any]:
    with pytest.raises(Each) as found:
        await job.waiter
    return [one if isinstance(one, Exception) else answers(one) for one in found.value.outcomes]


async def test_those_whose_rows_depend_on_each_other_share_no_call() -> None:
    async with open_harness(inline_s=1.0) as harness:
        requests = Requests(harness)
        await crowded(harness)
        depend(harness)
        assert requests.add(1.0)
        assert requests.add(2.0)
        alone = harness.submit(3.0)
        harness.engine.functions.clear()
        await settled()
        assert await each_of(requests.jobs[0]) == [[1.0], [2.0]]
        assert answers(await alone) == [3.0]
        assert len(harness.engine.functions) == 3


@pytest.mark.parametrize("meanwhile", ["nothing", "full", "reject", "wait", "close"])
async def test_what_fails_for_one_fails_for_it_alone_whatever_has_happened_meanwhile(meanwhile: str) -> None:
    async with open_harness(queue=6, inline_s=1.0) as harness:
        requests = Requests(harness)
        await crowded(harness)
        harness.batcher._parts.__dict__["inline_s"] = 0.0
        harness.engine.fails_at = 2.0
        harness.engine.go_on.clear()
        assert all(requests.add(value) for value in (1.0, 2.0, 3.0))
        await harness.held()
        ends: list[asyncio.Task[Any]] = []
        if meanwhile == "full":
            for value in range(6):
                harness.submit(float(value))
        elif meanwhile in ("reject", "wait"):
            ends.append(asyncio.create_task(harness.batcher.pause(Pause(meanwhile))))
        elif meanwhile == "close":
            ends.append(asyncio.create_task(harness.batcher.close()))
        await settled()
        harness.engine.go_on.set()
        first, second, third = await each_of(requests.jobs[0])
        assert (first, third) == ([1.0], [3.0])
        assert isinstance(second, EngineFailed)
        await asyncio.gather(*ends)
        harness.batcher.resume()


async def test_many_beside_one_that_is_unusual_are_many() -> None:
    async with open_harness(inline_s=1.0) as harness:
        requests = Requests(harness)
        await crowded(harness)
        for _ in range(3):
            assert all(requests.add(value) for value in (1.0, 2.0, 3.0))
            unusual = harness.submit(4.0, function="distribution")
            beside = harness.submit(5.0)
            assert answers(await beside) == [5.0]
            await unusual
            await crowded(harness)
