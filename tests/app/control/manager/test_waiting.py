"""Requests that wait for a train step."""

import asyncio
import contextlib

import pytest

from app.errors import TooOld
from tests.support.manager import open_harness, until


@pytest.mark.anyio
async def test_waiting_for_what_serves_already_is_over_at_once(tmp_path):
    async with open_harness(tmp_path, ("a", 5)) as harness:
        for step in (-1, 4, 5):
            await harness.manager.wait_for(step)


@pytest.mark.anyio
async def test_waiting_looks_for_newer_weights_itself(tmp_path):
    async with open_harness(tmp_path, ("a", 5)) as harness:
        harness.put("b", 7)
        await harness.manager.wait_for(6)
        assert harness.serves == ("b", 7)


@pytest.mark.anyio
async def test_waiting_ends_when_weights_that_are_new_enough_serve(tmp_path):
    async with open_harness(tmp_path, ("a", 5)) as harness:
        waiting = asyncio.create_task(harness.manager.wait_for(9))
        for step in (7, 8, 9):
            await asyncio.sleep(0.005)
            assert not waiting.done()
            harness.put(f"s{step}", step)
            await harness.manager.catch_up()
        await waiting
        assert harness.serves == ("s9", 9)


@pytest.mark.anyio
async def test_waiting_can_be_given_up(tmp_path):
    async with open_harness(tmp_path, ("a", 5)) as harness:
        waiting = asyncio.create_task(harness.manager.wait_for(9))
        await asyncio.sleep(0.005)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        harness.put("b", 9)
        await harness.manager.catch_up()
        assert harness.serves == ("b", 9)


@pytest.mark.anyio
async def test_swap_goes_on_when_the_one_who_waited_for_it_is_gone(tmp_path):
    async with open_harness(tmp_path) as harness:
        harness.put("a", 1)
        harness.builder.go_on.clear()
        waiting = asyncio.create_task(harness.manager.wait_for(1))
        await harness.preparing()
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        harness.builder.go_on.set()
        await until(lambda: harness.manager.active.name == "a")
        assert harness.serves == ("a", 1)


@pytest.mark.anyio
async def test_no_waiting_for_newer_weights_than_those_that_are_pinned(tmp_path):
    async with open_harness(tmp_path, ("a", 5), ("b", 7)) as harness:
        await harness.manager.reload("a")
        await harness.manager.wait_for(5)
        with pytest.raises(TooOld, match=r"version a \(train step 5\) is pinned, min_train_step is 6"):
            await harness.manager.wait_for(6)
