"""Where a version that is to serve comes from: what was prepared before, its files, another server, or the builder."""

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.artifacts.bundle import Bundle, Graph, Prepared
from app.artifacts.records import VersionRecord
from app.control.plan import Candidate
from app.control.prepare import OTHER_EXPORT, OTHER_SPECS, Preparing
from app.control.source import Scan
from app.control.state_dir import StateDir
from app.errors import SwapRefused, UnusablePolicy
from saver.artifact import write_checkpoint_manifest
from tests.support.swapping import GRAPH, Swaps

pytestmark = pytest.mark.anyio


class Builder:
    """A builder that notes what it is asked. `own_graph`: of a checkpoint that is an export; None: it needs none."""

    def __init__(self) -> None:
        self.did: list[tuple[Any, ...]] = []
        self.own_graph: Graph | Exception | None = None

    async def prepare(
        self, graph: Graph, source: Path | None, digest: str, destination: Path, recorded: Any, serving: Any
    ) -> Prepared:
        self.did.append(("prepare", source, digest, serving))
        destination.mkdir(parents=True, exist_ok=True)
        bundle = Bundle(destination, graph.digest, digest, 1, "fake", "", {})
        bundle.write()
        return Prepared(bundle)

    async def needs_own_graph(self, graph: Graph, folder: Path) -> bool:
        self.did.append(("needs_own_graph", folder))
        return self.own_graph is not None

    async def open(self, folder: Path, graphs: Path) -> Graph:
        if isinstance(self.own_graph, Exception):
            raise self.own_graph
        assert self.own_graph is not None
        return self.own_graph


class Scenario:
    """A state folder, an executor, and another server. `gives`: what it has; `refusal`: why it gives nothing."""

    def __init__(self, folder: Path, state_dir: StateDir, executor: ThreadPoolExecutor) -> None:
        self.folder, self.state_dir, self.builder, self.swaps = folder, state_dir, Builder(), Swaps()
        parts: Any = self.builder
        self.preparing = Preparing(parts, state_dir, self.swaps.swapper, executor)
        self.gives: dict[str, Graph | Bundle] = {}
        self.refusal = SwapRefused("no member gives it")
        self.asked: list[tuple[str, str]] = []

    async def fetch(self, kind: str, digest: str, place: Path) -> None:
        self.asked.append((kind, digest))
        if digest not in self.gives:
            raise self.refusal
        place.mkdir(parents=True)
        replace(self.gives[digest], folder=place).write()

    def put(self, name: str, export: bool = False) -> Candidate:
        """A checkpoint with a manifest."""
        folder = self.folder / name
        (folder / "variables").mkdir(parents=True)
        (folder / "variables" / "index").write_text(name)
        if export:
            (folder / "saved_model.pb").write_text("a graph")
        return Candidate(name, folder, name.upper(), write_checkpoint_manifest(folder, 1).train_step)

    def bundle(self, digest: str, graph: str = GRAPH.digest) -> Bundle:
        """A version that was prepared before."""
        bundle = Bundle(self.state_dir.place(digest), graph, digest, 1, "fake", "", {})
        bundle.folder.mkdir()
        bundle.write()
        return bundle

    def graph(self, digest: str, **more: Any) -> Graph:
        graph = replace(GRAPH, folder=self.state_dir.graphs / digest, digest=digest, **more)
        graph.folder.mkdir(parents=True)
        graph.write()
        return graph


@pytest.fixture
async def scenario(tmp_path: Path) -> AsyncIterator[Scenario]:
    with ThreadPoolExecutor(1) as executor, StateDir(tmp_path / "state").opened() as state_dir:
        yield Scenario(tmp_path, state_dir, executor)


OTHER = replace(GRAPH.spec, takes_time_step=False)


async def test_a_checkpoint_is_prepared_once_and_noted_beside_what_serves(scenario: Scenario) -> None:
    noted: list[str] = []

    async def note(bundle: Bundle) -> None:
        noted.append(bundle.digest)

    scenario.preparing.note = note
    a, b = scenario.put("a"), scenario.put("b")
    await scenario.preparing.checkpoint(GRAPH, a)
    await scenario.swaps.to("a")
    await scenario.preparing.checkpoint(GRAPH, b)
    found = await scenario.preparing.checkpoint(GRAPH, b)
    assert found.bundle.digest == "B"
    serving = scenario.swaps.swapper.offer()[1:]
    assert scenario.builder.did == [("prepare", a.folder, "A", None), ("prepare", b.folder, "B", serving)]
    assert noted == ["A", "B"]


async def test_a_checkpoint_whose_files_have_changed_since_it_was_prepared_is_refused(scenario: Scenario) -> None:
    a = scenario.put("a")
    scenario.bundle("A")
    await scenario.preparing.checkpoint(GRAPH, a)
    (a.folder / "variables" / "index").write_text("damaged")
    with pytest.raises(SwapRefused, match="variables/index"):
        await scenario.preparing.checkpoint(GRAPH, a)
    assert scenario.builder.did == []


async def test_what_was_prepared_for_another_graph_or_engine_is_prepared_anew(scenario: Scenario) -> None:
    scenario.bundle("A", graph="another")
    replace(scenario.bundle("B"), asked_for="litert").write()
    for name in "ab":
        await scenario.preparing.checkpoint(GRAPH, scenario.put(name))
    assert [done[2] for done in scenario.builder.did] == ["A", "B"]


