"""Reloads, by name and of the newest version."""

import asyncio

import pytest

from app.control import manager, scanner
from app.errors import SwapRefused, UnknownVersion
from tests.support.manager import open_harness


@pytest.mark.anyio
async def test_reload_swaps_to_the_newest_and_returns_what_served_before(tmp_path):
    async with open_harness(tmp_path, ("a", 1)) as harness:
        harness.put("b", 2)
        harness.put("c", 3)
        swapped = await harness.manager.reload(None)
        assert (swapped.version, swapped.previous) == ("c", "a")
        assert swapped.took_ms > 0
        assert harness.serves == ("c", 3)
        assert harness.states == {"a": "released", "b": "found", "c": "active"}
        assert harness.loaded.version.metadata == {"name": harness.manager.active.digest}
        assert harness.counted("swaps_total") == 1
        assert harness.counted("train_step") == 3


@pytest.mark.anyio
async def test_reload_by_name_pins_and_reload_of_the_newest_unpins(tmp_path):
    async with open_harness(tmp_path, ("a", 1), ("b", 2)) as harness:
        await harness.manager.reload("a")
        assert (harness.serves, harness.manager.pinned) == (("a", 1), "a")
        harness.put("c", 3)
        assert await harness.manager.catch_up() is None
        assert harness.serves == ("a", 1)
        await harness.manager.reload(None)
        assert (harness.serves, harness.manager.pinned) == (("c", 3), None)
        harness.put("d", 4)
        await harness.manager.catch_up()
        assert harness.serves == ("d", 4)


@pytest.mark.anyio
async def test_reload_of_what_serves_changes_nothing(tmp_path):
    async with open_harness(tmp_path, ("a", 1)) as harness:
        engine, tried = harness.loaded.engine, harness.builder.prepared.copy()
        for name in (None, "a"):
            swapped = await harness.manager.reload(name)
            assert swapped.previous == swapped.version
            assert harness.loaded.engine is engine
        assert harness.builder.prepared == tried
        assert harness.manager.pinned == "a"


@pytest.mark.anyio
async def test_reload_by_name_may_go_back_to_older_weights(tmp_path):
    async with open_harness(tmp_path, ("a", 1), ("b", 2)) as harness:
        assert (await harness.manager.reload("a")).previous == "b"
        assert (await harness.manager.reload("b")).previous == "a"
        assert harness.serves == ("b", 2)


@pytest.mark.anyio
async def test_reload_of_an_unknown_name_lists_what_there_is(tmp_path):
    async with open_harness(tmp_path, ("a", 1), ("b", 2)) as harness:
        with pytest.raises(UnknownVersion, match=r"no checkpoint 'x'; the newest are: b, a"):
            await harness.manager.reload("x")
        assert (harness.serves, harness.manager.pinned) == (("b", 2), None)


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["bad", None])
async def test_refused_checkpoint_leaves_the_old_weights_serving(tmp_path, name):
    async with open_harness(tmp_path) as harness:
        harness.put("bad", 9, refuse="it holds NaN")
        engine = harness.loaded.engine
        with pytest.raises(SwapRefused, match="checkpoint bad is refused: it holds NaN"):
            await harness.manager.reload(name)
        assert (harness.serves, harness.manager.pinned) == (("export", 0), None)
        assert harness.loaded.engine is engine
        assert (harness.states["bad"], harness.reasons["bad"]) == ("refused", "it holds NaN")


@pytest.mark.anyio
async def test_refused_reload_keeps_the_pin(tmp_path):
    async with open_harness(tmp_path, ("a", 1), ("b", 2)) as harness:
        await harness.manager.reload("a")
        harness.put("bad", 9, refuse="it holds NaN")
        with pytest.raises(SwapRefused):
            await harness.manager.reload("bad")
        assert (harness.serves, harness.manager.pinned) == (("a", 1), "a")


@pytest.mark.anyio
async def test_reload_of_the_newest_falls_to_the_next_best_that_may_serve(tmp_path):
    async with open_harness(tmp_path, ("a", 1)) as harness:
        harness.put("bad", 9, refuse="it holds NaN")
        harness.put("b", 5)
        assert (await harness.manager.reload(None)).version == "b"
        assert harness.reasons == {"bad": "it holds NaN"}


