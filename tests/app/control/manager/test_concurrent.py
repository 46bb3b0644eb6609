"""Reloads and scans at the same time."""

import asyncio

import pytest

from app.control import history, manager, scanner
from app.errors import SwapRefused, UnknownVersion
from tests.support.manager import open_harness, until


@pytest.mark.anyio
async def test_concurrent_reloads_go_one_after_the_other(tmp_path):
    names = [f"s{step}" for step in range(1, 9)]
    async with open_harness(tmp_path, *((name, int(name[1:])) for name in names)) as harness:
        asked = [names[(3 * i) % 8] for i in range(16)]
        swaps = await asyncio.gather(*(harness.manager.reload(name) for name in asked))
        assert [swap.version for swap in swaps] == asked
        assert [swap.previous for swap in swaps] == ["s8", *asked[:-1]]
        assert harness.serves[0] == harness.manager.pinned == asked[-1]
        assert list(harness.states.values()).count("active") == 1
        assert "draining" not in harness.states.values()


@pytest.mark.anyio
async def test_reloads_between_refusals_and_catching_up_end_in_order(tmp_path):
    async with open_harness(tmp_path, ("a", 1), ("b", 2)) as harness:
        harness.put("bad", 9, refuse="it holds NaN")
        calls = [harness.manager.reload(name) for name in ("a", "bad", None, "x", "b")]
        results = await asyncio.gather(*calls, harness.manager.catch_up(), return_exceptions=True)
        assert [type(result) for result in results[:5] if isinstance(result, Exception)] == [
            SwapRefused,
            UnknownVersion,
        ]
        assert (harness.serves, harness.manager.pinned) == (("b", 2), "b")


@pytest.mark.anyio
@pytest.mark.parametrize("other", ["reload by name", "catching up", "roll-back"])
async def test_another_swap_goes_through_while_a_reload_waits_for_a_checkpoint_that_is_still_being_written(
    tmp_path, monkeypatch, other
):
    monkeypatch.setattr(manager, "PATIENCE_S", 1e6)
    monkeypatch.setattr(scanner, "REST_S", 0.001)

    async with open_harness(tmp_path, ("a", 1)) as harness:
        harness.put("b", 2)
        await harness.manager.catch_up()
        harness.put("late", 9, incomplete="1 of 2 data files are there")
        scans = harness.manager.scanner.scan_for
        scanned = []

        async def counting(name, afresh):
            scanned.append(name)
            return await scans(name, afresh)

        monkeypatch.setattr(harness.manager.scanner, "scan_for", counting)
        waiting = asyncio.create_task(harness.manager.reload("late"))
        try:
            async with asyncio.timeout(10):
                await until(lambda: len(scanned) > 1)
                if other == "reload by name":
                    assert (await harness.manager.reload("a")).version == "a"
                elif other == "catching up":
                    harness.put("c", 3)
                    await harness.manager.catch_up()
                    assert harness.serves == ("c", 3)
                else:
                    assert (await harness.manager.rollback()).version == "a"
            assert not waiting.done()
            before = harness.manager.active.name
        finally:
            harness.put("late", 9)  # or nothing would end
        swapped = await waiting
        assert (swapped.version, swapped.previous) == ("late", before)
        assert (harness.serves, harness.manager.pinned) == (("late", 9), "late")


@pytest.mark.anyio
async def test_few_of_the_versions_that_are_gone_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(history, "KEPT_VERSIONS", 3)

    async with open_harness(tmp_path) as harness:
        for step in range(1, 10):
            harness.put("latest", step)
            await harness.manager.catch_up()
        await harness.manager.catch_up()
        assert len(harness.manager.versions()) == 4
        assert harness.serves == ("latest", 9)
