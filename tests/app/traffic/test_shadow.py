"""The queue of a shadow: what it takes, what it leaves, and that nobody waits for it."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop

from app.batching.rule import INITIAL_STATE, Job
from app.errors import EngineFailed, SwapRefused
from app.rpc.messages import ShadowFigures
from app.traffic import shadow as module
from app.traffic.load import LOOK_EVERY_S, Load
from app.traffic.shadow import MOST_BYTES, MOST_REQUESTS, MOST_ROWS, Shadow
from tests.app.traffic.shadows import WeightLoader, arm, loaded

pytestmark = pytest.mark.anyio
ACTIVE = loaded("weight 1.0")


def batch(*rows: int, function: str = "action") -> tuple[list[Job], list[Any]]:
    """Jobs of so many rows, with the answers of the active version."""
    jobs, outcomes = [], []
    for count in rows:
        inputs = {"0/observation": np.ones((count, 4), np.float32), "1/0": np.zeros(count, np.float32)}
        jobs.append(Job(function, inputs, count))
        outcomes.append(ACTIVE.engine.run(function, inputs))
    return jobs, outcomes


@pytest.fixture
def loader() -> WeightLoader:
    return WeightLoader()


@pytest.fixture
async def shadow(loader: WeightLoader, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shadow]:
    """One that is asked every request, in a process that has nothing else to do."""
    monkeypatch.setattr(Load, "at", lambda self, now: 0.0)
    monkeypatch.setattr(module, "COLLECT_S", 0.01)
    made = Shadow(arm("weight 1.00"), loader)
    await made.open()
    yield made
    made.close()
    if isinstance(made._round, asyncio.Future):  # it may have begun to ask just then
        await asyncio.wait({made._round})


async def figures(shadow: Shadow, answers: int) -> ShadowFigures:
    """What was found, once so many requests were compared."""
    found = ShadowFigures()
    while found.answers + found.failures < answers:
        await asyncio.sleep(0.001)
        found = found.joined(shadow.take_figures())
    return found


async def test_what_comes_within_a_moment_is_asked_together(shadow: Shadow, loader: WeightLoader) -> None:
    for _ in range(3):
        shadow.offer(ACTIVE, *batch(2, 1), now=0.0, waits=False)
    found = await figures(shadow, 6)
    assert (found.compared, found.agreed, found.skipped) == (9, 9, 0)
    assert loader.loaded["weight 1.00"].calls[0] == ("action", 9)
    shadow.offer(ACTIVE, *batch(1), now=0.0, waits=False)
    assert (await figures(shadow, 1)).compared == 1


async def test_the_thread_has_the_lowest_priority_and_the_event_loop_its_own(shadow: Shadow) -> None:
    def priority() -> str:
        return Path("/proc/thread-self/stat").read_text().rpartition(") ")[2].split()[16]

    assert await asyncio.get_running_loop().run_in_executor(shadow._executor, priority) == "19"
    assert priority() != "19"


async def test_nothing_is_taken_while_others_wait_or_the_process_is_busy(
    shadow: Shadow, monkeypatch: pytest.MonkeyPatch
) -> None:
    shadow.offer(ACTIVE, *batch(2, 3), now=0.0, waits=True)
    assert shadow.take_figures() == ShadowFigures(skipped=5)
    monkeypatch.setattr(Load, "at", lambda self, now: 0.76)
    shadow.offer(ACTIVE, *batch(2), now=0.0, waits=False)
    assert shadow.take_figures() == ShadowFigures(skipped=2)
    assert not shadow._waiting


@pytest.mark.parametrize(
    ("sent", "skipped"),
    [
        ([1] * (MOST_REQUESTS + 3), 3),
        ([MOST_ROWS - 1, 1, 1], 1),
        ([MOST_ROWS + 1], 0),  # one request may have more rows
        ([MOST_ROWS + 1, 1], 1),
        ([MOST_BYTES // 16], MOST_BYTES // 16),
    ],
)
async def test_what_waits_is_bounded_in_requests_rows_and_bytes(shadow: Shadow, sent: list[int], skipped: int) -> None:
    shadow.offer(ACTIVE, *batch(*sent), now=0.0, waits=False)
    assert shadow.take_figures().skipped == skipped
    assert sum(one.job.rows for one in shadow._waiting) == sum(sent) - skipped


async def test_states_errors_and_what_is_beyond_the_share_are_not_asked(shadow: Shadow) -> None:
    shadow.offer(ACTIVE, [Job(INITIAL_STATE, {}, 1)], [{"0": np.zeros(1)}], now=0.0, waits=False)
    shadow.offer(ACTIVE, batch(1)[0], [EngineFailed("it broke")], now=0.0, waits=False)
    shadow.share = 0.0
    shadow.offer(ACTIVE, *batch(1), now=0.0, waits=True)
    assert not shadow._waiting
    assert shadow.take_figures() == ShadowFigures()
    shadow.share = 0.25
    shadow.offer(ACTIVE, *batch(*[1] * 2000), now=0.0, waits=True)
    assert 380 < shadow.take_figures().skipped < 620


async def test_a_request_is_kept_without_its_connection(shadow: Shadow) -> None:
    jobs, outcomes = batch(1)
    jobs[0].waiter = asyncio.get_running_loop().create_future()
    shadow.offer(ACTIVE, jobs, outcomes, now=0.0, waits=False)
    assert shadow._waiting[0].job.waiter is not jobs[0].waiter
    assert shadow._waiting[0].job.inputs is jobs[0].inputs


async def test_a_shadow_that_cannot_be_loaded_is_refused(loader: WeightLoader) -> None:
    with pytest.raises(SwapRefused, match="gone cannot be loaded"):
        await Shadow(arm("gone"), loader).open()
    with pytest.raises(SwapRefused, match="it cannot be loaded: ValueError"):
        await Shadow(arm("weight none"), loader).open()


async def test_one_that_is_closed_asks_nothing_more(shadow: Shadow, loader: WeightLoader) -> None:
    shadow.offer(ACTIVE, *batch(1), now=0.0, waits=False)
    shadow.close()
    await asyncio.sleep(0.03)
    assert loader.loaded["weight 1.00"].calls == []


def test_the_load_is_what_the_process_works_but_for_the_thread_that_is_left_out() -> None:
    load = Load()
    over, started = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        while not over.is_set():
            sum(range(1000))

    thread = threading.Thread(target=work)
    thread.start()
    started.wait()
    assert thread.ident is not None
    load.leave_out(thread.ident)
    load.at(0.0)
    idle = [idle_for(load, second) for second in range(1, 11)]
    assert load.at(10.0 + LOOK_EVERY_S / 2) == idle[-1]  # not looked at so soon
    over.set()
    load.close()
    thread.join()
    assert min(idle) < 0.5
    # Whatever else the machine does: it counts to wait for a core. But nothing counts what is taken from the machine.
    assert any(busy_share() > 0.75 for _ in range(20))


def idle_for(load: Load, second: float) -> float:
    time.sleep(LOOK_EVERY_S / 4)
    return load.at(second)


def busy_share() -> float:
    load, until_s = Load(), time.perf_counter() + LOOK_EVERY_S
    while time.perf_counter() < until_s:
        sum(range(1000))
    share = load.at(1.0)
    load.close()
    return share


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_one_that_is_closed_at_any_moment_ends_in_silence(
    run: Any, loader: WeightLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvloop's handle of a call that is due later is none of asyncio's."""
    monkeypatch.setattr(Load, "at", lambda self, now: 0.0)
    monkeypatch.setattr(module, "COLLECT_S", 0.0)
    wrong: list[Any] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: wrong.append(context))
        for turns in range(4):
            shadow = Shadow(arm("weight 1.00"), loader)
            await shadow.open()
            shadow.offer(ACTIVE, *batch(1), now=0.0, waits=False)
            for _ in range(turns):
                await asyncio.sleep(0)
            shadow.close()
            for _ in range(20):
                await asyncio.sleep(0.001)

    run(main())
    assert wrong == []
