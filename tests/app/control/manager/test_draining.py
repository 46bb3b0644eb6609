"""Batches that run while versions change."""

import asyncio

import pytest

from tests.support.leases import leased
from tests.support.manager import open_harness, until


@pytest.mark.anyio
async def test_crash_of_the_builder_leaves_the_old_weights_serving_and_the_next_swap_goes_well(tmp_path):
    async with open_harness(tmp_path) as harness:
        harness.put("a", 1)
        harness.builder.crash = MemoryError("no room")
        with pytest.raises(MemoryError):
            await harness.manager.reload("a")
        assert (harness.serves, harness.manager.pinned) == (("export", 0), None)
        harness.builder.crash = None
        await harness.manager.reload("a")
        assert harness.serves == ("a", 1)


@pytest.mark.anyio
async def test_old_weights_serve_until_the_new_ones_are_ready(tmp_path):
    async with open_harness(tmp_path) as harness:
        harness.put("a", 1)
        harness.builder.entered.clear()
        harness.builder.go_on.clear()
        reload = asyncio.create_task(harness.manager.reload(None))
        await harness.preparing()
        assert harness.serves == ("export", 0)
        assert harness.states == {"a": "found", "export": "active"}
        harness.builder.go_on.set()
        await reload
        assert harness.serves == ("a", 1)


@pytest.mark.anyio
async def test_reload_answers_when_no_batch_runs_on_older_weights(tmp_path):
    async with open_harness(tmp_path, ("a", 1)) as harness:
        harness.put("b", 2)
        with leased(harness.loaded) as old:
            reload = asyncio.create_task(harness.manager.reload(None))
            await until(lambda: harness.loaded is not old and harness.manager.active.name == "b")
            assert harness.serves == ("b", 2)  # new batches run on it at once
            assert harness.states["a"] == "draining"
            await asyncio.sleep(0.01)
            assert not reload.done()
        await reload
        assert harness.states["a"] == "released"


@pytest.mark.anyio
async def test_no_swap_begins_while_a_batch_still_runs_on_the_version_before_the_last(tmp_path):
    async with open_harness(tmp_path, ("a", 1)) as harness:
        with leased(harness.loaded) as old:
            harness.put("b", 2)
            await harness.manager.catch_up()
            harness.put("c", 3)
            catching_up = asyncio.create_task(harness.manager.catch_up())
            await asyncio.sleep(0.01)
            assert harness.builder.prepared == ["a", "b"]
            assert old.engine.number == 1
        await catching_up
        assert harness.serves == ("c", 3)
