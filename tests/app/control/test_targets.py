"""Each kind of target serves with its own graph; without room, versions to roll back to make it."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from app.artifacts.bundle import Prepared
from app.artifacts.records import VersionRecord
from app.control.plan import Candidate, OwnWeights
from app.control.source import Scan
from app.control.states import State
from app.control.targets import Past, TargetSwapper
from app.errors import SwapRefused
from tests.support.swapping import GRAPH, Swaps, bundle

pytestmark = pytest.mark.anyio

OTHER = replace(GRAPH, digest="other", train_step=9)
A = Candidate("a", Path("a"), "A", 1, "the files of a")


class Preparing:
    """Prepares at once. `train_step`: of what is prepared; `errors`: what is raised instead, one after the other."""

    def __init__(self):
        self.did = []
        self.errors = []
        self.own_graph = None
        self.train_step = 1

    async def _prepared(self, *what):
        self.did.append(what)
        if self.errors:
            raise self.errors.pop(0)
        return Prepared(bundle("prepared", self.train_step))

    async def graph_for(self, graph, candidate):
        if isinstance(self.own_graph, Exception):
            raise self.own_graph
        return self.own_graph or graph

    async def checkpoint(self, graph, candidate):
        return await self._prepared("checkpoint", graph.digest, candidate.name)

    async def obtain(self, record, graph):
        pass

    async def past(self, graph, record, scan):
        return await self._prepared("past", graph.digest, record.name)

    async def export(self, graph):
        return await self._prepared("export", graph.digest)


class Export:
    def __init__(self):
        self.graph, self.fresh, self.watched = GRAPH, None, True
        self.refused, self.adopted = [], []

    def refuse(self, reason):
        self.refused.append(reason)

    def adopt(self, graph, watched):
        self.adopted.append((graph.digest, watched))


class Records:
    def __init__(self):
        self.spares = []
        self.forgotten = []

    def spare(self):
        return self.spares[0] if self.spares else None

    async def forget(self, record):
        self.spares.remove(record)
        self.forgotten.append(record.name)

    async def graph_of(self, record, graph):
        return OTHER if record.graph == "other" else graph


class Scenario:
    def __init__(self):
        self.swaps, self.preparing, self.export, self.records = Swaps(), Preparing(), Export(), Records()
        history, swapper = self.swaps.history, self.swaps.swapper
        self.targets = TargetSwapper("p", history, self.export, self.preparing, swapper, self.records)

    @property
    def serves(self):
        version, graph, _ = self.swaps.swapper.offer()
        return version.name, version.digest, graph.digest


async def test_a_checkpoint_serves_with_the_graph_of_the_export():
    scenario = Scenario()
    await scenario.targets.to(A)
    assert scenario.serves == ("a", "A", "graph")
    await scenario.targets.to(A)
    assert scenario.preparing.did == [("checkpoint", "graph", "a")]  # once


async def test_a_checkpoint_that_needs_a_graph_of_its_own_serves_with_that():
    scenario = Scenario()
    scenario.preparing.own_graph = OTHER
    await scenario.targets.to(A)
    assert scenario.serves == ("a", "A", "other")


@pytest.mark.parametrize("for_now", [False, True])
async def test_a_checkpoint_whose_graph_cannot_be_used_is_refused_by_name(for_now):
    scenario = Scenario()
    scenario.preparing.own_graph = SwapRefused("it has other specs", for_now)
    with pytest.raises(SwapRefused, match="checkpoint a is refused: it has other specs") as caught:
        await scenario.targets.to(A)
    assert caught.value.for_now == for_now
    [version] = scenario.swaps.history.all()
    assert (version.state, version.reason) == (State.REFUSED, "it has other specs")
    assert (("A", A.stamp) in scenario.swaps.history.refused()) != for_now


@pytest.mark.parametrize(("said", "found", "refused"), [(1, 2, True), (-1, 2, False), (2, 2, False)])
async def test_a_manifest_and_weights_of_different_train_steps_are_refused(said, found, refused):
    scenario = Scenario()
    scenario.preparing.train_step = found
    target = replace(A, train_step=said)
    if not refused:
        await scenario.targets.to(target)
        assert scenario.swaps.swapper.active.train_step == found
        return
    with pytest.raises(SwapRefused, match=r"checkpoint.json says train step 1, the weights say 2"):
        await scenario.targets.to(target)


def no_room():
    refusal = SwapRefused("no space left", for_now=True)
    refusal.no_room = True
    return refusal


async def test_without_room_the_oldest_versions_to_roll_back_to_are_deleted_until_there_is():
    scenario = Scenario()
    await scenario.swaps.to("z")
    scenario.records.spares = [VersionRecord(name, name, 0) for name in ("x", "y", "w")]
    scenario.preparing.errors = [no_room(), no_room()]
    await scenario.targets.to(A)
    assert scenario.serves[0] == "a"
    assert scenario.records.forgotten == ["x", "y"]


async def test_without_room_and_nothing_to_delete_it_is_refused_for_now():
    scenario = Scenario()
    await scenario.swaps.to("z")
    scenario.preparing.errors = [no_room()]
    with pytest.raises(SwapRefused, match="no space left") as caught:
        await scenario.targets.to(A)
    assert caught.value.for_now
    assert scenario.serves[0] == "z"


async def test_nothing_is_deleted_for_a_refusal_of_another_kind_or_before_anything_serves():
    scenario = Scenario()
    scenario.records.spares = [VersionRecord("x", "x", 0)]
    for serves, error in ((False, no_room()), (True, SwapRefused("it holds NaN"))):
        if serves:
            await scenario.swaps.to("z")
        scenario.preparing.errors = [error]
        with pytest.raises(SwapRefused):
            await scenario.targets.to(A)
    assert scenario.records.forgotten == []


async def test_a_version_that_served_before_comes_back_with_its_own_graph():
    scenario = Scenario()
    await scenario.targets.to(Past(VersionRecord("b", "B", 2, "other"), Scan()))
    assert scenario.serves == ("b", "B", "other")
    assert scenario.preparing.did == [("past", "other", "b")]


async def test_the_export_that_served_before_comes_from_its_graph():
    scenario = Scenario()
    await scenario.targets.to(Past(VersionRecord("export", "other", 9, "other"), Scan()))
    assert scenario.serves == ("export", "other", "other")
    assert scenario.preparing.did == [("export", "other")]


async def test_the_own_weights_of_what_was_saved_again_become_the_graph_once_they_serve():
    scenario = Scenario()
    scenario.export.fresh = OTHER
    await scenario.targets.to(OwnWeights("graph", 0))
    assert (scenario.serves, scenario.export.adopted) == (("export", "graph", "graph"), [])
    await scenario.targets.to(OwnWeights("other", 9))
    assert (scenario.serves, scenario.export.adopted) == (("export", "other", "other"), [("other", True)])


@pytest.mark.parametrize("for_now", [False, True])
async def test_what_was_saved_again_and_may_not_serve_is_not_tried_again_unless_the_machine_is_to_blame(for_now):
    scenario = Scenario()
    scenario.export.fresh = OTHER
    scenario.preparing.errors = [SwapRefused("it holds NaN", for_now)]
    with pytest.raises(SwapRefused):
        await scenario.targets.to(OwnWeights("other", 9))
    assert scenario.export.adopted == []
    assert len(scenario.export.refused) == (0 if for_now else 1)


async def test_a_checkpoint_that_still_drains_is_refused_only_afterwards():
    scenario = Scenario()
    await scenario.targets.to(A)
    scenario.swaps.worker.gates["drained"] = asyncio.Event()
    await scenario.swaps.to("b")
    scenario.preparing.own_graph = SwapRefused("its files have changed")
    refusing = asyncio.create_task(scenario.targets.to(A))
    for _ in range(10):
        await asyncio.sleep(0)
    assert scenario.swaps.version("a").state is State.DRAINING
    scenario.swaps.worker.gates["drained"].set()
    with pytest.raises(SwapRefused):
        await refusing
    assert scenario.swaps.version("a").state is State.REFUSED
