"""Reloads of the export, whose graph may be another one."""

import asyncio
import shutil
from dataclasses import replace

import pytest

from app.errors import SwapRefused, UnusablePolicy
from tests.support.leases import leased
from tests.support.manager import SPEC, open_harness


@pytest.mark.anyio
async def test_reload_of_the_export_serves_its_own_weights_and_pins(tmp_path):
    async with open_harness(tmp_path, ("a", 1)) as harness:
        swapped = await harness.manager.reload("export")
        assert (swapped.version, swapped.previous) == ("export", "a")
        assert (harness.serves, harness.manager.pinned) == (("export", 0), "export")
        await harness.manager.reload(None)
        assert harness.serves == ("a", 1)


@pytest.mark.anyio
async def test_reload_of_the_newest_serves_the_export_where_no_checkpoint_is_left(tmp_path):
    async with open_harness(tmp_path, ("a", 1)) as harness:
        shutil.rmtree(harness.checkpoints)
        await harness.manager.reload(None)
        assert (harness.serves, harness.manager.pinned) == (("export", 0), None)


@pytest.mark.anyio
async def test_export_can_be_asked_for_while_it_still_drains(tmp_path):
    async with open_harness(tmp_path) as harness:
        with leased(harness.loaded):
            harness.put("a", 1)
            await harness.manager.catch_up()
            assert harness.states == {"a": "active", "export": "draining"}
            reload = asyncio.create_task(harness.manager.reload("export"))
            await asyncio.sleep(0.01)
            assert not reload.done()
        assert (await reload).version == "export"
        assert harness.serves == ("export", 0)


@pytest.mark.anyio
async def test_new_graph_serves_its_own_weights_and_what_was_prepared_under_the_old_one_is_prepared_again(tmp_path):
    async with open_harness(tmp_path, ("a", 1)) as harness:
        assert not harness.manager.stale()
        first = harness.graph
        harness.replace_graph("another graph")
        harness.builder.train_step = 50
        assert harness.manager.stale()
        swapped = await harness.manager.reload_export()
        assert (swapped.version, swapped.previous) == ("export", "a")
        assert (harness.serves, harness.manager.pinned) == (("export", 50), "export")
        assert not harness.manager.stale()
        assert not first.folder.exists()
        await harness.manager.rollback()  # the weights of before, under the new graph
        assert harness.serves == ("a", 1)
        assert harness.graph.digest != first.digest
        assert harness.builder.prepared == ["a", "export", "a"]


@pytest.mark.anyio
async def test_there_is_no_way_back_to_the_weights_of_an_export_that_was_replaced(tmp_path):
    async with open_harness(tmp_path) as harness:
        harness.replace_graph("another graph")
        await harness.manager.reload_export()
        with pytest.raises(SwapRefused, match="no version served before export"):
            await harness.manager.rollback()


@pytest.mark.anyio
async def test_reloading_a_graph_that_has_not_changed_forgets_nothing(tmp_path):
    async with open_harness(tmp_path, ("a", 1), ("b", 2)) as harness:
        await harness.manager.reload("a")
        await harness.manager.reload_export()
        assert harness.serves == ("export", 0)
        await harness.manager.rollback()
        await harness.manager.rollback()
        assert harness.serves == ("b", 2)


@pytest.mark.anyio
async def test_graph_that_may_not_serve_changes_nothing(tmp_path):
    async with open_harness(tmp_path, ("a", 1)) as harness:
        harness.replace_graph("another graph")
        harness.builder.bad_graph = UnusablePolicy("it cannot be loaded")
        with pytest.raises(SwapRefused, match="it cannot be loaded"):
            await harness.manager.reload_export()
        assert (harness.serves, harness.manager.pinned) == (("a", 1), None)
        harness.put("b", 2)
        await harness.manager.catch_up()
        assert harness.serves == ("b", 2)


@pytest.mark.anyio
async def test_graph_with_other_specs_is_refused(tmp_path):
    async with open_harness(tmp_path, ("a", 1)) as harness:
        harness.replace_graph("another graph")
        harness.builder.spec = replace(SPEC, batch_size=3)
        with pytest.raises(SwapRefused, match="other specs: a server started anew can serve it"):
            await harness.manager.reload_export()
        assert (harness.serves, harness.manager.pinned) == (("a", 1), None)