async def test_a_checkpoint_without_a_graph_is_served_with_that_of_the_export(scenario: Scenario) -> None:
    scenario.builder.own_graph = AssertionError("nobody asks for it")
    assert await scenario.preparing.graph_for(GRAPH, scenario.put("a")) is GRAPH
    assert scenario.builder.did == []


async def test_an_export_that_differs_in_its_variables_alone_needs_no_graph_of_its_own(scenario: Scenario) -> None:
    assert await scenario.preparing.graph_for(GRAPH, scenario.put("a", export=True)) is GRAPH


@pytest.mark.parametrize("alike", [True, False])
async def test_an_export_that_was_prepared_before_is_served_with_the_graph_of_then_where_its_specs_are_the_same(
    scenario: Scenario, alike: bool
) -> None:
    own = scenario.graph("own") if alike else scenario.graph("own", spec=OTHER)
    scenario.bundle("A", graph="own")
    found = await scenario.preparing.graph_for(GRAPH, scenario.put("a", export=True))
    assert found == (own if alike else GRAPH)
    assert bool(scenario.builder.did) != alike


@pytest.mark.parametrize(
    ("own", "reason"),
    [(replace(GRAPH, digest="own", spec=OTHER), OTHER_SPECS), (UnusablePolicy("it has no action"), "it has no action")],
)
async def test_an_export_whose_own_graph_cannot_be_used_is_refused(scenario: Scenario, own: Any, reason: str) -> None:
    scenario.builder.own_graph = own
    with pytest.raises(SwapRefused, match=f"^{reason}$"):
        await scenario.preparing.graph_for(GRAPH, scenario.put("a", export=True))


async def test_a_version_is_fetched_with_its_graph_where_they_are_not_here(scenario: Scenario) -> None:
    scenario.preparing.fetch = scenario.fetch
    scenario.gives = {"g2": replace(GRAPH, digest="g2"), "A": Bundle(Path(), "g2", "A", 1, "fake", "", {})}
    for _ in range(2):
        await scenario.preparing.obtain(VersionRecord("a", "A", 1, "g2"), GRAPH)
    assert scenario.asked == [("graphs", "g2"), ("versions", "A")]


@pytest.mark.parametrize("graph", ["", GRAPH.digest])
async def test_of_a_version_with_the_graph_of_the_export_only_its_weights_are_fetched(
    scenario: Scenario, graph: str
) -> None:
    scenario.preparing.fetch = scenario.fetch
    scenario.gives = {"A": Bundle(Path(), GRAPH.digest, "A", 1, "fake", "", {})}
    await scenario.preparing.obtain(VersionRecord("a", "A", 1, graph), GRAPH)
    assert scenario.asked == [("versions", "A")]


async def test_a_server_of_no_fleet_fetches_nothing(scenario: Scenario) -> None:
    await scenario.preparing.obtain(VersionRecord("a", "A", 1, "g2"), GRAPH)


@pytest.mark.parametrize("here", [True, False])
async def test_a_version_of_an_export_with_other_specs_is_refused_and_not_fetched(
    scenario: Scenario, here: bool
) -> None:
    scenario.preparing.fetch = scenario.fetch
    if here:
        scenario.graph("g2", spec=OTHER)
    scenario.gives = {"g2": replace(GRAPH, digest="g2", spec=OTHER)}
    with pytest.raises(SwapRefused, match=f"^{OTHER_EXPORT}$"):
        await scenario.preparing.obtain(VersionRecord("a", "A", 1, "g2"), GRAPH)
    assert scenario.asked == ([] if here else [("graphs", "g2")])


async def test_a_graph_that_nobody_gives_refuses_a_version_and_weights_may_lie_in_the_folder_all_the_same(
    scenario: Scenario,
) -> None:
    scenario.preparing.fetch = scenario.fetch
    await scenario.preparing.obtain(VersionRecord("a", "A", 1), GRAPH)
    with pytest.raises(SwapRefused, match="no member gives it"):
        await scenario.preparing.obtain(VersionRecord("a", "A", 1, "g2"), GRAPH)
    scenario.refusal.no_room = True  # then older versions are deleted, and it is tried again
    with pytest.raises(SwapRefused):
        await scenario.preparing.obtain(VersionRecord("a", "A", 1), GRAPH)


async def test_a_version_that_served_before_comes_from_its_bundle_its_checkpoint_or_a_bundle_for_another_graph(
    scenario: Scenario,
) -> None:
    record, a = VersionRecord("a", "A", 1), scenario.put("a")
    other = replace(a, folder=scenario.folder / "other", digest="A2")  # other files under its name
    with pytest.raises(SwapRefused, match="it served before, and is gone"):
        await scenario.preparing.past(GRAPH, record, Scan([other]))
    place = scenario.bundle("A", graph="another").folder
    await scenario.preparing.past(GRAPH, record, Scan([other]))
    scenario.bundle("B")
    assert (await scenario.preparing.past(GRAPH, VersionRecord("b", "B", 1), Scan())).bundle.digest == "B"
    scenario.state_dir.forget("A")
    await scenario.preparing.past(GRAPH, record, Scan([other, a]))
    assert scenario.builder.did == [("prepare", place, "A", None), ("prepare", a.folder, "A", None)]


async def test_the_weights_of_the_export_are_prepared_once_from_its_graph(scenario: Scenario) -> None:
    for _ in range(2):
        assert (await scenario.preparing.export(GRAPH)).bundle.digest == GRAPH.digest
    assert scenario.builder.did == [("prepare", None, GRAPH.digest, None)]
