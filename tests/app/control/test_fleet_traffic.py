"""What a fleet tries, as one server of it does: it adopts what is agreed on, and says where it cannot."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from app.artifacts.records import VersionRecord
from app.control import traffic as traffic_module
from app.control.fleet_traffic import FleetTraffic
from app.control.totals import Seen
from app.control.trial import Decided, Ended, SavedTraffic, SavedTrial, Stopped
from app.errors import SwapRefused
from app.rpc.messages import ArmFigures, ArmWish, ShadowFigures
from tests.support.checkpoints import digest
from tests.support.manager import Harness, open_harness

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def never_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic_module, "LOOK_EVERY_S", 3600.0)


class Fleet:
    """The other servers. `texts`: what each of them has seen, as it says it."""

    id = "this"

    def __init__(self) -> None:
        self.decides = False
        self.texts: dict[str, bytes] = {}
        self.given: list[bytes] = []

    async def exchange(self, policy: str, seen: bytes) -> dict[str, bytes]:
        self.given.append(seen)
        return self.texts


class Scenario:
    """A member in whose folder are a, b and c, of which c serves."""

    def __init__(self, harness: Harness) -> None:
        self.harness, self.fleet = harness, Fleet()
        parts: Any = self.fleet
        self.traffic = FleetTraffic(parts, harness.manager)
        self.traffic.join()
        self.trials = harness.manager.traffic.trials

    def saved(self, name: str, share: float = 0.5, began_at: float = 7.0) -> SavedTrial:
        folder = self.harness.checkpoints / name
        known = digest(folder) if folder.exists() else "no digest"
        record = VersionRecord(name, known, "nabc".index(name[0]), self.harness.graph.digest)
        return SavedTrial(ArmWish(name, share), record, began_at)

    async def adopt(self, **agreed: Any) -> None:
        await self.traffic.adopt(SavedTraffic(**agreed).agreed)

    @property
    def tried(self) -> tuple[str | None, ...]:
        arms = self.harness.worker.arms
        return tuple(None if arm is None else arm.version.name for arm in (arms.canary, arms.shadow))

    @property
    def failure(self) -> str:
        return self.trials.totals.of("canary").failure


@asynccontextmanager
async def member(folder: Path) -> AsyncIterator[Scenario]:
    async with open_harness(folder / "p", ("a", 1), ("b", 2), ("c", 3)) as harness:
        yield Scenario(harness)


async def test_what_is_agreed_on_is_tried_here_as_of_when_it_began_elsewhere(tmp_path: Path) -> None:
    async with member(tmp_path) as scenario:
        canary, shadow = scenario.saved("a", 0.25), scenario.saved("b")
        await scenario.adopt(canary=canary, shadow=shadow)
        assert scenario.tried == ("a", "b")
        assert (SavedTrial.of(scenario.trials.canary), SavedTrial.of(scenario.trials.shadow)) == (canary, shadow)
        assert scenario.trials.totals.keys[0] == f"{canary.record.digest} 7.0"  # as on the other servers
        assert scenario.harness.state_dir.load_traffic().canary == canary  # for a restart


async def test_what_is_tried_as_agreed_on_already_is_left_as_it_is(tmp_path: Path) -> None:
    async with member(tmp_path) as scenario:
        await scenario.adopt(canary=scenario.saved("a"))
        before, scenario.harness.worker.did = scenario.trials.canary, []
        await scenario.adopt(canary=scenario.saved("a"))
        assert scenario.trials.canary is before
        assert scenario.harness.worker.did == []


async def test_another_share_is_tried_with_the_version_that_is_loaded_and_its_figures(tmp_path: Path) -> None:
    async with member(tmp_path) as scenario:
        await scenario.adopt(canary=scenario.saved("a"))
        scenario.trials.totals.own = {"canary": ArmFigures(sessions=3)}
        assert scenario.trials.canary is not None
        version, tried = scenario.trials.canary.version, scenario.harness.worker.arms.canary
        times = dict(version.times)
        await scenario.adopt(canary=scenario.saved("a", 0.75))
        assert (scenario.harness.worker.arms.share, version.times) == (0.75, times)  # nor is it verified again
        assert scenario.harness.worker.arms.canary is tried
        assert scenario.trials.totals.of("canary").sessions == 3


async def test_figures_of_the_canary_before_are_not_those_of_the_next(tmp_path: Path) -> None:
    async with member(tmp_path) as scenario:
        await scenario.adopt(canary=scenario.saved("a"))
        scenario.trials.totals.own = {"canary": ArmFigures(sessions=3)}
        await scenario.adopt(canary=scenario.saved("b"))
        assert scenario.trials.totals.of("canary").sessions == 0


async def test_a_trial_ends_as_the_server_that_decided_has_noted_it(tmp_path: Path) -> None:
    async with member(tmp_path) as scenario:
        await scenario.adopt(canary=scenario.saved("a"))
        decided = Decided(Ended.STOP, "a", "a lower return", 9.0, {"canary": {"episodes": 70}})
        stopped = (Stopped(scenario.saved("a").record.digest, "its trial was stopped"),)
        await scenario.adopt(decided=decided, stopped=stopped)
        assert (scenario.tried, scenario.trials.decided) == ((None, None), decided)
        assert scenario.trials.stopped.known == stopped
        assert scenario.harness.states["a"] == "refused"


async def test_what_the_others_have_stopped_is_refused_here_though_it_was_never_tried_here(tmp_path: Path) -> None:
    async with member(tmp_path) as scenario:
        decided = Decided(Ended.STOP, "a", "a lower return", 9.0)
        stopped = (Stopped(scenario.saved("a").record.digest, "a lower return"),)
        await scenario.adopt(decided=decided, stopped=stopped)
        assert (scenario.harness.reasons["a"], scenario.trials.decided) == ("a lower return", decided)


@pytest.mark.parametrize("of", ["nothing", "another"])
async def test_a_trial_of_which_nobody_has_noted_the_end_is_not_held_against_its_version(
    tmp_path: Path, of: str
) -> None:
    async with member(tmp_path) as scenario:
        await scenario.adopt(canary=scenario.saved("a"))
        decided = None if of == "nothing" else Decided(Ended.STOP, "b", "a lower return", 9.0)
        await scenario.adopt(decided=decided, shadow=scenario.saved("b"))
        assert scenario.harness.states["a"] == "released"
        assert scenario.harness.reasons["a"] == "its trial ended: the fleet tries it no more"
        assert scenario.trials.stopped.known == ()


async def test_a_canary_that_nobody_can_give_counts_as_a_failure_of_this_member(tmp_path: Path) -> None:
    async with member(tmp_path) as scenario:
        await scenario.adopt(canary=scenario.saved("nowhere"), shadow=scenario.saved("b"))
        assert scenario.tried == (None, "b")
        assert scenario.failure.startswith("member this: checkpoint nowhere is refused: it served before, and is gone")


async def test_a_shadow_that_cannot_be_had_is_no_failure_of_the_canary(tmp_path: Path) -> None:
    async with member(tmp_path) as scenario:
        await scenario.adopt(canary=scenario.saved("a"), shadow=scenario.saved("nowhere"))
        assert (scenario.tried, scenario.failure) == (("a", None), "")


async def test_where_a_worker_cannot_load_it_nothing_is_tried_here_and_the_failure_says_why(tmp_path: Path) -> None:
    async with member(tmp_path) as scenario:
        await scenario.adopt(canary=scenario.saved("a"))
        scenario.harness.worker.loader.refusal = SwapRefused("no memory")
        await scenario.adopt(canary=scenario.saved("b"))
        assert (scenario.tried, scenario.trials.canary) == ((None, None), None)
        assert scenario.failure == "member this: no memory"


@pytest.mark.parametrize("agreed", ["{", "[]", '{"canary": 7}'])
async def test_what_cannot_be_read_is_not_tried_and_ends_what_is(
    tmp_path: Path, agreed: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with member(tmp_path) as scenario:
        await scenario.adopt(canary=scenario.saved("a"))
        await scenario.traffic.adopt(agreed)
        assert scenario.tried == (None, None)
        assert "p: what the fleet tries cannot be read, and is not tried here" in caplog.text


async def test_members_give_each_other_what_they_have_seen_and_one_that_cannot_be_read_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with member(tmp_path) as scenario, member(tmp_path / "other") as other:
        seen = Seen("A 7.0", {"canary": ArmFigures(3, seconds={4: 2})}, "B 7.0", ShadowFigures(compared=4))
        exchange, others = scenario.trials.totals.exchange, other.trials.totals.exchange
        assert exchange is not None
        assert others is not None
        await exchange(seen)
        other.fleet.texts = {"odd": b"{", "m": scenario.fleet.given[0], "list": b"[]"}
        assert await others(Seen()) == [seen]
        for name in ("odd", "list"):
            assert f"p: what member {name} has seen cannot be read" in caplog.text


async def test_a_member_begins_without_figures_and_one_of_all_decides(tmp_path: Path) -> None:
    async with open_harness(tmp_path / "p") as harness:
        totals = harness.manager.traffic.trials.totals
        totals.own, totals.own_shadow = {"canary": ArmFigures(sessions=3)}, ShadowFigures(compared=3)
        assert harness.manager.traffic.decides()
        scenario = Scenario(harness)  # the others know what it saw before
        assert (totals.own, totals.own_shadow) == ({}, ShadowFigures())
        assert not harness.manager.traffic.decides()
        scenario.fleet.decides = True
        assert harness.manager.traffic.decides()
