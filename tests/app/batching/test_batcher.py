import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import uvloop

from app.batching import batcher as batcher_module
from app.batching.batcher import Batcher, BatcherParts
from app.batching.rule import INITIAL_STATE, Job, Pause, Result
from app.engine.base import InputRefused
from app.engine.fake import FakeEngine
from app.errors import DeadlinePassed, DoesNotFit, EngineFailed, NotReady, Overloaded, TooOld
from app.metrics import Metrics
from app.versions.lease import LoadedVersion, VersionInfo


class EchoEngine(FakeEngine):
    """Answers each row with its observation plus `number`; keeps the functions that were called."""

    def __init__(self, number: int = 0) -> None:
        super().__init__(number)
        self.functions: list[str] = []
        self.fails_at: float | None = None
        self.state = 0.0

    def run(self, function, inputs):
        self.functions.append(function)
        outputs = super().run(function, inputs)
        observation = inputs["0/observation"]
        if self.fails_at is not None and (observation == self.fails_at).any():
            raise RuntimeError("the graph is broken")
        return {"action": observation + outputs["action"] + inputs.get("1/0", 0)}

    def initial_state(self, rows):
        return {"0": np.full(rows, self.state)}


class Harness:
    """A batcher over one version at a time, driven by hand."""

    def __init__(self, executor: ThreadPoolExecutor, queue: int, inline_s: float) -> None:
        self.engine = EchoEngine()
        self.loaded = LoadedVersion(self.engine, VersionInfo("v0", "d0", 0))
        self.leased: list[str] = []
        self.metrics = Metrics()
        self.batcher = Batcher(
            BatcherParts("p", self._lease, _complete, executor, self.metrics.policy("p"), queue, inline_s)
        )

    def _lease(self):
        self.leased.append(self.loaded.version.name)
        return self.loaded.lease()

    def swap(self, number: int) -> EchoEngine:
        self.engine = EchoEngine(number)
        self.loaded = LoadedVersion(self.engine, VersionInfo(f"v{number}", f"d{number}", number))
        return self.engine

    def submit(self, *values: float, function: str = "action", timeout: float = 60.0, **more: Any) -> asyncio.Future:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Result] = loop.create_future()
        options = {"needs_state": False, "min_train_step": None} | more
        inputs = {"0/observation": np.array(values, float)}
        job = Job(function, inputs, len(values), deadline=loop.time() + timeout, waiter=done, **options)
        self.batcher.submit(job)
        return done

    async def held(self) -> None:
        """Returns once the engine is inside a call."""
        await asyncio.get_running_loop().run_in_executor(None, self.engine.entered.wait, 10)


def _complete(inputs, rows, initial):
    return inputs | {"1/0": initial["0"]} if initial else inputs


