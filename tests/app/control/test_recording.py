"""The recorder of a server: what it is asked when it starts, and what goes on while there is none."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.artifacts.bundle import Graph
from app.control import recording
from app.control.recording import RecorderProcess
from app.errors import LinkLost
from app.metrics import Metrics
from app.rpc import child as child_module
from app.rpc.messages import ExperienceFigures, RecorderSettings
from app.settings import PolicyFolder, Settings
from tests.support.swapping import GRAPH

pytestmark = pytest.mark.anyio

FIGURES = {"a": ExperienceFigures(rows=7)}


class Child:
    """A recorder that notes what it is asked. `lost`: its process is gone."""

    def __init__(self, *started: Any) -> None:
        self.started = started
        self.calls: list[tuple[Any, ...]] = []
        self.lost = False
        self.link = self
        self.over: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def call(self, name: str, *about: Any) -> Any:
        if self.lost:
            raise LinkLost("gone")
        self.calls.append((name, *about))
        return FIGURES if name == "figures" else None

    def watch(self, name: str) -> None:
        self.calls.append(("is watched by", name))

    async def ended(self) -> str:
        return await asyncio.shield(self.over)

    async def end(self, patience_s: float = 0.0) -> None:
        pass


class Manager:
    """A policy that serves. `takes_time_step`: what it is asked are steps of episodes."""

    def __init__(self, takes_time_step: bool = True) -> None:
        self.admission = self
        self._graph = replace(GRAPH, spec=replace(GRAPH.spec, takes_time_step=takes_time_step))

    @contextmanager
    def offered(self) -> Iterator[tuple[None, Graph, None]]:
        yield None, self._graph, None


class Scenario:
    """A server whose policies a and c are open, of which c takes no steps; b cannot be opened for now."""

    def __init__(self, folder: Path) -> None:
        self.children: list[Child] = []
        self.managers: dict[str, Any] = {"a": Manager(), "c": Manager(takes_time_step=False)}
        self.metrics = Metrics()
        self.folder = folder / "sockets"
        self.experience = folder / "experience"
        named = tuple(PolicyFolder(name, folder / name) for name in "abc")
        self.settings = Settings(named, experience_dir=str(self.experience), log_format="json")
        self.recorder = RecorderProcess(self.settings, self.folder, self.managers, self.metrics)

    def opened(self, number: int = -1) -> list[str]:
        """The policies that a recorder was asked to record."""
        return [call[1] for call in self.children[number].calls if call[0] == "open_policy"]


@pytest.fixture
def scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scenario:
    scenario = Scenario(tmp_path)

    async def start(*started: Any, stalled_s: float) -> Child:
        assert stalled_s == scenario.settings.stalled_s
        scenario.children.append(Child(*started))
        return scenario.children[-1]

    monkeypatch.setattr(recording.Child, "start", start)
    monkeypatch.setattr(child_module, "_FIRST_PAUSE_S", 0.0)
    return scenario


async def test_it_records_the_open_policies_that_take_steps_and_is_watched_from_then_on(scenario: Scenario) -> None:
    await scenario.recorder.start()
    try:
        [child] = scenario.children
        assert child.started == ("app.experience.recorder", ("info", "json", str(scenario.folder)), {})
        (what, settings), *policies, watched = child.calls
        limits = scenario.settings.experience_bytes_limit, scenario.settings.experience_segment_bytes
        expected = RecorderSettings(scenario.experience, *limits, scenario.settings.experience_segment_s, 3)
        assert (what, settings) == ("open", expected)
        assert policies == [("open_policy", "a", GRAPH.spec)]
        assert watched == ("is watched by", "alive")
    finally:
        await scenario.recorder.keeper.close()


async def test_what_a_recorder_before_has_left_in_its_folder_is_gone_and_nobody_else_can_open_it(
    scenario: Scenario,
) -> None:
    scenario.folder.mkdir()
    (scenario.folder / "socket").write_text("left")
    await scenario.recorder.start()
    await scenario.recorder.keeper.close()
    assert list(scenario.folder.iterdir()) == []
    assert scenario.folder.stat().st_mode & 0o777 == 0o700


async def test_a_policy_that_is_opened_later_is_recorded_too(scenario: Scenario) -> None:
    await scenario.recorder.start()
    scenario.managers["b"] = Manager()
    await scenario.recorder.add("b")
    await scenario.recorder.add("c")
    await scenario.recorder.keeper.close()
    assert scenario.opened() == ["a", "b"]


async def test_before_it_has_started_nothing_is_recorded_and_nothing_fails(scenario: Scenario) -> None:
    await scenario.recorder.add("a")
    assert await scenario.recorder.figures() == {}


async def test_while_it_is_gone_there_are_no_figures_and_policies_can_be_opened(scenario: Scenario) -> None:
    await scenario.recorder.start()
    assert await scenario.recorder.figures() == FIGURES
    scenario.children[0].lost = True
    scenario.managers["b"] = Manager()
    await scenario.recorder.add("b")
    assert await scenario.recorder.figures() == {}
    await scenario.recorder.keeper.close()


async def test_one_that_ends_is_counted_and_replaced_by_one_that_records_what_is_open_by_then(
    scenario: Scenario,
) -> None:
    await scenario.recorder.start()
    scenario.managers["b"] = Manager()
    scenario.children[0].lost = True
    scenario.children[0].over.set_result("killed by SIGKILL")
    while await scenario.recorder.figures() != FIGURES or len(scenario.opened()) < 2:
        await asyncio.sleep(0)
    assert (scenario.opened(0), scenario.opened(1)) == (["a"], ["a", "b"])
    restarts = scenario.metrics.registry.get_sample_value("policy_server_restarts_total", {"process": "recorder"})
    assert restarts == 1
    await scenario.recorder.keeper.close()
