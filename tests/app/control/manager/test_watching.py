"""Swaps to what appears in a policy's folder."""

import shutil

import pytest

from app.control import scanner
from app.control.states import State
from tests.support.checkpoints import digest
from tests.support.manager import open_harness, until


@pytest.mark.anyio
async def test_catching_up_swaps_forwards_only(tmp_path):
    async with open_harness(tmp_path, ("b", 5)) as harness:
        harness.put("older", 4)
        await harness.manager.catch_up()
        assert harness.serves == ("b", 5)
        harness.put("newer", 6)
        await harness.manager.catch_up()
        assert harness.serves == ("newer", 6)
        shutil.rmtree(harness.checkpoints / "newer")
        await harness.manager.catch_up()
        assert harness.serves == ("newer", 6)


@pytest.mark.anyio
async def test_overwritten_checkpoint_is_a_new_version(tmp_path):
    async with open_harness(tmp_path, ("a", 5)) as harness:
        old = harness.manager.active
        harness.put("a", 4)
        await harness.manager.catch_up()
        assert harness.serves == ("a", 4)
        assert harness.manager.active.digest == digest(harness.checkpoints / "a") != old.digest
        await until(lambda: old.state is State.RELEASED)


@pytest.mark.anyio
async def test_refused_checkpoint_is_tried_once_and_again_when_its_bytes_change(tmp_path):
    async with open_harness(tmp_path, ("a", 1)) as harness:
        harness.put("b", 2, refuse="it holds NaN")
        for _ in range(3):
            await harness.manager.catch_up()
        assert harness.builder.prepared == ["a", "b"]
        harness.put("b", 2)
        await harness.manager.catch_up()
        assert harness.serves == ("b", 2)
        assert harness.counted("refused_versions_total") == 1


@pytest.mark.anyio
async def test_unreadable_checkpoint_is_listed_and_counted_once(tmp_path):
    async with open_harness(tmp_path, ("a", 1)) as harness:
        harness.put("b", 2, unreadable="its index is damaged")
        for _ in range(3):
            await harness.manager.catch_up()
        assert harness.reasons == {"b": "its index is damaged"}
        assert harness.counted("refused_versions_total") == 1


@pytest.mark.anyio
async def test_catching_up_says_when_another_look_is_worth_it(tmp_path):
    async with open_harness(tmp_path, ("a", 1)) as harness:
        assert await harness.manager.catch_up() is None
        harness.put("b", 2, incomplete="its files changed just now")
        assert await harness.manager.catch_up() == scanner.REST_S
        assert harness.serves == ("a", 1)
        harness.put("b", 2)
        assert await harness.manager.catch_up() is None
        assert harness.serves == ("b", 2)