@asynccontextmanager
async def open_harness(queue: int = 100, inline_s: float = 0.0) -> AsyncIterator[Harness]:
    """By default every call runs in the thread, where it can be held."""
    with ThreadPoolExecutor(1) as executor:
        harness = Harness(executor, queue, inline_s)
        try:
            yield harness
        finally:
            harness.engine.go_on.set()
            await harness.batcher.close()


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """On the event loop of the real server, whose handles are not those of asyncio."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test())


async def settled() -> None:
    """Lets the event loop do all that can be done without the engine."""
    for _ in range(10):
        await asyncio.sleep(0)


def answers(result: Result) -> list[float]:
    return result.outputs["action"].tolist()


def test_idle_engine_takes_what_is_there_and_the_rest_goes_as_one_batch():
    async def test() -> None:
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

    run(test)


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


def test_batch_has_at_most_the_most_rows(monkeypatch):
    monkeypatch.setattr(batcher_module, "MOST_ROWS", 4)

    async def test() -> None:
        async with open_harness() as harness:
            harness.engine.go_on.clear()
            first = harness.submit(0)
            await harness.held()
            others = [harness.submit(1, 2, 3), harness.submit(4, 5, 6), harness.submit(7), harness.submit(*range(9))]
            harness.engine.go_on.set()
            await asyncio.gather(first, *others)
            assert harness.engine.calls == [1, 4, 3, 9]
            assert [len(answers(other.result())) for other in others] == [3, 3, 1, 9]

    run(test)


def test_whole_batch_runs_on_one_version():
    async def test() -> None:
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

    run(test)


def test_version_is_leased_as_long_as_its_batch_runs():
    async def test() -> None:
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

    run(test)


def test_functions_do_not_mix():
    async def test() -> None:
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

    run(test)


@pytest.mark.parametrize(
    ("prepare", "error", "says"),
    [
        (lambda engine: setattr(engine, "refuses_above", 10), DoesNotFit, "observation too large"),
        (lambda engine: setattr(engine, "fails_at", 99), EngineFailed, "RuntimeError"),
    ],
    ids=["refused input", "failing engine"],
)
def test_failing_job_fails_alone(prepare, error, says):
    async def test() -> None:
        async with open_harness() as harness:
            prepare(harness.engine)
            harness.engine.go_on.clear()
            first = harness.submit(1)
            await harness.held()
            good, bad, better = harness.submit(2), harness.submit(99), harness.submit(3)
            harness.engine.go_on.set()
            with pytest.raises(error, match=says):
                await bad
            assert [answers(await job) for job in (first, good, better)] == [[1], [2], [3]]
            # One call for all, then one for each.
            assert harness.engine.functions == ["action"] * 5

    run(test)


def test_failing_job_that_is_alone_fails_after_one_call():
    async def test() -> None:
        async with open_harness() as harness:
            harness.engine.fails_at = 99
            with pytest.raises(EngineFailed):
                await harness.submit(99)
            assert harness.engine.calls == [1]
            assert answers(await harness.submit(1)) == [1]

    run(test)


def test_fault_outside_the_engine_fails_its_batch_and_not_those_that_wait(monkeypatch):
    async def test() -> None:
        async with open_harness() as harness:
            monkeypatch.setattr(harness, "loaded", None)
            hapless = harness.submit(1.0)
            with pytest.raises(EngineFailed):
                await hapless
            harness.swap(10)
            assert answers(await harness.submit(2.0)) == [12.0]

    run(test)


def test_cancelled_job_is_dropped_before_its_batch():
    async def test() -> None:
        async with open_harness() as harness:
            harness.engine.go_on.clear()
            first = harness.submit(1)
            await harness.held()
            gone, stays = harness.submit(2), harness.submit(3)
            gone.cancel()
            harness.engine.go_on.set()
            assert [answers(await job) for job in (first, stays)] == [[1], [3]]
            assert harness.engine.calls == [1, 1]

    run(test)


def test_job_cancelled_while_its_batch_runs_harms_nobody():
    async def test() -> None:
        async with open_harness() as harness:
            harness.engine.go_on.clear()
            gone, stays = harness.submit(2), harness.submit(3)
            await harness.held()
            gone.cancel()
            harness.engine.go_on.set()
            assert answers(await stays) == [3]
            assert answers(await harness.submit(4)) == [4]

    run(test)


def test_job_past_its_deadline_is_never_computed():
    async def test() -> None:
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

    run(test)


def test_full_queue_refuses_and_has_room_again_afterwards():
    async def test() -> None:
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

    run(test)


def test_close_finishes_what_was_accepted_and_then_takes_nothing():
    async def test() -> None:
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

    run(test)


def test_close_without_work_returns_at_once():
    async def test() -> None:
        async with open_harness() as harness:
            await harness.batcher.close()
            with pytest.raises(NotReady):
                harness.submit(0)

    run(test)


def test_job_never_runs_on_older_weights_than_it_asks_for():
    async def test() -> None:
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

    run(test)


def test_initial_state_is_given_only_to_jobs_that_need_it():
    async def test() -> None:
        async with open_harness() as harness:
            harness.engine.state = 100.0
            assert answers(await harness.submit(1, 2, needs_state=True)) == [101, 102]
            assert answers(await harness.submit(1, 2)) == [1, 2]

    run(test)


def test_state_begins_from_the_version_that_runs_the_batch():
    async def test() -> None:
        async with open_harness() as harness:
            harness.engine.go_on.clear()
            first = harness.submit(0)
            await harness.held()
            waiting = harness.submit(0, needs_state=True)
            old = harness.engine
            harness.swap(1).state = 10.0
            old.go_on.set()
            await first
            assert answers(await waiting) == [11]

    run(test)


def test_initial_states_are_a_batch_of_their_own():
    async def test() -> None:
        async with open_harness() as harness:
            harness.engine.state = 3.0
            harness.engine.go_on.clear()
            first = harness.submit(0)
            await harness.held()
            states = [harness.submit(*range(rows), function=INITIAL_STATE) for rows in (1, 2)]
            last = harness.submit(4)
            harness.engine.go_on.set()
            assert [(await state).outputs["0"].tolist() for state in states] == [[3], [3, 3]]
            assert [answers(await job) for job in (first, last)] == [[0], [4]]
            assert harness.engine.calls == [1, 1]

    run(test)


def test_pause_waits_for_the_batch_that_runs_and_holds_what_waits_and_comes():
    async def test() -> None:
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

    run(test)


def test_pause_of_an_idle_policy_answers_at_once_and_resume_of_one_not_paused_changes_nothing():
    async def test() -> None:
        async with open_harness() as harness:
            harness.batcher.resume()
            assert harness.batcher.paused is None
            assert await harness.batcher.pause(Pause.WAIT) is harness.batcher.paused is Pause.WAIT
            assert 'policy_server_paused{policy="p"} 1.0' in harness.metrics.text().decode()
            harness.batcher.resume()
            assert 'policy_server_paused{policy="p"} 0.0' in harness.metrics.text().decode()
            assert answers(await harness.submit(1)) == [1]

    run(test)


def test_rejecting_pause_finishes_what_was_accepted_and_refuses_what_comes():
    async def test() -> None:
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

    run(test)


def test_pause_changes_its_mode():
    async def test() -> None:
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

    run(test)


def test_rejecting_twice_keeps_what_was_accepted():
    async def test() -> None:
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

    run(test)


def test_pause_overtaken_by_resume_tells_so():
    async def test() -> None:
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

    run(test)


def test_pause_that_is_given_up_stays_in_force_and_harms_no_batch():
    async def test() -> None:
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

    run(test)


def test_queue_stays_bounded_while_paused_and_drops_those_nobody_waits_for():
    async def test() -> None:
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

    run(test)


def test_held_job_past_its_deadline_is_never_computed():
    async def test() -> None:
        async with open_harness() as harness:
            await harness.batcher.pause(Pause.WAIT)
            late, in_time = harness.submit(1, timeout=0), harness.submit(2)
            harness.batcher.resume()
            with pytest.raises(DeadlinePassed):
                await late
            assert answers(await in_time) == [2]
            assert harness.engine.calls == [1]

    run(test)


def test_stopping_refuses_what_is_held_and_holds_nothing_more():
    async def test() -> None:
        async with open_harness() as harness:
            await harness.batcher.pause(Pause.WAIT)
            held = harness.submit(1)
            harness.batcher.stop_holding()
            for refused in (held, asyncio.create_task(harness.batcher.pause(Pause.WAIT))):
                with pytest.raises(NotReady, match="stopping"):
                    await refused
            with pytest.raises(NotReady, match="stopping"):
                harness.submit(2)

    run(test)


def test_stopping_finishes_what_a_rejecting_pause_had_accepted():
    async def test() -> None:
        async with open_harness() as harness:
            harness.engine.go_on.clear()
            jobs = [harness.submit(1)]
            await harness.held()
            jobs.append(harness.submit(2))
            pause = asyncio.create_task(harness.batcher.pause(Pause.REJECT))
            await settled()
            harness.batcher.stop_holding()
            harness.engine.go_on.set()
            await pause
            assert [answers(job.result()) for job in jobs] == [[1], [2]]

    run(test)


def test_stopping_holds_up_nobody_who_is_not_paused():
    async def test() -> None:
        async with open_harness() as harness:
            harness.batcher.stop_holding()
            assert answers(await harness.submit(1)) == [1]

    run(test)


def test_close_while_paused_refuses_what_is_held():
    async def test() -> None:
        async with open_harness() as harness:
            await harness.batcher.pause(Pause.WAIT)
            held = harness.submit(1)
            await harness.batcher.close()
            with pytest.raises(NotReady, match="stopping"):
                await held
            assert not harness.engine.calls

    run(test)


def test_rows_of_each_batch_are_counted():
    async def test() -> None:
        async with open_harness() as harness:
            await harness.submit(1, 2, 3)
            await harness.submit(1)
            text = harness.metrics.text().decode()
            assert 'policy_server_batch_rows_sum{policy="p"} 4.0' in text
            assert 'policy_server_batch_rows_count{policy="p"} 2.0' in text

    run(test)


def test_a_job_that_wants_to_be_alone_runs_in_calls_of_one_fixed_size():
    async def test() -> None:
        async with open_harness() as harness:
            harness.engine.go_on.clear()
            first = harness.submit(0.5)
            await harness.held()
            alone = harness.submit(*range(20), isolated=True)
            neighbours = [harness.submit(1), harness.submit(2)]
            harness.engine.go_on.set()
            assert answers(await alone) == list(range(20))
            await asyncio.gather(first, *neighbours)
            assert harness.engine.calls == [1, 16, 16, 2]

    run(test)


def threads_of(harness: Harness) -> list[str]:
    """Has the engine note the thread of each of its calls from now on."""
    threads: list[str] = []
    run_engine = harness.engine.run

    def noted(function, inputs):
        threads.append(threading.current_thread().name)
        return run_engine(function, inputs)

    harness.engine.run = noted
    return threads


def test_a_call_that_is_known_to_be_short_runs_on_the_event_loop():
    async def test() -> None:
        async with open_harness(inline_s=60.0) as harness:
            threads = threads_of(harness)
            for value in range(3):
                assert answers(await harness.submit(value)) == [value]
            assert threads[0] != threads[1] == threads[2] == threading.current_thread().name

    run(test)


def test_jobs_of_one_round_of_the_event_loop_are_one_batch():
    async def test() -> None:
        async with open_harness(inline_s=60.0) as harness:
            await harness.submit(0)
            jobs = [harness.submit(value) for value in range(5)]
            await asyncio.gather(*jobs)
            assert harness.engine.calls == [1, 5]
            assert [answers(job.result()) for job in jobs] == [[value] for value in range(5)]

    run(test)


def test_a_failing_job_of_a_batch_on_the_event_loop_fails_alone():
    async def test() -> None:
        async with open_harness(inline_s=60.0) as harness:
            await harness.submit(0)
            harness.engine.fails_at = 99
            good, bad = harness.submit(1), harness.submit(99)
            with pytest.raises(EngineFailed):
                await bad
            assert answers(await good) == [1]

    run(test)


def test_deadline_of_a_job_whose_batch_runs_is_told_while_it_runs():
    async def test() -> None:
        async with open_harness() as harness:
            harness.engine.go_on.clear()
            running, waiting = harness.submit(1, timeout=0.01), harness.submit(2, function="distribution", timeout=0.02)
            for job in (running, waiting):
                with pytest.raises(DeadlinePassed):
                    await job
            harness.engine.go_on.set()
            assert answers(await harness.submit(3)) == [3]
            assert harness.engine.functions == ["action", "action"]

    run(test)


def test_deadline_of_a_held_job_is_told_while_it_is_held():
    async def test() -> None:
        async with open_harness() as harness:
            later = harness.submit(1, timeout=60)
            await later
            await harness.batcher.pause(Pause.WAIT)
            patient, impatient = harness.submit(1, timeout=60), harness.submit(2, timeout=0.01)
            with pytest.raises(DeadlinePassed, match="policy p is paused"):
                await impatient
            harness.batcher.resume()
            assert answers(await patient) == [1]

    run(test)


def test_version_that_a_job_was_found_new_enough_for_is_the_one_that_runs_it():
    async def test() -> None:
        async with open_harness() as harness:
            harness.swap(5)
            job = harness.submit(0, min_train_step=5)
            await asyncio.sleep(0)  # its batch has begun
            harness.swap(4)
            assert (await job).version == "v5"

    run(test)


def test_what_requests_leave_out_is_added_once_for_a_batch_that_leaves_out_the_same():
    async def test() -> None:
        async with open_harness() as harness:
            harness.engine.state = 100.0
            harness.engine.go_on.clear()
            first = harness.submit(0)
            await harness.held()
            alike = [harness.submit(1, needs_state=True), harness.submit(2, 3, needs_state=True)]
            harness.engine.go_on.set()
            assert [answers(await job) for job in (first, *alike)] == [[0], [101], [102, 103]]
            harness.engine.go_on.clear()
            harness.engine.entered.clear()
            first = harness.submit(0)
            await harness.held()
            mixed = [harness.submit(1, needs_state=True), harness.submit(2)]
            harness.engine.go_on.set()
            assert [answers(await job) for job in (first, *mixed)] == [[0], [101], [2]]

    run(test)


def test_deadlines_that_are_due_at_once_among_later_ones():
    async def test() -> None:
        async with open_harness() as harness:
            await harness.batcher.pause(Pause.WAIT)
            patient = harness.submit(1, timeout=60)
            hasty = [harness.submit(value, timeout=timeout) for value in range(20) for timeout in (0.0, 0.001, -1.0)]
            for job in hasty:
                with pytest.raises(DeadlinePassed):
                    await job
            harness.batcher.resume()
            assert answers(await patient) == [1]

    run(test)


# Policies whose rows depend on each other


def depend(harness: Harness) -> None:
    harness.loaded = LoadedVersion(
        harness.engine, replace(harness.loaded.version, dependent_rows="its rows share what is drawn")
    )


def test_requests_of_a_policy_with_dependent_rows_share_no_call():
    async def test() -> None:
        async with open_harness() as harness:
            depend(harness)
            await harness.submit(0)
            harness.engine.go_on.clear()
            sizes = [1, 3, 1, 2, 5000, 1]
            submitted = [harness.submit(*range(size)) for size in sizes]
            await harness.held()
            harness.engine.go_on.set()
            for size, done in zip(sizes, submitted, strict=True):
                assert answers(await done) == list(range(size))
            assert harness.engine.calls == [1, *sizes]

    run(test)


def test_a_refused_input_names_the_fields_that_the_policy_takes():
    class Refusing(EchoEngine):
        def run(self, function, inputs):
            raise InputRefused("it is no number")

    async def test() -> None:
        async with open_harness() as harness:
            harness.loaded = LoadedVersion(Refusing(), VersionInfo("v0", "d0", 0))
            for fields in ("observation", "position, speed"):
                harness.batcher._parts = replace(harness.batcher._parts, fields=fields)
                for futures in ([harness.submit(1)], [harness.submit(1), harness.submit(2)]):
                    for future in futures:
                        with pytest.raises(DoesNotFit) as raised:
                            await future
                        [problem] = raised.value.problems
                        assert (problem.where, problem.problem) == (fields, "the policy refused it: it is no number")

    run(test)


def test_seeded_rows_that_depend_on_each_other_are_not_padded():
    async def test() -> None:
        async with open_harness() as harness:
            depend(harness)
            assert answers(await harness.submit(4, 5, 6, isolated=True, function="sample")) == [4, 5, 6]
            assert harness.engine.calls == [3]

    run(test)


def test_rows_are_kept_apart_from_the_first_batch_of_such_a_version_on():
    async def test() -> None:
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

    run(test)
