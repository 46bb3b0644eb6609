"""Back to earlier versions, and pins: by hand over a fake builder, also after a restart."""

import asyncio
import shutil

import pytest

from app.errors import SwapRefused
from tests.support.manager import open_harness


@pytest.mark.anyio
async def test_rollback_goes_back_one_version_at_a_time_and_stays_there(tmp_path):
    async with open_harness(tmp_path / "p", ("a", 1)) as harness:
        for name, step in (("b", 2), ("c", 3)):
            harness.put(name, step)
            await harness.manager.catch_up()
        swapped = await harness.manager.rollback()
        assert (swapped.version, swapped.previous) == ("b", "c")
        assert (harness.serves, harness.manager.pinned) == (("b", 2), "b")
        harness.put("d", 4)
        await harness.manager.catch_up()
        assert harness.serves == ("b", 2)
        await harness.manager.rollback()
        assert (harness.serves, harness.manager.pinned) == (("a", 1), "a")
        with pytest.raises(SwapRefused, match="no version served before a"):
            await harness.manager.rollback()
        assert (harness.serves, harness.manager.pinned) == (("a", 1), "a")
        await harness.manager.reload(None)
        assert (harness.serves, harness.manager.pinned) == (("d", 4), None)
        await harness.manager.rollback()
        assert harness.serves == ("a", 1)


@pytest.mark.anyio
async def test_rollback_needs_no_folder_of_the_trainers(tmp_path):
    async with open_harness(tmp_path / "p", ("a", 1)) as harness:
        harness.put("b", 2)
        await harness.manager.catch_up()
        await harness.manager.close()
        shutil.rmtree(harness.checkpoints / "a")
        await harness.manager.rollback()
        assert harness.serves == ("a", 1)
        await harness.manager.catch_up()
        assert (harness.serves, harness.manager.pinned) == (("a", 1), "a")


@pytest.mark.anyio
async def test_rollback_to_the_export(tmp_path):
    async with open_harness(tmp_path / "p") as harness:
        harness.put("a", 1)
        await harness.manager.catch_up()
        await harness.manager.rollback()
        assert (harness.serves, harness.manager.pinned) == (("export", 0), "export")
        with pytest.raises(SwapRefused, match="no version served before export"):
            await harness.manager.rollback()


@pytest.mark.anyio
async def test_rollback_that_is_refused_changes_nothing(tmp_path):
    async with open_harness(tmp_path / "p", ("a", 1)) as harness:
        harness.put("b", 2)
        await harness.manager.catch_up()
        harness.worker.loader.refusal = SwapRefused("its disk is gone")
        with pytest.raises(SwapRefused, match="its disk is gone"):
            await harness.manager.rollback()
        assert (harness.serves, harness.manager.pinned) == (("b", 2), None)
        harness.worker.loader.refusal = None
        await harness.manager.rollback()
        assert harness.serves == ("a", 1)


@pytest.mark.anyio
async def test_the_last_five_versions_can_be_gone_back_to(tmp_path):
    async with open_harness(tmp_path / "p") as harness:
        for step in range(1, 10):
            harness.put(f"c{step}", step)
            await harness.manager.catch_up()
        await harness.manager.close()
        shutil.rmtree(harness.checkpoints)
        for step in (8, 7, 6, 5, 4):
            await harness.manager.rollback()
            assert harness.serves == (f"c{step}", step)
        with pytest.raises(SwapRefused, match="no version served before c4"):
            await harness.manager.rollback()


@pytest.mark.anyio
@pytest.mark.parametrize("gone", [False, True])
async def test_a_rollback_survives_a_restart(tmp_path, gone):
    async with open_harness(tmp_path / "p", ("a", 1), state=tmp_path / "state") as harness:
        harness.put("b", 2)
        await harness.manager.catch_up()
        await harness.manager.rollback()
    if gone:
        shutil.rmtree(harness.checkpoints / "a")
    async with open_harness(tmp_path / "p", state=tmp_path / "state") as harness:
        assert (harness.serves, harness.manager.pinned) == (("a", 1), "a")
        await harness.manager.reload(None)
        assert (harness.serves, harness.manager.pinned) == (("b", 2), None)
        await harness.manager.rollback()
        assert harness.serves == ("a", 1)


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["a", "export"])
async def test_a_pin_survives_a_restart(tmp_path, name):
    async with open_harness(tmp_path / "p", ("a", 1), ("b", 2), state=tmp_path / "state") as harness:
        await harness.manager.reload(name)
        served = harness.serves
    async with open_harness(tmp_path / "p", state=tmp_path / "state") as harness:
        assert (harness.serves, harness.manager.pinned) == (served, name)


