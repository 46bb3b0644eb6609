"""Requests that become one job at the end of the turn in which they come."""

import asyncio
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from app.batching.batcher import Batcher
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

    def add(self, value: float) -> bool:
        batcher = self.harness.batcher
        taken = batcher.gathers(self)
        if taken:
            if not self.values:
                batcher.turns.add_gathered(self)
            self.values.append(value)
        return taken

    def takes_more(self) -> bool:
        return len(self.values) > 1

    def job(self) -> Job:
        values, self.values = self.values, []
        self.jobs.append(self.harness.job(*values, timeout=self.timeout, requests=len(values)))
        return self.jobs[-1]

    def submit(self, batcher: Batcher) -> None:
        batcher.submit_gathered(self.job())

    def compute(self) -> Callable[[], None] | None:
        if not self.values:
            return None
        job = self.job()
        result = self.harness.batcher.compute_gathered(job, asyncio.get_running_loop().time())
        if result is None:
            self.harness.batcher.submit_gathered(job)
            return None
        return partial(job.waiter.set_result, result)


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


async def test_few_are_gathered_no_more_after_some_turns() -> None:
    async with open_harness(inline_s=1.0) as harness:
        requests = Requests(harness)
        await crowded(harness)
        turns = 0
        while requests.add(float(turns)):
            await settled()
            assert answers(await requests.jobs[-1].waiter) == [float(turns)]
            turns += 1
        assert 1 < turns < 100


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


async def test_those_whose_rows_depend_on_each_other_are_not_gathered() -> None:
    async with open_harness(inline_s=1.0) as harness:
        requests = Requests(harness)
        await crowded(harness)
        depend(harness)
        assert not requests.add(1.0)


async def test_those_whose_rows_depend_on_each_other_since_they_came_share_no_call() -> None:
    async with open_harness(inline_s=1.0) as harness:
        requests = Requests(harness)
        await crowded(harness)
        assert requests.add(1.0)
        depend(harness)
        assert requests.add(2.0)
        alone = harness.submit(3.0)
        harness.engine.functions.clear()
        await settled()
        assert await each_of(requests.jobs[0]) == [[1.0], [2.0]]
        assert answers(await alone) == [3.0]
        assert len(harness.engine.functions) == 3


async def test_a_call_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_harness(inline_s=1.0) as harness:
        requests = Requests(harness)
        await crowded(harness)
        counted: list[tuple[int, bool]] = []
        monkeypatch.setattr(
            harness.batcher._parts.metrics, "batch", lambda rows, seconds: counted.append((rows, seconds is not None))
        )
        assert all(requests.add(value) for value in (1.0, 2.0))
        await settled()
        harness.engine.fails_at = 3.0
        assert requests.add(3.0)
        await settled()
        with pytest.raises(EngineFailed):
            await requests.jobs[1].waiter
        assert counted == [(2, True), (1, False)]


async def test_a_hold_keeps_them_for_the_next_weights() -> None:
    async with open_harness(inline_s=1.0) as harness:
        requests = Requests(harness)
        await crowded(harness)
        assert requests.add(1.0)
        await harness.batcher.hold(60)
        await settled()
        assert not requests.jobs[0].waiter.done()
        harness.swap(10)
        harness.batcher.release()
        await settled()
        assert answers(await requests.jobs[0].waiter) == [11.0]


async def test_a_deadline_that_has_passed_in_the_turn_is_kept() -> None:
    async with open_harness(inline_s=1.0) as harness:
        requests = Requests(harness, timeout=-0.001)
        await crowded(harness)
        assert requests.add(1.0)
        await settled()
        with pytest.raises(DeadlinePassed):
            await requests.jobs[0].waiter


async def test_what_begins_to_be_tried_in_the_turn_sees_them() -> None:
    async with open_harness(inline_s=1.0) as harness:
        requests = Requests(harness)
        await crowded(harness)
        seen: list[int] = []
        assert all(requests.add(value) for value in (1.0, 2.0))
        delivers = lambda loaded, jobs, outcomes, now, waits: seen.append(sum(job.requests for job in jobs))  # noqa: E731
        harness.batcher.traffic = SimpleNamespace(delivers=delivers)  # type: ignore[assignment]
        await settled()
        assert answers(await requests.jobs[0].waiter) == [1.0, 2.0]
        assert seen == [2]
        assert not requests.add(3.0)


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
        for _ in range(30):
            assert all(requests.add(value) for value in (1.0, 2.0, 3.0))
            unusual = harness.submit(4.0, function="distribution")
            assert answers(await harness.submit(5.0)) == [5.0]
            await unusual
