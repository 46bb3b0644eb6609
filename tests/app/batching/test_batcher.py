"""Which jobs form a batch, on which version it runs, and where."""

import asyncio
import itertools
import threading
from typing import Any

import pytest
import uvloop

from app.batching import batcher as batcher_module
from app.batching import compute
from app.errors import Overloaded, TooOld
from tests.support.batcher import answers, depend, open_harness, threads_of

pytestmark = pytest.mark.anyio


async def test_idle_engine_takes_what_is_there_and_the_rest_goes_as_one_batch():
    async with open_harness() as harness:
        harness.engine.go_on.clear()
        first = harness.submit(1)
        await harness.held()
        others = [harness.submit(value, value + 0.5) for value in range(2, 12)]
        harness.engine.go_on.set()
        assert answers(await first) == [1]
        for value, other in zip(range(2, 12), others, strict=True):
            assert answers(await other) == [value, value + 0.5]
        assert harness.engine.calls == [1, 20]


def test_single_job_waits_for_no_timer():
    """Whatever timers it sets are those of deadlines."""
    delays: list[float] = []

    class Loop(uvloop.Loop):
        def call_later(self, delay: float, *args: Any, **kwargs: Any) -> Any:
            delays.append(delay)
            return super().call_later(delay, *args, **kwargs)

        def call_at(self, when: float, *args: Any, **kwargs: Any) -> Any:
            delays.append(when - self.time())
            return super().call_at(when, *args, **kwargs)

    async def test() -> None:
        async with open_harness() as harness:
            for value in range(50):
                assert answers(await harness.submit(value)) == [value]
            assert harness.engine.calls == [1] * 50

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(test())
    assert delays
    assert min(delays) > 1


async def test_batch_has_at_most_the_most_rows(monkeypatch):
    monkeypatch.setattr(batcher_module, "MOST_ROWS", 4)

    async with open_harness() as harness:
        harness.engine.go_on.clear()
        first = harness.submit(0)
        await harness.held()
        others = [harness.submit(1, 2, 3), harness.submit(4, 5, 6), harness.submit(7), harness.submit(*range(9))]
        harness.engine.go_on.set()
        await asyncio.gather(first, *others)
        assert harness.engine.calls == [1, 4, 3, 9]
        assert [len(answers(other.result())) for other in others] == [3, 3, 1, 9]


async def test_whole_batch_runs_on_one_version():
    async with open_harness() as harness:
        old = harness.engine
        old.go_on.clear()
        early = [harness.submit(0), harness.submit(0)]
        await harness.held()
        new = harness.swap(7)
        late = [harness.submit(0) for _ in range(3)]
        old.go_on.set()
        for job in early:
            result = await job
            assert (answers(result), result.version, result.train_step) == ([0], "v0", 0)
        for job in late:
            result = await job
            assert (answers(result), result.version, result.train_step) == ([7], "v7", 7)
        assert (old.calls, new.calls, harness.leased) == ([2], [3], ["v0", "v7"])


async def test_version_is_leased_as_long_as_its_batch_runs():
    async with open_harness() as harness:
        harness.engine.go_on.clear()
        job = harness.submit(0)
        await harness.held()
        drained = asyncio.create_task(harness.loaded.drained())
        await asyncio.sleep(0)
        assert not drained.done()
        harness.engine.go_on.set()
        await job
        await drained


async def test_functions_do_not_mix():
    async with open_harness() as harness:
        harness.engine.go_on.clear()
        first = harness.submit(0)
        await harness.held()
        others = [harness.submit(i, function="action" if i % 2 else "distribution") for i in range(6)]
        harness.engine.go_on.set()
        await asyncio.gather(first, *others)
        assert harness.engine.functions == ["action", "distribution", "action"]
        assert harness.engine.calls == [1, 3, 3]
        assert [answers(job.result()) for job in others] == [[i] for i in range(6)]


async def test_cancelled_job_is_dropped_before_its_batch():
    async with open_harness() as harness:
        harness.engine.go_on.clear()
        first = harness.submit(1)
        await harness.held()
        gone, stays = harness.submit(2), harness.submit(3)
        gone.cancel()
        harness.engine.go_on.set()
        assert [answers(await job) for job in (first, stays)] == [[1], [3]]
        assert harness.engine.calls == [1, 1]


async def test_job_cancelled_while_its_batch_runs_harms_nobody():
    async with open_harness() as harness:
        harness.engine.go_on.clear()
        gone, stays = harness.submit(2), harness.submit(3)
        await harness.held()
        gone.cancel()
        harness.engine.go_on.set()
        assert answers(await stays) == [3]
        assert answers(await harness.submit(4)) == [4]


