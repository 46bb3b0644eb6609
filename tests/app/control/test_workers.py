"""All workers of a policy are asked at once; one whose process is gone is left out of what follows."""

import asyncio

import pytest

from app.control.workers import Workers
from app.errors import LinkLost, SwapRefused
from tests.support.swapping import GRAPH, NotingWorker, bundle

pytestmark = pytest.mark.anyio


def three() -> tuple[Workers, list[NotingWorker]]:
    workers, each = Workers(), [NotingWorker() for _ in range(3)]
    for worker in each:
        workers.admit(worker)
    return workers, each


async def test_each_is_asked_for_everything():
    workers, each = three()
    await workers.activate("a", "A", await workers.prepare(GRAPH, bundle("a")))
    await workers.drained()
    await workers.pause("wait")
    await workers.resume()
    for worker in each:
        assert worker.did == ["prepare A", "activate a A", "drained", "pause wait", "resume"]


async def test_without_workers_there_is_nothing_to_wait_for():
    workers = Workers()
    await workers.prepare(GRAPH, bundle("a"))
    await workers.drained()
    assert await workers.recorded() == []


async def test_one_that_is_gone_is_left_out_and_the_others_go_on():
    workers, each = three()
    each[1].errors["prepare"] = LinkLost("gone")
    await workers.activate("a", "A", await workers.prepare(GRAPH, bundle("a")))
    assert [len(worker.did) for worker in each] == [2, 1, 2]


async def test_one_that_cannot_load_refuses_for_all_and_stays():
    workers, each = three()
    each[1].errors["prepare"] = SwapRefused("too large")
    with pytest.raises(SwapRefused, match="too large"):
        await workers.prepare(GRAPH, bundle("a"))
    assert all(worker.did == ["prepare A"] for worker in each)  # each was waited for
    await workers.resume()
    assert all(worker.did[-1] == "resume" for worker in each)


async def test_one_that_is_admitted_meanwhile_is_made_ready_too_and_no_other_twice():
    workers, each = three()
    each[0].gates["prepare"] = asyncio.Event()
    preparing = asyncio.create_task(workers.prepare(GRAPH, bundle("a")))
    await asyncio.sleep(0)
    late = NotingWorker()
    workers.admit(late)
    each[0].gates["prepare"].set()
    await preparing
    assert [worker.did for worker in (*each, late)] == [["prepare A"]] * 4


@pytest.mark.parametrize("error", [SwapRefused("no memory", True), LinkLost("gone"), RuntimeError("a bug")])
async def test_one_that_comes_late_and_cannot_load_what_counts_already_is_ended(error):
    workers, each = three()
    ready = await workers.prepare(GRAPH, bundle("a"))
    late, cannot = NotingWorker(), NotingWorker()
    cannot.errors["prepare"] = error
    workers.admit(late)
    workers.admit(cannot)
    ready = await workers.prepare_others(GRAPH, bundle("a"), ready)
    assert ready == [*each, late]
    await workers.activate("a", "A", ready)
    await workers.drained()
    assert late.did == ["prepare A", "activate a A", "drained"]
    assert cannot.did == ["prepare A", "kill"]


async def test_they_are_asked_at_once_and_the_slowest_is_waited_for():
    workers, each = three()
    each[0].gates["drained"] = asyncio.Event()
    draining = asyncio.create_task(workers.drained())
    for _ in range(10):
        await asyncio.sleep(0)
    assert [worker.did for worker in each] == [["drained"]] * 3
    assert not draining.done()
    each[0].gates["drained"].set()
    await draining


async def test_the_inputs_of_all_come_together():
    workers, each = three()
    each[0].inputs, each[2].inputs = [{"x": 1}], [{"x": 2}, {"x": 3}]
    each[1].errors["recorded"] = LinkLost("gone")
    assert await workers.recorded() == [{"x": 1}, {"x": 2}, {"x": 3}]