@pytest.mark.anyio
async def test_unreadable_checkpoint_is_refused_by_name_with_its_reason(tmp_path):
    async with open_harness(tmp_path, ("a", 1)) as harness:
        harness.put("bad", 9, unreadable="its index is damaged")
        with pytest.raises(SwapRefused, match="checkpoint bad is refused: its index is damaged"):
            await harness.manager.reload("bad")
        assert harness.serves == ("a", 1)


@pytest.mark.anyio
async def test_explicit_reload_looks_afresh_at_what_was_refused(tmp_path):
    async with open_harness(tmp_path, ("a", 1)) as harness:
        harness.builder.crash = SwapRefused("the disk was full")
        harness.put("b", 2)
        await harness.manager.catch_up()
        await harness.manager.catch_up()
        assert harness.builder.prepared == ["a", "b"]  # watching does not try it a second time
        harness.builder.crash = None
        await harness.manager.reload("b")
        assert harness.serves == ("b", 2)
        assert harness.reasons == {}


@pytest.mark.anyio
async def test_reload_waits_for_a_checkpoint_that_is_still_being_written(tmp_path, monkeypatch):
    monkeypatch.setattr(scanner, "REST_S", 0.0)

    async with open_harness(tmp_path, ("a", 1)) as harness:
        harness.put("b", 2, incomplete="1 of 2 data files are there")
        reload = asyncio.create_task(harness.manager.reload("b"))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not reload.done()
        harness.put("b", 2)
        assert (await reload).version == "b"


@pytest.mark.anyio
async def test_checkpoint_that_stays_incomplete_is_refused_but_not_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(manager, "PATIENCE_S", 0.0)

    async with open_harness(tmp_path, ("a", 1)) as harness:
        harness.put("b", 2, incomplete="1 of 2 data files are there")
        with pytest.raises(SwapRefused, match="checkpoint b is incomplete: 1 of 2 data files are there"):
            await harness.manager.reload("b")
        assert "b" not in harness.states
        harness.put("b", 2)
        await harness.manager.reload("b")
        assert harness.serves == ("b", 2)


@pytest.mark.anyio
async def test_reload_of_the_newest_waits_for_a_newer_one_that_is_still_being_written(tmp_path, monkeypatch):
    monkeypatch.setattr(scanner, "REST_S", 0.0)

    async with open_harness(tmp_path, ("a", 1)) as harness:
        harness.put("b", 2, incomplete="its files changed just now")
        reload = asyncio.create_task(harness.manager.reload(None))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not reload.done()
        harness.put("b", 2)
        assert (await reload).version == "b"


@pytest.mark.anyio
async def test_checkpoint_that_nobody_writes_any_more_is_refused_without_waiting(tmp_path):
    async with open_harness(tmp_path, ("a", 1)) as harness:
        harness.put("b", 2, incomplete="1 of 2 data files are there", settled="yes")
        began = asyncio.get_running_loop().time()
        with pytest.raises(SwapRefused, match="checkpoint b is incomplete: 1 of 2 data files are there"):
            await harness.manager.reload("b")
        assert asyncio.get_running_loop().time() - began < manager.PATIENCE_S / 2
        assert await harness.manager.catch_up() is None  # and not worth another look


@pytest.mark.anyio
async def test_reload_of_the_newest_does_not_wait_for_a_checkpoint_that_nobody_writes_any_more(tmp_path):
    async with open_harness(tmp_path) as harness:
        harness.put("a", 1)
        harness.put("b", 2, incomplete="1 of 2 data files are there", settled="yes")
        swapped = await harness.manager.reload(None)
        assert swapped.version == "a"
        assert swapped.took_ms < 1000 * manager.PATIENCE_S


@pytest.mark.anyio
async def test_same_bytes_under_another_name_serve_under_the_name_that_was_asked_for(tmp_path):
    async with open_harness(tmp_path, ("a", 1)) as harness:
        harness.put("copy", 1)
        await harness.manager.catch_up()
        assert harness.serves == ("a", 1)  # for watching they are nothing new
        swapped = await harness.manager.reload("copy")
        assert (swapped.version, swapped.previous) == ("copy", "a")
