"""Several workers, which switch together."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.errors import SwapRefused
from tests.support.manager import LocalWorker, open_harness, until


@pytest.mark.anyio
async def test_all_workers_switch_and_none_before_all_are_ready(tmp_path):
    async with open_harness(tmp_path, ("a", 1)) as harness:
        other = await harness.admit()
        harness.put("b", 2)
        other.loader.go_on.clear()
        reload = asyncio.create_task(harness.manager.reload(None))
        await until(lambda: "prepare" in harness.worker.did)
        await asyncio.sleep(0.01)
        assert [worker.copies.active.version.name for worker in (harness.worker, other)] == ["a", "a"]
        other.loader.go_on.set()
        await reload
        assert [worker.copies.active.version.name for worker in (harness.worker, other)] == ["b", "b"]


@pytest.mark.anyio
async def test_version_that_one_worker_cannot_load_serves_on_none(tmp_path):
    async with open_harness(tmp_path, ("a", 1)) as harness:
        other = await harness.admit()
        other.loader.refusal = MemoryError("too large")
        harness.put("b", 2)
        with pytest.raises(SwapRefused, match="b is refused: it cannot be loaded: MemoryError: too large"):
            await harness.manager.reload("b")
        assert [worker.copies.active.version.name for worker in (harness.worker, other)] == ["a", "a"]
        assert harness.states == {"a": "active", "b": "refused"}
        other.loader.refusal = None
        await harness.manager.reload("b")
        assert [worker.copies.active.version.name for worker in (harness.worker, other)] == ["b", "b"]


@pytest.mark.anyio
@pytest.mark.parametrize("at", ["prepare", "activate", "drained"])
async def test_worker_that_ends_in_the_middle_of_a_swap_is_left_out(tmp_path, at):
    async with open_harness(tmp_path, ("a", 1)) as harness:
        other = await harness.admit()
        other.gone_at = at
        harness.put("b", 2)
        assert (await harness.manager.reload(None)).version == "b"
        assert harness.serves == ("b", 2)
        asked = len(other.did)
        await harness.manager.reload("a")
        assert len(other.did) == asked


@pytest.mark.anyio
async def test_worker_that_comes_back_gets_the_version_that_serves_by_then(tmp_path):
    async with open_harness(tmp_path, ("a", 1)) as harness:
        late = LocalWorker(harness.executor)
        with harness.manager.admission.offered() as (version, graph, bundle):
            for step in range(2, 12):  # more than are kept
                harness.put("b", step)
                await harness.manager.reload(None)
            assert bundle.folder.is_dir()
            await late.copies.load_first(version.name, graph, bundle)
            await harness.manager.admission.pause("wait")
            assert late.copies.active.version.name == "a"
            await harness.manager.admission.admit(late, version.key)
        await harness.manager.reload("export")
        assert not bundle.folder.exists()
        await harness.manager.reload("b")
        assert late.copies.active.version.name == "b"
        assert late.did[:3] == ["prepare", "activate", "pause wait"]


@pytest.mark.anyio
@pytest.mark.parametrize("moment", ["builder", "another worker", "activate"])
async def test_worker_is_admitted_in_the_middle_of_a_swap_and_ends_with_its_version(tmp_path, moment):
    async with open_harness(tmp_path, ("a", 1)) as harness:
        late, switching, switch = LocalWorker(harness.executor), asyncio.Event(), asyncio.Event()
        with harness.manager.admission.offered() as (version, graph, bundle):
            await late.copies.load_first(version.name, graph, bundle)
        executor = ThreadPoolExecutor(1)
        harness.worker.copies._executor = executor  # the one that is late can load meanwhile
        activate = harness.worker.activate

        async def activate_later(*key: str) -> None:
            switching.set()
            await switch.wait()
            await activate(*key)

        harness.worker.activate = activate_later
        if moment == "builder":
            harness.builder.go_on.clear()
        if moment == "another worker":
            harness.worker.loader.go_on.clear()
        harness.put("b", 2)
        reload = asyncio.create_task(harness.manager.reload(None))
        if moment == "builder":
            await until(harness.builder.entered.is_set)
        elif moment == "another worker":
            await until(lambda: "prepare" in harness.worker.did)
        else:
            await switching.wait()
        await asyncio.wait_for(harness.manager.admission.admit(late, version.key), 5)
        assert not reload.done()
        # Before the others are sure to switch, it runs what they run.
        assert late.copies.active.version.name == ("b" if moment == "activate" else "a")
        harness.builder.go_on.set()
        harness.worker.loader.go_on.set()
        switch.set()
        assert (await reload).version == "b"
        assert [worker.copies.active.version.name for worker in (harness.worker, late)] == ["b", "b"]
        executor.shutdown()


@pytest.mark.anyio
async def test_a_pause_is_one_of_all_workers(tmp_path):
    async with open_harness(tmp_path) as harness:
        other = await harness.admit()
        assert await harness.manager.admission.pause("reject") == "reject"
        await harness.manager.admission.resume()
        assert harness.worker.did == other.did == ["pause reject", "resume"]
