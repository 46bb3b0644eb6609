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
from app.batching.batcher import Batcher
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


class House:
    """A batcher over one version at a time, driven by hand."""

    def __init__(self, executor: ThreadPoolExecutor, queue: int, inline_s: float) -> None:
        self.engine = EchoEngine()
        self.loaded = LoadedVersion(self.engine, VersionInfo("v0", "d0", 0))
        self.leased: list[str] = []
        self.metrics = Metrics()
        self.batcher = Batcher("p", self._lease, _complete, executor, self.metrics.policy("p"), queue, inline_s)

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
async def open_house(queue: int = 100, inline_s: float = 0.0) -> AsyncIterator[House]:
    """By default every call runs in the thread, where it can be held."""
    with ThreadPoolExecutor(1) as executor:
        house = House(executor, queue, inline_s)
        try:
            yield house
        finally:
            house.engine.go_on.set()
            await house.batcher.close()


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
        async with open_house() as house:
            house.engine.go_on.clear()
            first = house.submit(1)
            await house.held()
            others = [house.submit(value, value + 0.5) for value in range(2, 12)]
            house.engine.go_on.set()
            assert answers(await first) == [1]
            for value, other in zip(range(2, 12), others, strict=True):
                assert answers(await other) == [value, value + 0.5]
            assert house.engine.calls == [1, 20]

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
        async with open_house() as house:
            for value in range(50):
                assert answers(await house.submit(value)) == [value]
            assert house.engine.calls == [1] * 50

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(test())
    assert delays
    assert min(delays) > 1


def test_batch_has_at_most_the_most_rows(monkeypatch):
    monkeypatch.setattr(batcher_module, "MOST_ROWS", 4)

    async def test() -> None:
        async with open_house() as house:
            house.engine.go_on.clear()
            first = house.submit(0)
            await house.held()
            others = [house.submit(1, 2, 3), house.submit(4, 5, 6), house.submit(7), house.submit(*range(9))]
            house.engine.go_on.set()
            await asyncio.gather(first, *others)
            assert house.engine.calls == [1, 4, 3, 9]
            assert [len(answers(other.result())) for other in others] == [3, 3, 1, 9]

    run(test)


def test_whole_batch_runs_on_one_version():
    async def test() -> None:
        async with open_house() as house:
            old = house.engine
            old.go_on.clear()
            early = [house.submit(0), house.submit(0)]
            await house.held()
            new = house.swap(7)
            late = [house.submit(0) for _ in range(3)]
            old.go_on.set()
            for job in early:
                result = await job
                assert (answers(result), result.version, result.train_step) == ([0], "v0", 0)
            for job in late:
                result = await job
                assert (answers(result), result.version, result.train_step) == ([7], "v7", 7)
            assert (old.calls, new.calls, house.leased) == ([2], [3], ["v0", "v7"])

    run(test)


def test_version_is_leased_as_long_as_its_batch_runs():
    async def test() -> None:
        async with open_house() as house:
            house.engine.go_on.clear()
            job = house.submit(0)
            await house.held()
            drained = asyncio.create_task(house.loaded.drained())
            await asyncio.sleep(0)
            assert not drained.done()
            house.engine.go_on.set()
            await job
            await drained

    run(test)


def test_functions_do_not_mix():
    async def test() -> None:
        async with open_house() as house:
            house.engine.go_on.clear()
            first = house.submit(0)
            await house.held()
            others = [house.submit(i, function="action" if i % 2 else "distribution") for i in range(6)]
            house.engine.go_on.set()
            await asyncio.gather(first, *others)
            assert house.engine.functions == ["action", "distribution", "action"]
            assert house.engine.calls == [1, 3, 3]
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
        async with open_house() as house:
            prepare(house.engine)
            house.engine.go_on.clear()
            first = house.submit(1)
            await house.held()
            good, bad, better = house.submit(2), house.submit(99), house.submit(3)
            house.engine.go_on.set()
            with pytest.raises(error, match=says):
                await bad
            assert [answers(await job) for job in (first, good, better)] == [[1], [2], [3]]
            # One call for all, then one for each.
            assert house.engine.functions == ["action"] * 5

    run(test)


