"""A version is prepared, made ready, switched to and drained, in that order; a refusal leaves what serves."""

import asyncio
import logging

import pytest

from app.artifacts.bundle import RowSharing
from app.control.states import State
from app.control.worker_admission import Admission
from app.errors import FleetLost, SwapRefused
from app.fleet.commit import CommitProtocol
from tests.support.swapping import GRAPH, NotingWorker, Swaps

pytestmark = pytest.mark.anyio


async def test_a_version_is_made_ready_then_switched_to_then_the_one_before_drains():
    swaps = Swaps()
    old = await swaps.to("a", 1)
    assert swaps.worker.did == ["prepare A", "activate a A"]
    new = await swaps.to("b", 2)
    await swaps.swapper.drained()
    assert swaps.worker.did[2:] == ["prepare B", "activate b B", "drained"]
    assert (old.state, new.state) == (State.RELEASED, State.ACTIVE)
    assert swaps.swapper.active is new
    assert (swaps.counted("swaps_total"), swaps.counted("train_step")) == (1, 2)


async def test_nothing_serves_before_the_first_version():
    swaps = Swaps()
    assert not swaps.swapper.serves
    await swaps.to("a")
    assert swaps.swapper.serves


async def test_the_version_that_serves_is_not_prepared_again():
    swaps = Swaps()
    await swaps.to("a")
    done = list(swaps.worker.did)
    await swaps.to("a")
    assert swaps.worker.did == done


async def test_a_version_drains_before_it_is_wanted_again():
    swaps = Swaps()
    await swaps.to("a")
    swaps.worker.gates["drained"] = asyncio.Event()
    await swaps.to("b")
    assert swaps.version("a").state is State.DRAINING
    back = asyncio.create_task(swaps.to("a"))
    for _ in range(10):
        await asyncio.sleep(0)
    assert swaps.worker.did[-1] == "drained"
    swaps.worker.gates["drained"].set()
    await back
    assert swaps.swapper.active.name == "a"


async def test_a_worker_that_cannot_load_it_refuses_it_and_nothing_switches():
    swaps = Swaps()
    await swaps.to("a")
    swaps.worker.errors["prepare"] = SwapRefused("too large")
    with pytest.raises(SwapRefused, match="checkpoint b is refused: too large"):
        await swaps.to("b", stamp="its files")
    assert swaps.swapper.active.name == "a"
    assert "activate b B" not in swaps.worker.did
    refused = swaps.version("b")
    assert (refused.state, refused.reason) == (State.REFUSED, "too large")
    assert ("B", "its files") in swaps.history.refused()


async def test_what_is_refused_for_now_is_worth_another_try_with_the_same_files():
    swaps = Swaps()
    await swaps.to("a")
    swaps.worker.errors["prepare"] = SwapRefused("no memory", for_now=True)
    with pytest.raises(SwapRefused) as caught:
        await swaps.to("b", stamp="its files")
    assert caught.value.for_now
    assert ("B", "its files") not in swaps.history.refused()


async def test_while_it_is_prepared_a_worker_needs_what_serves_and_while_they_switch_the_next():
    swaps = Swaps()
    await swaps.to("a")
    wanted = []
    for call in ("prepare", "activate"):
        swaps.worker.gates[call] = asyncio.Event()
    swap = asyncio.create_task(swaps.to("b"))
    async with asyncio.timeout(10):
        for call in ("prepare", "activate"):
            while not swaps.worker.did[-1].startswith(f"{call} ") or not swaps.worker.did[-1].endswith("B"):
                await asyncio.sleep(0)
            wanted.append((swaps.swapper.wanted()[0].name, swaps.swapper.active.name))
            swaps.worker.gates[call].set()
        await swap
    assert wanted == [("a", "a"), ("b", "a")]
    assert swaps.swapper.wanted() is swaps.swapper.offer()


async def test_an_error_while_they_switch_leaves_no_next_version():
    swaps = Swaps()
    await swaps.to("a")
    swaps.worker.errors["activate"] = RuntimeError("a bug")
    with pytest.raises(RuntimeError):
        await swaps.to("b")
    assert swaps.swapper.wanted()[0].name == "a"


