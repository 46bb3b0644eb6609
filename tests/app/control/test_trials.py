"""Trials where two versions are tried at once, or change places; the whole life of a canary is in test_traffic.py."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.control.source import Scan
from app.control.trial import Decided, Ended, Trial
from app.control.trials import Trials
from app.errors import FleetLost, SwapRefused, UnknownVersion
from app.rpc.messages import ArmFigures, ArmWish, ShadowFigures, TrafficWish
from tests.support.manager import Harness, open_harness

pytestmark = pytest.mark.anyio


class Scenario:
    """Checkpoint d serves; a, b and c are there."""

    def __init__(self, harness: Harness, scan: Scan) -> None:
        self.harness, self.scan = harness, scan

    @property
    def trials(self) -> Trials:
        return self.harness.manager.traffic.trials

    @property
    def tried(self) -> tuple[str | None, ...]:
        """The names of canary and shadow, as control and the worker know them."""
        arms, trials = self.harness.worker.arms, self.trials
        known = [None if trial is None else trial.version.name for trial in (trials.canary, trials.shadow)]
        loaded = [None if arm is None else arm.version.name for arm in (arms.canary, arms.shadow)]
        assert known == loaded
        return tuple(known)

    async def made(self, name: str, share: float = 0.5) -> Trial:
        return await self.trials.made(ArmWish(name, share), self.scan)

    async def use(self, canary: str | None, shadow: str | None, *ended: Any) -> None:
        """Tries checkpoints of these names."""
        made = [None if name is None else await self.made(name) for name in (canary, shadow)]
        await self.trials.use(made[0], made[1], ended or None)


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Scenario]:
    there = (("a", 1), ("b", 2), ("c", 3), ("d", 4))
    async with open_harness(folder / "p", *there, state=folder / "state") as harness:
        yield Scenario(harness, await harness.manager.scanner.scan())


@pytest.mark.parametrize(("shadow", "error"), [("nothing", UnknownVersion), ("d", SwapRefused), ("bad", SwapRefused)])
async def test_a_canary_whose_shadow_cannot_be_tried_is_not_tried_and_not_to_blame(
    tmp_path: Path, shadow: str, error: type[Exception]
) -> None:
    async with opened(tmp_path) as scenario:
        scenario.harness.put("bad", 9, refuse="its weights are not finite")
        scan = await scenario.harness.manager.scanner.scan(afresh=True)
        with pytest.raises(error):
            await scenario.trials.wished(TrafficWish(ArmWish("a", 0.5), ArmWish(shadow, 0.5)), scan)
        assert scenario.harness.states["a"] == "released"
        assert scenario.tried == (None, None)


async def test_a_canary_that_is_tried_already_stays_verified_when_its_new_shadow_cannot_be_tried(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as scenario:
        await scenario.use("a", None)
        with pytest.raises(UnknownVersion):
            await scenario.trials.wished(TrafficWish(ArmWish("a", 0.1), ArmWish("nothing", 0.5)), scenario.scan)
        assert scenario.harness.states["a"] == "verified"
        assert scenario.tried == ("a", None)


async def test_a_shadow_that_becomes_the_canary_is_not_verified_again_or_released(tmp_path: Path) -> None:
    async with opened(tmp_path) as scenario:
        await scenario.use(None, "a")
        assert scenario.trials.shadow is not None
        before, prepared = scenario.trials.shadow.version, list(scenario.harness.builder.prepared)
        await scenario.use("a", "b")
        assert scenario.tried == ("a", "b")
        assert scenario.trials.canary is not None
        assert scenario.trials.canary.version is before
        assert before.state.value == "verified"
        assert scenario.harness.builder.prepared == [*prepared, "b"]


async def test_other_bytes_under_the_name_of_a_canary_are_another_version(tmp_path: Path) -> None:
    async with opened(tmp_path) as scenario:
        await scenario.use("a", None)
        scenario.harness.put("a", 7)
        scenario.scan = await scenario.harness.manager.scanner.scan(afresh=True)
        again = await scenario.made("a")
        assert (again.version.train_step, scenario.trials.canary is again) == (7, False)


@pytest.mark.parametrize(("then", "compared"), [("a", 5), ("b", 0), (None, 0)])
async def test_figures_of_a_shadow_go_on_with_the_same_version_and_begin_anew_with_another(
    tmp_path: Path, then: str | None, compared: int
) -> None:
    async with opened(tmp_path) as scenario:
        totals = scenario.trials.totals
        await scenario.use(None, "a")
        key, totals.own_shadow = totals.keys[1], ShadowFigures(compared=5)
        await scenario.use(None, then)
        assert totals.own_shadow.compared == compared
        assert (totals.keys[1] == key, bool(totals.keys[1])) == (then == "a", then is not None)


async def test_the_shares_of_the_arms_are_those_that_are_tried(tmp_path: Path) -> None:
    async with opened(tmp_path) as scenario:
        await scenario.trials.use(await scenario.made("a", 0.25), await scenario.made("b", 1.0))
        sample = scenario.harness.metrics.registry.get_sample_value
        arms = ("active", "canary", "shadow")
        shares = [sample("policy_server_arm_share", {"policy": "p", "arm": arm}) for arm in arms]
        assert shares == [0.75, 0.25, 1.0]


@pytest.mark.parametrize("ended", [Ended.PROMOTE, Ended.END, Ended.STOP])
async def test_the_end_of_a_trial_says_what_both_arms_had_come_to_and_only_a_stop_is_held_against_it(
    tmp_path: Path, ended: Ended
) -> None:
    async with opened(tmp_path) as scenario:
        await scenario.use("a", "b")
        scenario.trials.totals.begin({"canary": ArmFigures(sessions=3), "active": ArmFigures(sessions=9)})
        await scenario.trials.finish(ended, "why \udcff" + 600 * "y")
        decided = scenario.trials.decided
        assert decided is not None
        assert (decided.action, decided.version, len(decided.reason)) == (ended, "a", 500)
        assert decided.reason.startswith("why \\udcff")
        assert {arm: row["sessions"] for arm, row in decided.arms.items()} == {"active": 9, "canary": 3}
        assert bool(scenario.trials.stopped.known) == (ended is Ended.STOP)
        assert scenario.tried == (None, "b")  # the shadow is tried on


async def test_a_trial_ends_though_other_servers_cannot_be_asked_for_their_figures(tmp_path: Path) -> None:
    async def lost(_: object) -> list[Any]:
        raise FleetLost("gone")

    async with opened(tmp_path) as scenario:
        await scenario.use("a", None)
        scenario.trials.totals.exchange = lost
        await scenario.trials.finish(Ended.STOP, "an operator ended its trial")
        assert scenario.tried == (None, None)


async def test_the_end_of_a_trial_is_as_another_server_has_noted_it_where_one_has(tmp_path: Path) -> None:
    async with opened(tmp_path) as scenario:
        noted = Decided(Ended.STOP, "a", "its checkpoint was deleted", 7.0, {"canary": {"episodes": 9}})
        await scenario.use("a", None)
        await scenario.use(None, None, Ended.STOP, "its checkpoint was deleted", noted)
        assert scenario.trials.decided == noted


async def test_a_canary_whose_files_are_others_after_a_restart_is_not_tried_and_its_shadow_is(tmp_path: Path) -> None:
    async with opened(tmp_path) as scenario:
        await scenario.harness.manager.traffic.put(TrafficWish(ArmWish("a", 0.5), ArmWish("b", 0.5)))
        began_at = scenario.trials.shadow.began_at  # type: ignore[union-attr]
    scenario.harness.put("a", 0)
    async with open_harness(tmp_path / "p", state=tmp_path / "state") as harness:
        after = Scenario(harness, Scan())
        assert after.tried == (None, "b")
        assert after.trials.shadow is not None
        assert after.trials.shadow.began_at == began_at
        decided = after.trials.decided
        assert decided is not None
        reason = "it could not be tried after a restart: its files are others than before"
        assert replace(decided, at=0.0) == Decided(Ended.END, "a", reason, 0.0)
        assert harness.states["a"] == "released"