def test_failing_job_that_is_alone_fails_after_one_call():
    async def test() -> None:
        async with open_house() as house:
            house.engine.fails_at = 99
            with pytest.raises(EngineFailed):
                await house.submit(99)
            assert house.engine.calls == [1]
            assert answers(await house.submit(1)) == [1]

    run(test)


def test_fault_outside_the_engine_fails_its_batch_and_not_those_that_wait(monkeypatch):
    async def test() -> None:
        async with open_house() as house:
            monkeypatch.setattr(house, "loaded", None)
            hapless = house.submit(1.0)
            with pytest.raises(EngineFailed):
                await hapless
            house.swap(10)
            assert answers(await house.submit(2.0)) == [12.0]

    run(test)


def test_cancelled_job_is_dropped_before_its_batch():
    async def test() -> None:
        async with open_house() as house:
            house.engine.go_on.clear()
            first = house.submit(1)
            await house.held()
            gone, stays = house.submit(2), house.submit(3)
            gone.cancel()
            house.engine.go_on.set()
            assert [answers(await job) for job in (first, stays)] == [[1], [3]]
            assert house.engine.calls == [1, 1]

    run(test)


def test_job_cancelled_while_its_batch_runs_harms_nobody():
    async def test() -> None:
        async with open_house() as house:
            house.engine.go_on.clear()
            gone, stays = house.submit(2), house.submit(3)
            await house.held()
            gone.cancel()
            house.engine.go_on.set()
            assert answers(await stays) == [3]
            assert answers(await house.submit(4)) == [4]

    run(test)


def test_job_past_its_deadline_is_never_computed():
    async def test() -> None:
        async with open_house() as house:
            house.engine.go_on.clear()
            first = house.submit(1)
            await house.held()
            late, in_time = house.submit(2, timeout=0), house.submit(3)
            house.engine.go_on.set()
            with pytest.raises(DeadlinePassed):
                await late
            assert [answers(await job) for job in (first, in_time)] == [[1], [3]]
            assert house.engine.calls == [1, 1]

    run(test)


def test_full_queue_refuses_and_has_room_again_afterwards():
    async def test() -> None:
        async with open_house(queue=2) as house:
            house.engine.go_on.clear()
            running = house.submit(0)
            await house.held()
            waiting = [house.submit(1), house.submit(2)]
            with pytest.raises(Overloaded, match="2 requests wait already"):
                house.submit(3)
            house.engine.go_on.set()
            await asyncio.gather(running, *waiting)
            assert answers(await house.submit(4)) == [4]

    run(test)


def test_close_finishes_what_was_accepted_and_then_takes_nothing():
    async def test() -> None:
        async with open_house() as house:
            house.engine.go_on.clear()
            accepted = [house.submit(0)]
            await house.held()
            accepted += [house.submit(1), house.submit(2, function="distribution")]
            closing = asyncio.create_task(house.batcher.close())
            await asyncio.sleep(0)
            with pytest.raises(NotReady, match="stopping"):
                house.submit(3)
            assert not closing.done()
            house.engine.go_on.set()
            await closing
            assert [answers(job.result()) for job in accepted] == [[0], [1], [2]]

    run(test)


def test_close_without_work_returns_at_once():
    async def test() -> None:
        async with open_house() as house:
            await house.batcher.close()
            with pytest.raises(NotReady):
                house.submit(0)

    run(test)


def test_job_never_runs_on_older_weights_than_it_asks_for():
    async def test() -> None:
        async with open_house() as house:
            house.swap(5)
            house.engine.go_on.clear()
            first = house.submit(0)
            await house.held()
            exact, too_new, any_age = (
                house.submit(0, min_train_step=5),
                house.submit(0, min_train_step=6),
                house.submit(0),
            )
            house.engine.go_on.set()
            with pytest.raises(TooOld, match="v5 has train step 5"):
                await too_new
            assert [answers(await job) for job in (first, exact, any_age)] == [[5], [5], [5]]
            assert house.engine.calls == [1, 2]

    run(test)