async def test_no_worker_switches_before_all_are_ready():
    swaps = Swaps()
    await swaps.to("a")
    slow = NotingWorker()
    slow.gates["prepare"] = asyncio.Event()
    swaps.swapper.workers.admit(slow)
    swap = asyncio.create_task(swaps.to("b"))
    for _ in range(10):
        await asyncio.sleep(0)
    assert swaps.worker.did[-1] == "prepare B"
    slow.gates["prepare"].set()
    await swap
    assert "activate b B" in swaps.worker.did
    assert slow.did[:2] == ["prepare B", "activate b B"]


class InFleet(CommitProtocol):
    """Commits each version at once. `while_held` runs meanwhile; `lost`: why not all are known to follow."""

    alone = False

    def __init__(self) -> None:
        self.lost: FleetLost | None = None
        self.agreed = 0

    async def while_held(self) -> None:
        pass

    async def held(self) -> None:
        await self.while_held()

    async def switched(self) -> None:
        if self.lost is not None:
            raise self.lost

    async def agree(self, served: object, pin: object, traffic: str) -> None:
        self.agreed += 1


async def test_a_worker_that_comes_while_all_hold_is_held_too_and_switches_with_them():
    swaps = Swaps()
    await swaps.to("a")
    swaps.swapper.protocol = fleet = InFleet()
    admission, late = Admission(swaps.swapper), NotingWorker()
    fleet.while_held = lambda: admission.admit(late, ("a", "A"))
    await swaps.to("b")
    assert late.did[:3] == ["hold", "prepare B", "activate b B"]
    after = NotingWorker()
    await admission.admit(after, ("b", "B"))
    assert after.did == []


async def test_a_worker_that_comes_while_the_others_switch_serves_what_they_do():
    swaps = Swaps()
    await swaps.to("a")
    swaps.swapper.protocol = fleet = InFleet()
    admission, late, latest = Admission(swaps.swapper), NotingWorker(), NotingWorker()
    late.gates["prepare"] = asyncio.Event()

    async def admitted() -> None:
        swaps.swapper.workers.admit(late)

    fleet.while_held = admitted
    swap = asyncio.create_task(swaps.to("b"))
    while late.did != ["prepare B"]:
        await asyncio.sleep(0)
    await admission.admit(latest, ("a", "A"))
    late.gates["prepare"].set()
    await swap
    assert late.did[:2] == ["prepare B", "activate b B"]
    assert latest.did[:2] == ["prepare B", "activate b B"]
    assert "hold" not in latest.did


async def test_what_the_fleet_has_committed_serves_though_a_late_worker_cannot_load_it():
    """It is not refused, or this server would stay behind the others."""
    swaps = Swaps()
    await swaps.to("a")
    swaps.swapper.protocol = fleet = InFleet()
    late = NotingWorker()
    late.errors["prepare"] = SwapRefused("no memory", True)

    async def admitted() -> None:
        swaps.swapper.workers.admit(late)

    fleet.while_held = admitted
    version = await swaps.to("b")
    assert (version.state, swaps.swapper.active) == (State.ACTIVE, version)
    assert late.did == ["prepare B", "kill"]


async def test_what_serves_though_not_all_are_known_to_follow_is_no_failure_of_the_swap():
    swaps = Swaps()
    await swaps.to("a")
    swaps.swapper.protocol = fleet = InFleet()
    fleet.lost = FleetLost("Redis is gone", True)
    assert (await swaps.to("b")).state is State.ACTIVE
    assert swaps.swapper.lost is fleet.lost


async def test_rows_that_depend_on_each_other_are_logged_once(caplog):
    swaps = Swaps()
    dependent = RowSharing("a batch has statistics of its own")
    with caplog.at_level(logging.WARNING, "policy_server.swap"):
        await swaps.to("a", sharing=dependent)
        await swaps.to("b", sharing=dependent)
    assert [record.message for record in caplog.records] == [
        "p: two requests do not share a call: a batch has statistics of its own"
    ]


async def test_probe_inputs_that_were_not_answered_are_logged(caplog):
    swaps = Swaps()
    probed = {"answered": 3, "asked": 4, "problems": ["input 2: NaN"]}
    with caplog.at_level(logging.WARNING, "policy_server.swap"):
        await swaps.to("a", probed=probed)
    assert [record.message for record in caplog.records] == ["p: a answers 3 of 4 probe inputs; input 2: NaN"]


async def test_the_train_step_and_the_engine_are_those_of_what_was_prepared():
    swaps = Swaps()
    version = swaps.version("a", -1)
    await swaps.to("a", 7)
    assert (version.train_step, version.engine) == (7, "fake")
    assert swaps.swapper.offer()[1] is GRAPH
