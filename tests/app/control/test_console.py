"""What the console is sent: read once for all who ask, patched from update to update, and not at all for nobody."""

import asyncio
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from app.control import console as console_module
from app.control.console import Console
from app.control.console_view import Parts
from app.control.history import History
from app.control.states import State
from app.control.swap_log import SwapLog
from app.local_histogram import AnswerCounts
from app.metrics import Metrics
from app.rpc.messages import AdminCall, ConsoleUpdate, Spread, WorkerFigures
from app.settings import PolicyFolder, Settings
from app.wire.merge_patch import apply

pytestmark = pytest.mark.anyio


class Server:
    """The parts of a server with `policies` policies, of which the last is not open, and two workers."""

    def __init__(self, policies: int = 3, versions: int = 1, fleet: Any = None) -> None:
        self.metrics = Metrics()
        self.swaps = SwapLog()
        self.asked = 0
        self.figures: list[WorkerFigures] = []
        self.error: Exception | None = None
        names = [f"p{number}" for number in range(policies)]
        self.managers = {name: self._manager(name, versions) for name in names[:-1]}
        openings: Any = SimpleNamespace(managers=self.managers, failures={names[-1]: "/nowhere is no export"})
        running: Any = SimpleNamespace(figures=self._of_workers, count=2)
        settings = Settings(tuple(PolicyFolder(name, None) for name in names), workers=2)  # type: ignore[arg-type]
        parts = Parts(settings, openings, running, self.swaps, self.metrics, lambda: fleet)
        self.console = Console(parts)

    def _manager(self, name: str, versions: int) -> Any:
        history = History(name, self.metrics.policy(name), self.swaps.observe)
        for number in range(versions):
            version = history.version(f"{number:010d}", f"{number:064d}", number)
        version.want()
        for state in (State.LOADED, State.VERIFIED, State.ACTIVE):
            version.move(state)
        export = SimpleNamespace(fresh=None, reason="")
        admission = SimpleNamespace(paused=None)
        traffic = SimpleNamespace(has_report=False)
        kept = {"history": history, "export": export, "admission": admission, "traffic": traffic}
        return SimpleNamespace(active=version, pinned=None, **kept)

    async def _of_workers(self, spread: bool) -> list[WorkerFigures]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        figures, self.figures = self.figures, []
        points = {"p50": 1.0, "p90": 7.25, "max": 9.0}
        spreads = Spread({"p0": 5}, points, points) if spread else None
        return figures or [WorkerFigures({}, 5, 1, [], spreads), WorkerFigures({}, None, 2, [])]

    def swap(self, name: str) -> None:
        manager = self.managers[name]
        old, version = manager.active, manager.history.version("next", "digest", 1000)
        version.want()
        for state in (State.LOADED, State.VERIFIED, State.ACTIVE):
            version.move(state)
        manager.active = version
        old.move(State.DRAINING)
        old.move(State.RELEASED)