def test_initial_state_is_given_only_to_jobs_that_need_it():
    async def test() -> None:
        async with open_house() as house:
            house.engine.state = 100.0
            assert answers(await house.submit(1, 2, needs_state=True)) == [101, 102]
            assert answers(await house.submit(1, 2)) == [1, 2]

    run(test)


def test_state_begins_from_the_version_that_runs_the_batch():
    async def test() -> None:
        async with open_house() as house:
            house.engine.go_on.clear()
            first = house.submit(0)
            await house.held()
            waiting = house.submit(0, needs_state=True)
            old = house.engine
            house.swap(1).state = 10.0
            old.go_on.set()
            await first
            assert answers(await waiting) == [11]

    run(test)


def test_initial_states_are_a_batch_of_their_own():
    async def test() -> None:
        async with open_house() as house:
            house.engine.state = 3.0
            house.engine.go_on.clear()
            first = house.submit(0)
            await house.held()
            states = [house.submit(*range(rows), function=INITIAL_STATE) for rows in (1, 2)]
            last = house.submit(4)
            house.engine.go_on.set()
            assert [(await state).outputs["0"].tolist() for state in states] == [[3], [3, 3]]
            assert [answers(await job) for job in (first, last)] == [[0], [4]]
            assert house.engine.calls == [1, 1]

    run(test)


def test_pause_waits_for_the_batch_that_runs_and_holds_what_waits_and_comes():
    async def test() -> None:
        async with open_house() as house:
            house.engine.go_on.clear()
            running = house.submit(1)
            await house.held()
            waiting = house.submit(2)
            pause = asyncio.create_task(house.batcher.pause(Pause.WAIT))
            await settled()
            assert not pause.done()
            coming = house.submit(3, function=INITIAL_STATE)
            house.engine.go_on.set()
            assert await pause is Pause.WAIT
            assert running.done()
            coming_later = house.submit(4)
            await settled()
            assert not any(job.done() for job in (waiting, coming, coming_later))
            house.swap(10)
            house.batcher.resume()
            assert [answers(await job) for job in (waiting, coming_later)] == [[12], [14]]
            assert (await coming).version == "v10"
            assert house.leased == ["v0", "v10", "v10"]

    run(test)


def test_pause_of_an_idle_policy_answers_at_once_and_resume_of_one_not_paused_changes_nothing():
    async def test() -> None:
        async with open_house() as house:
            house.batcher.resume()
            assert house.batcher.paused is None
            assert await house.batcher.pause(Pause.WAIT) is house.batcher.paused is Pause.WAIT
            assert 'policy_server_paused{policy="p"} 1.0' in house.metrics.text().decode()
            house.batcher.resume()
            assert 'policy_server_paused{policy="p"} 0.0' in house.metrics.text().decode()
            assert answers(await house.submit(1)) == [1]

    run(test)


def test_rejecting_pause_finishes_what_was_accepted_and_refuses_what_comes():
    async def test() -> None:
        async with open_house() as house:
            house.engine.go_on.clear()
            running = house.submit(1)
            await house.held()
            waiting = house.submit(2)
            pause = asyncio.create_task(house.batcher.pause(Pause.REJECT))
            await settled()
            with pytest.raises(NotReady, match="policy p is paused"):
                house.submit(3)
            house.engine.go_on.set()
            assert await pause is Pause.REJECT
            assert [answers(job.result()) for job in (running, waiting)] == [[1], [2]]
            house.batcher.resume()
            assert answers(await house.submit(4)) == [4]

    run(test)


def test_pause_changes_its_mode():
    async def test() -> None:
        async with open_house() as house:
            await house.batcher.pause(Pause.WAIT)
            held = house.submit(1)
            assert await house.batcher.pause(Pause.REJECT) is Pause.REJECT
            with pytest.raises(NotReady, match="policy p is paused"):
                await held
            assert await house.batcher.pause(Pause.WAIT) is Pause.WAIT
            held = house.submit(2)
            assert await house.batcher.pause(Pause.WAIT) is Pause.WAIT
            house.batcher.resume()
            assert answers(await held) == [2]

    run(test)


