"""What a fleet asks of one policy of this server: to serve what others commit, to find and reload, and to pause."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from app.artifacts.records import Pin, VersionRecord
from app.control.fleet_files import FleetFiles
from app.control.fleet_policy import FleetPolicy
from app.control.trial import SavedTraffic, Stopped
from app.errors import FleetLost, SwapRefused, Unauthorized, UnknownVersion
from app.fleet.commit import CommitProtocol
from app.fleet.follower import Following
from app.fleet.protocol import Committed, PolicyState
from app.fleet.store import Snapshot
from app.rpc.messages import Swapped
from tests.support.checkpoints import digest
from tests.support.manager import Harness, open_harness

pytestmark = pytest.mark.anyio


class Coordinator(CommitProtocol):
    """One that notes what it is asked to agree on. `lost`: why no pause can be; `unknown`: whether others follow."""

    def __init__(self, did: list[str]) -> None:
        self.did = did
        self.lost: Exception | None = None
        self.unknown: FleetLost | None = None
        self.agreed: list[str] = []

    async def switched(self) -> None:
        if self.unknown is not None:
            raise self.unknown

    async def agree(self, served: tuple[VersionRecord, ...], pin: Pin | None, traffic: str) -> None:
        self.agreed.append(f"{served[-1].name}, pin {pin.name if pin is not None else None}")

    async def pause(self, mode: str | None) -> None:
        if self.lost is not None:
            raise self.lost
        self.did.append(f"agree on {mode}")


class Member:
    """The part of this server in the agreement. `state`: what is agreed on; `live`: who holds a lease."""

    def __init__(self, did: list[str]) -> None:
        self.did = did
        self.state: PolicyState | None = None
        self.live = frozenset[str]()

    async def read(self) -> Snapshot:
        return Snapshot(b"", self.state, {}, self.live, 0)

    def note(self, **changes: object) -> None:
        pass

    async def report(self, to: str, **changes: int) -> None:
        self.did.append(f"report {', '.join(changes)} to {to}")


class Fleet:
    """The other servers. `newest`: what one of them has in its folder; `answer`: how its reload ends."""

    id, secret = "this", "the secret"

    def __init__(self) -> None:
        self.did: list[str] = []
        self.its_member, self.coordinator = Member(self.did), Coordinator(self.did)
        self.newest: int | None = None
        self.answer: dict[str, Any] | None = None

    def member(self, policy: str, active: Callable[[], str], most_records: int) -> tuple[Member, Coordinator]:
        return self.its_member, self.coordinator

    async def join(self, member: Member, host: FleetPolicy) -> None:
        assert member is self.its_member

    async def read_secret(self) -> None:
        pass

    def givers(self, policy: str) -> list[str]:
        return []

    async def ask_for_newest(self, path: str, name: str | None) -> tuple[str, int | None]:
        self.did.append(f"{path} {name}")
        return "http://other", self.newest

    async def ask_one(self, url: str, path: str, name: str | None) -> dict[str, Any] | None:
        self.did.append(f"{url}{path} {name}")
        return self.answer


class Scenario:
    """The policy of a member, whose checkpoints a and b have the train steps 1 and 2; b serves."""

    def __init__(self, harness: Harness) -> None:
        self.harness, self.fleet = harness, Fleet()
        parts: Any = self.fleet
        files = FleetFiles(parts, harness.manager, harness.state_dir, [], harness.executor)
        self.policy = FleetPolicy(parts, harness.manager, files)

    def record(self, name: str) -> VersionRecord:
        folder = self.harness.checkpoints / name
        return VersionRecord(name, digest(folder), {"a": 1, "b": 2}[name], self.harness.graph.digest)

    def committed(self, name: str, **more: Any) -> Committed:
        """What served elsewhere before is one that this server has never had."""
        return Committed(7, (VersionRecord("z", "elsewhere", 0), self.record(name)), **more)

    @property
    def pauses(self) -> list[str]:
        """The pauses and their ends that the worker was asked for."""
        return [call for call in self.harness.worker.did if call.startswith(("pause", "resume"))]


@asynccontextmanager
async def joined(folder: Path) -> AsyncIterator[Scenario]:
    async with open_harness(folder / "p", ("a", 1), ("b", 2)) as harness:
        scenario = Scenario(harness)
        await scenario.policy.join()
        yield scenario


async def test_only_those_that_take_part_and_hold_a_lease_are_members(tmp_path: Path) -> None:
    async with joined(tmp_path) as scenario:
        assert await scenario.policy.members() == 0
        member = scenario.fleet.its_member
        member.state = PolicyState(scenario.committed("a"), 7, frozenset({"this", "other", "gone"}))
        member.live = frozenset({"this", "other", "not yet"})
        assert await scenario.policy.members() == 2


@pytest.mark.parametrize("mode", ["wait", None])
async def test_a_pause_is_agreed_on_first_and_one_in_force_already_is_awaited_again(
    tmp_path: Path, mode: str | None
) -> None:
    async with joined(tmp_path) as scenario:
        for times in (1, 2):
            assert await scenario.policy.pause(mode) == mode
            assert scenario.fleet.did == [f"agree on {mode}"] * times
            assert scenario.pauses == ["resume" if mode is None else f"pause {mode}"] * times
        assert scenario.harness.manager.admission.paused == mode


async def test_a_pause_that_is_committed_is_in_force_here_though_not_all_are_known_to_follow(tmp_path: Path) -> None:
    async with joined(tmp_path) as scenario:
        scenario.fleet.coordinator.lost = FleetLost("Redis is gone", True)
        with pytest.raises(FleetLost):
            await scenario.policy.pause("reject")
        assert scenario.harness.manager.admission.paused == "reject"


async def test_what_the_fleet_cannot_agree_on_pauses_nothing_here(tmp_path: Path) -> None:
    async with joined(tmp_path) as scenario:
        scenario.fleet.coordinator.lost = FleetLost("Redis is gone")
        with pytest.raises(FleetLost):
            await scenario.policy.pause("reject")
        assert (scenario.pauses, scenario.harness.manager.admission.paused) == ([], None)


async def test_what_is_committed_is_recorded_though_not_all_are_known_to_follow(tmp_path: Path) -> None:
    """Whoever asked is refused, and may ask again; a restart and a roll-back know what serves."""
    async with joined(tmp_path) as scenario:
        manager, coordinator = scenario.harness.manager, scenario.fleet.coordinator
        graph = scenario.harness.graph
        coordinator.unknown = FleetLost("Redis is gone", True)
        for change, names, pin in (
            (lambda: manager.reload("a"), ["b", "a"], "a"),
            (manager.rollback, ["b"], "b"),
            (lambda: manager.reload("a"), ["b", "a"], "a"),
        ):
            with pytest.raises(FleetLost, match="Redis is gone"):
                await change()
            saved = scenario.harness.state_dir.load(graph.digest, graph)
            assert [record.name for record in saved.served] == names
            assert saved.pin is not None
            assert saved.pin.name == pin
            assert manager.active.name == names[-1]
        assert coordinator.agreed == []
        coordinator.unknown = None
        await manager.reload("a")
        assert coordinator.agreed == ["a, pin a"]


async def test_what_was_committed_is_served_with_its_pin_and_what_served_before(tmp_path: Path) -> None:
    async with joined(tmp_path) as scenario:
        committed = scenario.committed("a", pin=Pin("a"))
        await scenario.policy.serve(committed)
        assert scenario.harness.serves == ("a", 1)
        assert scenario.policy.serving() == (committed.served, Pin("a"))
        graph = scenario.harness.graph.digest
        assert scenario.harness.state_dir.load(graph).served == committed.served  # for a restart


async def test_what_was_committed_pauses_only_where_the_mode_differs(tmp_path: Path) -> None:
    async with joined(tmp_path) as scenario:
        for paused in (None, "wait", "wait", "reject", None):
            await scenario.policy.serve(scenario.committed("b", paused=paused))
        assert scenario.pauses == ["pause wait", "pause reject", "resume"]


async def test_what_cannot_be_served_is_not_recorded_as_served(tmp_path: Path) -> None:
    async with joined(tmp_path) as scenario:
        before = scenario.policy.serving()
        scenario.harness.worker.loader.refusal = SwapRefused("no memory")
        with pytest.raises(SwapRefused, match="checkpoint a is refused: no memory"):
            await scenario.policy.serve(scenario.committed("a", pin=Pin("a"), paused="wait"))
        assert (scenario.policy.serving(), scenario.pauses) == (before, [])


@pytest.mark.parametrize("name", ["a", "b"])
async def test_a_swap_of_another_server_is_reported_prepared_and_held_once_though_it_serves_already(
    tmp_path: Path, name: str
) -> None:
    async with joined(tmp_path) as scenario:
        member: Any = scenario.fleet.its_member
        following = Following(member, 7, "coordinator")
        following.commit(scenario.committed(name, pin=Pin("elsewhere")))
        await scenario.policy.follow(scenario.record(name), following)
        assert scenario.fleet.did == ["report prepared to coordinator", "report held to coordinator"]
        assert scenario.harness.serves[0] == name
        assert scenario.policy.serving()[1] == Pin("elsewhere")
        assert scenario.harness.manager.targets.swapper.protocol is scenario.fleet.coordinator


async def test_a_swap_that_its_coordinator_gives_up_changes_nothing(tmp_path: Path) -> None:
    async with joined(tmp_path) as scenario:
        before, member = scenario.policy.serving(), scenario.fleet.its_member
        following = Following(member, 7, "coordinator")  # type: ignore[arg-type]
        following.give_up()
        with pytest.raises(SwapRefused, match="the member that had the fleet prepare it gave it up"):
            await scenario.policy.follow(scenario.record("a"), following)
        assert (scenario.policy.serving(), scenario.harness.serves) == (before, ("b", 2))


async def test_the_train_step_of_what_lies_here_is_found_and_what_is_incomplete_is_there_without_one(
    tmp_path: Path,
) -> None:
    async with joined(tmp_path) as scenario:
        scenario.harness.put("half", 9, incomplete="variables are missing", settled="yes")
        found = [await scenario.policy.find(name) for name in (None, "a", "half", "nothing")]
        assert found == [2, 1, -1, None]
        assert await scenario.policy.find("export") == scenario.harness.graph.train_step


OTHERS = {"version": "c", "train_step": 3, "previous": "b", "took_ms": 1.0}


@pytest.mark.parametrize(
    ("name", "newest", "asked"),
    [
        (None, 3, ["/fleet/policies/p/find None", "http://other/fleet/policies/p/reload None"]),
        ("c", 3, ["/fleet/policies/p/find c", "http://other/fleet/policies/p/reload c"]),
        (None, 2, ["/fleet/policies/p/find None"]),  # this one has one that is as new
        (None, None, ["/fleet/policies/p/find None"]),
        ("a", 3, []),
        ("export", 3, []),
    ],
)
async def test_the_server_in_whose_folder_it_lies_reloads_it(
    tmp_path: Path, name: str | None, newest: int | None, asked: list[str]
) -> None:
    async with joined(tmp_path) as scenario:
        scenario.fleet.newest, scenario.fleet.answer = newest, OTHERS
        swapped = await scenario.policy.reload(name)
        assert scenario.fleet.did == asked
        assert (swapped == Swapped(**OTHERS)) == (len(asked) == 2)
        assert swapped.version == ("c" if len(asked) == 2 else name or "b")


async def test_where_the_server_that_has_it_is_gone_the_newest_here_is_reloaded(tmp_path: Path) -> None:
    async with joined(tmp_path) as scenario:
        scenario.fleet.newest = 3
        assert (await scenario.policy.reload(None)).version == "b"
        with pytest.raises(UnknownVersion, match="no checkpoint 'c'"):
            await scenario.policy.reload("c")


async def test_another_server_has_it_found_and_reloaded_only_with_the_secret(tmp_path: Path) -> None:
    async with joined(tmp_path) as scenario:
        for call in (scenario.policy.find_for, scenario.policy.reload_for):
            with pytest.raises(Unauthorized, match="this is for the servers of the fleet"):
                await call("a", "another")
        assert scenario.harness.serves == ("b", 2)
        assert await scenario.policy.find_for("a", "the secret") == 1
        assert (await scenario.policy.reload_for("a", "the secret")).version == "a"
        assert scenario.fleet.did == []  # it asks nobody in turn


async def test_what_the_others_have_stopped_may_still_drain_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They went on to another version, tried this one again and stopped it, while this server was away."""
    async with joined(tmp_path) as scenario:
        manager, batch = scenario.harness.manager, asyncio.Event()
        scenario.harness.worker.drained = batch.wait
        swapper, before = manager.targets.swapper, scenario.record("b")
        until_drained = swapper.drained

        async def waited_for() -> None:
            if manager.active.name == "a":
                batch.set()
            await until_drained()

        monkeypatch.setattr(swapper, "drained", waited_for)
        agreed = SavedTraffic(stopped=(Stopped(before.digest, "a lower return"),)).agreed
        await scenario.policy.serve(scenario.committed("a", traffic=agreed))
        stopped = manager.history.version("b", before.digest, 2)
        assert (stopped.state.value, stopped.reason) == ("refused", "a lower return")