@pytest.mark.anyio
async def test_a_pin_whose_checkpoint_is_gone_at_the_start_is_dropped(tmp_path, caplog):
    async with open_harness(tmp_path / "p", ("a", 1), ("b", 2), state=tmp_path / "state") as harness:
        await harness.manager.reload("a")
    shutil.rmtree(harness.checkpoints / "a")
    async with open_harness(tmp_path / "p", state=tmp_path / "state") as harness:
        assert (harness.serves, harness.manager.pinned) == (("b", 2), None)
    assert "pin on" in caplog.text


@pytest.mark.anyio
async def test_a_pin_that_cannot_be_resumed_is_dropped(tmp_path, caplog):
    async with open_harness(tmp_path / "p", ("a", 1), ("b", 2), state=tmp_path / "state") as harness:
        await harness.manager.reload("a")
    shutil.rmtree(tmp_path / "state" / "versions")
    harness.put("a", 1, refuse="it holds NaN")
    async with open_harness(tmp_path / "p", state=tmp_path / "state") as harness:
        assert (harness.serves, harness.manager.pinned) == (("b", 2), None)
    assert "the pin on a is dropped" in caplog.text


@pytest.mark.anyio
async def test_another_export_forgets_what_the_first_one_served(tmp_path):
    async with open_harness(tmp_path / "p", ("a", 1), ("b", 2), state=tmp_path / "state") as harness:
        await harness.manager.reload("a")
    harness.replace_graph("another export")
    async with open_harness(tmp_path / "p", state=tmp_path / "state") as harness:
        assert (harness.serves, harness.manager.pinned) == (("b", 2), None)


# Two at once: they are done in the order in which they were asked for


@pytest.mark.anyio
async def test_a_rollback_behind_a_reload_undoes_it(tmp_path):
    async with open_harness(tmp_path / "p", ("a", 1), ("b", 2)) as harness:
        reload, rollback = await asyncio.gather(harness.manager.reload("a"), harness.manager.rollback())
        assert (reload.previous, reload.version) == ("b", "a")
        assert (rollback.previous, rollback.version) == ("a", "b")
        assert (harness.serves, harness.manager.pinned) == (("b", 2), "b")


@pytest.mark.anyio
async def test_a_reload_behind_a_rollback_has_the_last_word(tmp_path):
    async with open_harness(tmp_path / "p", ("a", 1)) as harness:
        harness.put("b", 2)
        await harness.manager.catch_up()
        _, reload = await asyncio.gather(harness.manager.rollback(), harness.manager.reload(None))
        assert reload.version == "b"
        assert (harness.serves, harness.manager.pinned) == (("b", 2), None)
        await harness.manager.rollback()
        assert harness.serves == ("a", 1)


@pytest.mark.anyio
async def test_two_rollbacks_at_once_go_back_two_versions(tmp_path):
    async with open_harness(tmp_path / "p", ("a", 1)) as harness:
        for name, step in (("b", 2), ("c", 3)):
            harness.put(name, step)
            await harness.manager.catch_up()
        await asyncio.gather(harness.manager.rollback(), harness.manager.rollback())
        assert harness.serves == ("a", 1)


@pytest.mark.anyio
async def test_a_newer_checkpoint_that_comes_during_a_rollback_does_not_undo_it(tmp_path):
    async with open_harness(tmp_path / "p", ("a", 1)) as harness:
        harness.put("b", 2)
        await harness.manager.catch_up()
        loader = harness.worker.loader
        loader.go_on.clear()
        loader.entered.clear()
        back = asyncio.create_task(harness.manager.rollback())
        await asyncio.get_running_loop().run_in_executor(None, loader.entered.wait, 10)
        harness.put("c", 3)
        look = asyncio.create_task(harness.manager.catch_up())
        loader.go_on.set()
        await asyncio.gather(back, look)
        assert (harness.serves, harness.manager.pinned) == (("a", 1), "a")