def test_rejecting_twice_keeps_what_was_accepted():
    async def test() -> None:
        async with open_house() as house:
            house.engine.go_on.clear()
            running = house.submit(1)
            await house.held()
            waiting = house.submit(2)
            pauses = [asyncio.create_task(house.batcher.pause(Pause.REJECT)) for _ in range(2)]
            await settled()
            house.engine.go_on.set()
            await asyncio.gather(*pauses)
            assert [answers(job.result()) for job in (running, waiting)] == [[1], [2]]

    run(test)


def test_pause_overtaken_by_resume_tells_so():
    async def test() -> None:
        async with open_house() as house:
            house.engine.go_on.clear()
            running = house.submit(1)
            await house.held()
            pause = asyncio.create_task(house.batcher.pause(Pause.WAIT))
            await settled()
            house.batcher.resume()
            house.engine.go_on.set()
            assert await pause is None
            assert answers(await running) == [1]

    run(test)


def test_pause_that_is_given_up_stays_in_force_and_harms_no_batch():
    async def test() -> None:
        async with open_house() as house:
            house.engine.go_on.clear()
            running = house.submit(1)
            await house.held()
            pause = asyncio.create_task(house.batcher.pause(Pause.WAIT))
            await settled()
            pause.cancel()
            house.engine.go_on.set()
            assert answers(await running) == [1]
            held = house.submit(2)
            await settled()
            assert not held.done()
            house.batcher.resume()
            assert answers(await held) == [2]

    run(test)


def test_queue_stays_bounded_while_paused_and_drops_those_nobody_waits_for():
    async def test() -> None:
        async with open_house(queue=2) as house:
            await house.batcher.pause(Pause.WAIT)
            gone, stays = house.submit(1), house.submit(2)
            with pytest.raises(Overloaded):
                house.submit(3)
            gone.cancel()
            comes = house.submit(3)
            house.batcher.resume()
            assert [answers(await job) for job in (stays, comes)] == [[2], [3]]
            assert house.engine.calls == [2]

    run(test)


def test_held_job_past_its_deadline_is_never_computed():
    async def test() -> None:
        async with open_house() as house:
            await house.batcher.pause(Pause.WAIT)
            late, in_time = house.submit(1, timeout=0), house.submit(2)
            house.batcher.resume()
            with pytest.raises(DeadlinePassed):
                await late
            assert answers(await in_time) == [2]
            assert house.engine.calls == [1]

    run(test)


def test_stopping_refuses_what_is_held_and_holds_nothing_more():
    async def test() -> None:
        async with open_house() as house:
            await house.batcher.pause(Pause.WAIT)
            held = house.submit(1)
            house.batcher.stop_holding()
            for refused in (held, asyncio.create_task(house.batcher.pause(Pause.WAIT))):
                with pytest.raises(NotReady, match="stopping"):
                    await refused
            with pytest.raises(NotReady, match="stopping"):
                house.submit(2)

    run(test)


def test_stopping_finishes_what_a_rejecting_pause_had_accepted():
    async def test() -> None:
        async with open_house() as house:
            house.engine.go_on.clear()
            jobs = [house.submit(1)]
            await house.held()
            jobs.append(house.submit(2))
            pause = asyncio.create_task(house.batcher.pause(Pause.REJECT))
            await settled()
            house.batcher.stop_holding()
            house.engine.go_on.set()
            await pause
            assert [answers(job.result()) for job in jobs] == [[1], [2]]

    run(test)


def test_stopping_holds_up_nobody_who_is_not_paused():
    async def test() -> None:
        async with open_house() as house:
            house.batcher.stop_holding()
            assert answers(await house.submit(1)) == [1]

    run(test)


