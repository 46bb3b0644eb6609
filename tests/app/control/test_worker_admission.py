"""A worker takes part in swaps from when it has loaded what serves, and a pause holds for those that come later."""

import asyncio

import pytest

from app.control.worker_admission import Admission
from app.errors import LinkLost, SwapRefused
from tests.support.swapping import NotingWorker, Swaps

pytestmark = pytest.mark.anyio


async def admitting() -> tuple[Swaps, Admission]:
    swaps = Swaps()
    await swaps.to("a")
    return swaps, Admission(swaps.swapper)


async def test_the_files_of_an_offer_stay_until_the_last_worker_has_loaded_them():
    _, admission = await admitting()
    with admission.offered() as (version, _, bundle):
        assert (version.name, bundle.digest) == ("a", "A")
        with admission.offered():
            assert admission.protected() == ["A"]
        assert admission.protected() == ["A"]
    assert admission.protected() == []


async def test_a_worker_that_fails_to_load_protects_nothing_any_more():
    _, admission = await admitting()
    with pytest.raises(LinkLost), admission.offered():
        raise LinkLost("gone")
    assert admission.protected() == []


async def test_a_worker_that_has_what_serves_is_admitted_as_it_is():
    swaps, admission = await admitting()
    worker = NotingWorker()
    await admission.admit(worker, ("a", "A"))
    assert worker.did == []
    await swaps.to("b")
    assert worker.did[:2] == ["prepare B", "activate b B"]


async def test_a_worker_that_is_behind_loads_what_serves_by_now():
    swaps, admission = await admitting()
    await swaps.to("b")
    worker = NotingWorker()
    await admission.admit(worker, ("a", "A"))
    assert worker.did == ["prepare B", "activate b B"]


async def test_other_bytes_under_the_same_name_are_loaded_too():
    _, admission = await admitting()
    worker = NotingWorker()
    await admission.admit(worker, ("a", "other"))
    assert worker.did == ["prepare A", "activate a A"]


async def test_a_worker_that_is_overtaken_while_it_loads_loads_again():
    swaps, admission = await admitting()
    await swaps.to("b")
    worker = NotingWorker()
    worker.gates["prepare"] = asyncio.Event()
    admitting_it = asyncio.create_task(admission.admit(worker, ("a", "A")))
    await asyncio.sleep(0)
    assert admission.protected() == ["B"]
    await swaps.to("c")
    worker.gates["prepare"].set()
    await admitting_it
    assert worker.did == ["prepare B", "activate b B", "prepare C", "activate c C"]
    assert admission.protected() == []


@pytest.mark.parametrize("error", [LinkLost("gone"), SwapRefused("too large")])
async def test_a_worker_that_cannot_load_what_serves_is_not_admitted(error):
    swaps, admission = await admitting()
    worker = NotingWorker()
    worker.errors["prepare"] = error
    with pytest.raises(type(error)):
        await admission.admit(worker, ("other", ""))
    await swaps.to("b")
    assert worker.did == ["prepare A"]


async def test_a_pause_holds_for_a_worker_that_comes_later_until_it_ends():
    swaps, admission = await admitting()
    assert await admission.pause("reject") == "reject"
    assert swaps.worker.did[-1] == "pause reject"
    paused, free = NotingWorker(), NotingWorker()
    await admission.admit(paused, ("a", "A"))
    assert paused.did == ["pause reject"]
    await admission.resume()
    assert paused.did[-1] == "resume"
    await admission.admit(free, ("a", "A"))
    assert free.did == []


async def test_a_pause_that_was_ended_while_batches_ran_is_not_in_force():
    swaps, admission = await admitting()
    swaps.worker.gates["pause"] = asyncio.Event()
    pausing = asyncio.create_task(admission.pause("wait"))
    await asyncio.sleep(0)
    await admission.resume()
    swaps.worker.gates["pause"].set()
    assert await pausing is None