class Follower:
    """A worker that follows."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.updates: list[ConsoleUpdate] = []
        self.state: dict[str, Any] = {}

    async def follow(self) -> ConsoleUpdate:
        number = self.updates[-1].number if self.updates else -1
        update = await asyncio.wait_for(self._console.after(number), 60)
        self.updates.append(update)
        if update.state:
            self.state = orjson.loads(update.state)
        else:
            apply(self.state, orjson.loads(update.patch))
        return update


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_module, "_PERIOD_S", 0.05)
    monkeypatch.setattr(console_module, "_SHORTEST_S", 0.001)
    monkeypatch.setattr(console_module, "_IDLE_S", 0.1)
    monkeypatch.setattr(console_module, "_AGAIN_S", 0.01)
    monkeypatch.setattr(console_module, "EVERY_S", 0.0)


async def test_the_first_update_is_everything_and_the_next_is_what_has_changed() -> None:
    server = Server()
    one, other = Follower(server.console), Follower(server.console)
    await asyncio.gather(one.follow(), other.follow())
    assert one.state == other.state
    assert one.state["server"]["policies"] == ["p0", "p1", "p2"]
    assert (one.state["server"]["pages"], one.state["server"]["sessions"]) == (3, 5)
    assert one.state["server"]["sessions_spread"]["idle_s"] == {"p50": 1.0, "p90": 7.2, "max": 9.0}
    assert (one.state["policies"]["p0"]["sessions"], "sessions" in one.state["policies"]["p1"]) == (5, False)
    assert one.state["server"]["admin"] is False
    assert one.state["policies"]["p2"] == {"ready": False, "reason": "/nowhere is no export"}
    assert one.state["policies"]["p0"]["versions"][0]["state"] == "active"
    assert "fleet" not in one.state
    server.swap("p1")
    updates = await asyncio.gather(one.follow(), other.follow())
    assert updates[0] is not None
    assert [bool(update.state) for update in updates] == [False, False]
    patch = orjson.loads(updates[0].patch)
    assert set(patch) <= {"policies", "swaps", "server"}
    assert set(patch["policies"]) == {"p1"}
    assert one.state["policies"]["p1"]["version"] == "next"
    assert one.state == other.state
    (swap,) = patch["swaps"].values()
    assert (swap["policy"], swap["state"]) == ("p1", "done")
    await server.console.close()


async def test_workers_are_asked_once_for_all_who_follow_and_not_for_nobody() -> None:
    server = Server()
    followers = [Follower(server.console) for _ in range(10)]
    await asyncio.gather(*(follower.follow() for follower in followers))
    first = server.asked
    assert first <= 3
    tasks = [asyncio.create_task(follower.follow()) for follower in followers]
    while server.asked < first + 4:  # they wait: nothing has changed
        await asyncio.sleep(0.01)
    assert not any(task.done() for task in tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    while server.console._reading is not None:
        await asyncio.sleep(0.01)
    before = server.asked
    server.swap("p0")
    await asyncio.sleep(0.2)
    assert server.asked == before
    update = await followers[0].follow()  # what was known before the pause is of no use
    assert update.state
    assert followers[0].state["policies"]["p0"]["version"] == "next"
    await server.console.close()


async def test_who_has_missed_an_update_gets_everything() -> None:
    server = Server()
    slow, other = Follower(server.console), Follower(server.console)
    await asyncio.gather(slow.follow(), other.follow())
    for name in ("p0", "p1"):
        server.swap(name)
        assert not (await other.follow()).state
    assert (await slow.follow()).state
    assert slow.state == other.state
    await server.console.close()


async def test_figures_of_all_workers_are_added_up_and_calls_listed() -> None:
    server = Server()
    counts = AnswerCounts()
    counts.count({200: 90, 422: 10}, {20: 100})
    follower = Follower(server.console)
    await follower.follow()
    calls = [AdminCall(float(at), f"POST /admin/{at}", 200, 1.0) for at in range(15)]
    server.figures = [WorkerFigures({"p0": counts}, 3, 1, calls[::2]), WorkerFigures({"p0": counts}, 7, 0, calls[1::2])]
    while "p0" not in follower.state["rates"]:
        await follower.follow()
    rates = follower.state["rates"]["p0"]
    assert rates["answers_per_s"] == pytest.approx(10 * rates["errors_per_s"], rel=0.02)
    assert rates["p50_ms"] <= rates["p99_ms"]
    late = Follower(server.console)
    await late.follow()
    at, answers_per_s, *_ = late.state["history"]["p0"][0]
    assert (answers_per_s, type(at)) == (rates["answers_per_s"], float)
    samples = next(update.samples for update in follower.updates if update.samples)
    assert samples["p0"][0] == at
    assert follower.state["server"]["sessions"] == 7
    assert [call["at"] for call in follower.state["audit"]] == [float(at) for at in range(14, -1, -1)]
    await server.console.close()


async def test_an_error_is_no_end() -> None:
    server = Server()
    follower = Follower(server.console)
    await follower.follow()
    server.error = RuntimeError("once")
    asked = server.asked
    task = asyncio.create_task(follower.follow())
    while server.asked < asked + 3:
        await asyncio.sleep(0.01)
    server.error = None
    server.swap("p0")
    await task
    while follower.state["policies"]["p0"]["version"] != "next":
        await follower.follow()
    await server.console.close()


async def test_200_policies_make_a_large_state_and_small_patches() -> None:
    server = Server(policies=201, versions=3000 // 200)
    follower = Follower(server.console)
    update = await follower.follow()
    assert len(update.state) < 600_000
    server.swap("p7")
    patch = (await follower.follow()).patch
    assert len(patch) < 6_000
    counts = AnswerCounts()
    counts.count({200: 1000}, dict.fromkeys(range(20), 50))
    server.figures = [WorkerFigures({f"p{number}": counts for number in range(200)}, None, 1, [])]
    while not follower.state["rates"]:
        patch = (await follower.follow()).patch
    assert len(patch) < 20_000
    await server.console.close()


async def test_a_fleet_is_shown_as_this_server_knows_it() -> None:
    seen = {"name": "arms", "member": "a", "leased": True, "reaches": True, "members": []}
    server = Server(fleet=SimpleNamespace(seen=lambda: seen))
    follower = Follower(server.console)
    await follower.follow()
    assert follower.state["fleet"] == seen
    await server.console.close()