def test_close_while_paused_refuses_what_is_held():
    async def test() -> None:
        async with open_house() as house:
            await house.batcher.pause(Pause.WAIT)
            held = house.submit(1)
            await house.batcher.close()
            with pytest.raises(NotReady, match="stopping"):
                await held
            assert not house.engine.calls

    run(test)


def test_rows_of_each_batch_are_counted():
    async def test() -> None:
        async with open_house() as house:
            await house.submit(1, 2, 3)
            await house.submit(1)
            text = house.metrics.text().decode()
            assert 'policy_server_batch_rows_sum{policy="p"} 4.0' in text
            assert 'policy_server_batch_rows_count{policy="p"} 2.0' in text

    run(test)


def test_a_job_that_wants_to_be_alone_runs_in_calls_of_one_fixed_size():
    async def test() -> None:
        async with open_house() as house:
            house.engine.go_on.clear()
            first = house.submit(0.5)
            await house.held()
            alone = house.submit(*range(20), isolated=True)
            neighbours = [house.submit(1), house.submit(2)]
            house.engine.go_on.set()
            assert answers(await alone) == list(range(20))
            await asyncio.gather(first, *neighbours)
            assert house.engine.calls == [1, 16, 16, 2]

    run(test)


def threads_of(house: House) -> list[str]:
    """Has the engine note the thread of each of its calls from now on."""
    threads: list[str] = []
    run_engine = house.engine.run

    def noted(function, inputs):
        threads.append(threading.current_thread().name)
        return run_engine(function, inputs)

    house.engine.run = noted
    return threads


def test_a_call_that_is_known_to_be_short_runs_on_the_event_loop():
    async def test() -> None:
        async with open_house(inline_s=60.0) as house:
            threads = threads_of(house)
            for value in range(3):
                assert answers(await house.submit(value)) == [value]
            assert threads[0] != threads[1] == threads[2] == threading.current_thread().name

    run(test)


def test_jobs_of_one_round_of_the_event_loop_are_one_batch():
    async def test() -> None:
        async with open_house(inline_s=60.0) as house:
            await house.submit(0)
            jobs = [house.submit(value) for value in range(5)]
            await asyncio.gather(*jobs)
            assert house.engine.calls == [1, 5]
            assert [answers(job.result()) for job in jobs] == [[value] for value in range(5)]

    run(test)


def test_a_failing_job_of_a_batch_on_the_event_loop_fails_alone():
    async def test() -> None:
        async with open_house(inline_s=60.0) as house:
            await house.submit(0)
            house.engine.fails_at = 99
            good, bad = house.submit(1), house.submit(99)
            with pytest.raises(EngineFailed):
                await bad
            assert answers(await good) == [1]

    run(test)


def test_deadline_of_a_job_whose_batch_runs_is_told_while_it_runs():
    async def test() -> None:
        async with open_house() as house:
            house.engine.go_on.clear()
            running, waiting = house.submit(1, timeout=0.01), house.submit(2, function="distribution", timeout=0.02)
            for job in (running, waiting):
                with pytest.raises(DeadlinePassed):
                    await job
            house.engine.go_on.set()
            assert answers(await house.submit(3)) == [3]
            assert house.engine.functions == ["action", "action"]

    run(test)


def test_deadline_of_a_held_job_is_told_while_it_is_held():
    async def test() -> None:
        async with open_house() as house:
            later = house.submit(1, timeout=60)
            await later
            await house.batcher.pause(Pause.WAIT)
            patient, impatient = house.submit(1, timeout=60), house.submit(2, timeout=0.01)
            with pytest.raises(DeadlinePassed, match="policy p is paused"):
                await impatient
            house.batcher.resume()
            assert answers(await patient) == [1]

    run(test)


def test_version_that_a_job_was_found_new_enough_for_is_the_one_that_runs_it():
    async def test() -> None:
        async with open_house() as house:
            house.swap(5)
            job = house.submit(0, min_train_step=5)
            await asyncio.sleep(0)  # its batch has begun
            house.swap(4)
            assert (await job).version == "v5"

    run(test)