async def test_full_queue_refuses_and_has_room_again_afterwards():
    async with open_harness(queue=2) as harness:
        harness.engine.go_on.clear()
        running = harness.submit(0)
        await harness.held()
        waiting = [harness.submit(1), harness.submit(2)]
        with pytest.raises(Overloaded, match="2 requests wait already"):
            harness.submit(3)
        harness.engine.go_on.set()
        await asyncio.gather(running, *waiting)
        assert answers(await harness.submit(4)) == [4]


async def test_job_never_runs_on_older_weights_than_it_asks_for():
    async with open_harness() as harness:
        harness.swap(5)
        harness.engine.go_on.clear()
        first = harness.submit(0)
        await harness.held()
        exact, too_new, any_age = (
            harness.submit(0, min_train_step=5),
            harness.submit(0, min_train_step=6),
            harness.submit(0),
        )
        harness.engine.go_on.set()
        with pytest.raises(TooOld, match="v5 has train step 5"):
            await too_new
        assert [answers(await job) for job in (first, exact, any_age)] == [[5], [5], [5]]
        assert harness.engine.calls == [1, 2]


async def test_rows_of_each_batch_are_counted():
    async with open_harness() as harness:
        await harness.submit(1, 2, 3)
        await harness.submit(1)
        text = harness.metrics.text().decode()
        assert 'policy_server_batch_rows_sum{policy="p"} 4.0' in text
        assert 'policy_server_batch_rows_count{policy="p"} 2.0' in text


async def test_a_call_that_is_known_to_be_short_runs_on_the_event_loop():
    async with open_harness(inline_s=60.0) as harness:
        threads = threads_of(harness)
        for value in range(3):
            assert answers(await harness.submit(value)) == [value]
        assert threads[0] != threads[1] == threads[2] == threading.current_thread().name
        await harness.submit(0, function="distribution")  # of which nothing is known so far
        assert threads[3] == threads[0]


async def test_a_longer_call_runs_on_the_event_loop_where_it_answers_many_jobs(monkeypatch):
    """Reading and answering so many takes the event loop longer than their call."""
    seconds = itertools.count()
    monkeypatch.setattr(compute, "perf_counter", lambda: next(seconds))  # a call takes one
    async with open_harness(inline_s=0.5) as harness:
        threads = threads_of(harness)
        for jobs in (63, 64, 64, 1, 1):
            await asyncio.gather(*(harness.submit(0) for _ in range(jobs)))
        on_loop = [thread == threading.current_thread().name for thread in threads]
    assert harness.engine.calls == [63, 64, 64, 1, 1]
    assert on_loop == [False, False, True, False, False]


async def test_jobs_of_one_round_of_the_event_loop_are_one_batch():
    async with open_harness(inline_s=60.0) as harness:
        await harness.submit(0)
        jobs = [harness.submit(value) for value in range(5)]
        await asyncio.gather(*jobs)
        assert harness.engine.calls == [1, 5]
        assert [answers(job.result()) for job in jobs] == [[value] for value in range(5)]


async def test_version_that_a_job_was_found_new_enough_for_is_the_one_that_runs_it():
    async with open_harness() as harness:
        harness.swap(5)
        job = harness.submit(0, min_train_step=5)
        await asyncio.sleep(0)  # its batch has begun
        harness.swap(4)
        assert (await job).version == "v5"


async def test_rows_are_kept_apart_from_the_first_batch_of_such_a_version_on():
    async with open_harness() as harness:
        old = harness.engine
        old.go_on.clear()
        held = harness.submit(1)
        await harness.held()
        engine = harness.swap(7)
        depend(harness)
        waiting = [harness.submit(2), harness.submit(3, 4), harness.submit(5)]
        old.go_on.set()
        assert answers(await held) == [1]
        assert [answers(await one) for one in waiting] == [[9], [10, 11], [12]]
        assert engine.calls == [1, 2, 1]
        await asyncio.gather(*[harness.submit(value) for value in range(5)])
        assert engine.calls == [1, 2, 1, 1, 1, 1, 1, 1]
        after = harness.swap(8)
        await harness.submit(0)
        after.go_on.clear()
        one = harness.submit(0)
        await harness.held()
        others = [harness.submit(value) for value in range(5)]
        after.go_on.set()
        await asyncio.gather(one, *others)
        assert after.calls == [1, 1, 5]
