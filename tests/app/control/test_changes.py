"""Changes of a policy come one after the other, and each is finished whoever still waits for it."""

import asyncio
import time

import pytest

from app.control.changes import Changes
from app.errors import SwapRefused
from tests.support.swapping import Swaps

pytestmark = pytest.mark.anyio


async def changing() -> tuple[Swaps, Changes]:
    swaps = Swaps()
    await swaps.to("a")
    return swaps, Changes(swaps.swapper)


async def test_a_change_returns_what_serves_and_what_served_before():
    swaps, changes = await changing()

    async def change() -> None:
        await swaps.to("b", 7)

    began = time.perf_counter()
    found = await changes.make(change)
    assert (found.version, found.train_step, found.previous) == ("b", 7, "a")
    assert 0 < found.took_ms <= (time.perf_counter() - began) * 1000


async def test_a_change_returns_when_no_batch_runs_on_older_weights():
    swaps, changes = await changing()
    swaps.worker.gates["drained"] = asyncio.Event()

    async def change() -> None:
        await swaps.to("b")

    task = asyncio.create_task(changes.make(change))
    for _ in range(20):
        await asyncio.sleep(0)
    assert swaps.swapper.active.name == "b"
    assert not task.done()
    swaps.worker.gates["drained"].set()
    await task


async def test_changes_come_one_after_the_other():
    _, changes = await changing()
    running, most = 0, 0

    async def change() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    await asyncio.gather(*(changes.make(change) for _ in range(5)))
    assert most == 1


async def test_the_time_counts_from_when_a_change_was_asked_for():
    _, changes = await changing()

    async def change() -> None:
        pass

    async with changes.lock:
        found = await changes.make_locked(change, time.perf_counter() - 60)
    assert found.took_ms >= 60_000


async def test_a_change_that_nobody_waits_for_is_finished_before_it_closes():
    swaps, changes = await changing()
    go_on = asyncio.Event()

    async def change() -> None:
        await go_on.wait()
        await swaps.to("b")

    task = asyncio.create_task(changes.finish(changes.make(change)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    closing = asyncio.create_task(changes.close())
    await asyncio.sleep(0)
    assert not closing.done()
    go_on.set()
    await closing
    assert swaps.swapper.active.name == "b"


async def test_a_change_that_is_refused_lets_the_next_one_go_on():
    swaps, changes = await changing()

    async def refuse() -> None:
        raise SwapRefused("it holds NaN")

    async def change() -> None:
        await swaps.to("b")

    with pytest.raises(SwapRefused, match="it holds NaN"):
        await changes.make(refuse)
    assert (await changes.make(change)).previous == "a"