def test_what_requests_leave_out_is_added_once_for_a_batch_that_leaves_out_the_same():
    async def test() -> None:
        async with open_house() as house:
            house.engine.state = 100.0
            house.engine.go_on.clear()
            first = house.submit(0)
            await house.held()
            alike = [house.submit(1, needs_state=True), house.submit(2, 3, needs_state=True)]
            house.engine.go_on.set()
            assert [answers(await job) for job in (first, *alike)] == [[0], [101], [102, 103]]
            house.engine.go_on.clear()
            house.engine.entered.clear()
            first = house.submit(0)
            await house.held()
            mixed = [house.submit(1, needs_state=True), house.submit(2)]
            house.engine.go_on.set()
            assert [answers(await job) for job in (first, *mixed)] == [[0], [101], [2]]

    run(test)


def test_deadlines_that_are_due_at_once_among_later_ones():
    async def test() -> None:
        async with open_house() as house:
            await house.batcher.pause(Pause.WAIT)
            patient = house.submit(1, timeout=60)
            hasty = [house.submit(value, timeout=timeout) for value in range(20) for timeout in (0.0, 0.001, -1.0)]
            for job in hasty:
                with pytest.raises(DeadlinePassed):
                    await job
            house.batcher.resume()
            assert answers(await patient) == [1]

    run(test)


# Policies whose rows depend on each other


def depend(house: House) -> None:
    house.loaded = LoadedVersion(
        house.engine, replace(house.loaded.version, dependent_rows="its rows share what is drawn")
    )


def test_requests_of_a_policy_with_dependent_rows_share_no_call():
    async def test() -> None:
        async with open_house() as house:
            depend(house)
            await house.submit(0)
            house.engine.go_on.clear()
            sizes = [1, 3, 1, 2, 5000, 1]
            submitted = [house.submit(*range(size)) for size in sizes]
            await house.held()
            house.engine.go_on.set()
            for size, done in zip(sizes, submitted, strict=True):
                assert answers(await done) == list(range(size))
            assert house.engine.calls == [1, *sizes]

    run(test)


def test_a_refused_input_names_the_fields_that_the_policy_takes():
    class Refusing(EchoEngine):
        def run(self, function, inputs):
            raise InputRefused("it is no number")

    async def test() -> None:
        async with open_house() as house:
            house.loaded = LoadedVersion(Refusing(), VersionInfo("v0", "d0", 0))
            for fields in ("observation", "position, speed"):
                house.batcher._fields = fields
                for futures in ([house.submit(1)], [house.submit(1), house.submit(2)]):
                    for future in futures:
                        with pytest.raises(DoesNotFit) as raised:
                            await future
                        [problem] = raised.value.problems
                        assert (problem.where, problem.problem) == (fields, "the policy refused it: it is no number")

    run(test)


def test_seeded_rows_that_depend_on_each_other_are_not_padded():
    async def test() -> None:
        async with open_house() as house:
            depend(house)
            assert answers(await house.submit(4, 5, 6, isolated=True, function="sample")) == [4, 5, 6]
            assert house.engine.calls == [3]

    run(test)


def test_rows_are_kept_apart_from_the_first_batch_of_such_a_version_on():
    async def test() -> None:
        async with open_house() as house:
            old = house.engine
            old.go_on.clear()
            held = house.submit(1)
            await house.held()
            engine = house.swap(7)
            depend(house)
            waiting = [house.submit(2), house.submit(3, 4), house.submit(5)]
            old.go_on.set()
            assert answers(await held) == [1]
            assert [answers(await one) for one in waiting] == [[9], [10, 11], [12]]
            assert engine.calls == [1, 2, 1]
            await asyncio.gather(*[house.submit(value) for value in range(5)])
            assert engine.calls == [1, 2, 1, 1, 1, 1, 1, 1]
            after = house.swap(8)
            await house.submit(0)
            after.go_on.clear()
            one = house.submit(0)
            await house.held()
            others = [house.submit(value) for value in range(5)]
            after.go_on.set()
            await asyncio.gather(one, *others)
            assert after.calls == [1, 1, 5]

    run(test)
