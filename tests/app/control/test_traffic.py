"""A canary's trial in control: how it begins, what ends it, what that leaves behind, and what a restart finds."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.control import traffic as traffic_module
from app.engine.fake import FakeEngine
from app.errors import SwapRefused, UnknownVersion
from app.rpc.messages import ArmWish, ShadowFigures, TrafficWish
from app.traffic.assignment import ACTIVE, CANARY
from tests.support.manager import Harness, LocalWorker, open_harness, until

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic_module, "LOOK_EVERY_S", 0.005)
    monkeypatch.setattr(traffic_module, "SAVE_EVERY_S", 0.0)


def wish(name: str, share: float = 0.5, **rules: Any) -> TrafficWish:
    return TrafficWish(ArmWish(name, share, **rules))


@asynccontextmanager
async def trying(folder: Path, **rules: Any) -> AsyncIterator[Harness]:
    """Checkpoint a serves, and b is tried; c is there too."""
    async with open_harness(folder / "p", ("a", 1), state=folder / "state") as harness:
        await harness.manager.reload("a")
        harness.put("b", 2)
        harness.put("c", 3)
        await harness.manager.traffic.put(wish("b", **rules))
        yield harness


def canary(harness: Harness) -> str | None:
    trial = harness.manager.traffic.trials.canary
    tried = harness.worker.arms.canary
    assert (None if tried is None else tried.version.name) == (None if trial is None else trial.version.name)
    return None if trial is None else trial.version.name


def decided(harness: Harness) -> tuple[str, str]:
    decision = harness.manager.traffic.report()["decision"]
    return decision["action"], decision["reason"]


def ended(worker: LocalWorker, arm: str, returns: Any) -> None:
    """So many episodes of 3 steps."""
    worker.arms.ended(arm, np.array([[gained, 3.0] for gained in returns]))


async def test_a_canary_is_verified_and_beside_what_serves(tmp_path: Path) -> None:
    async with trying(tmp_path, share=0.25) as harness:
        assert harness.serves == ("a", 1)
        assert harness.states["b"] == "verified"
        tried = harness.worker.arms.canary
        assert tried is not None
        assert isinstance(tried.engine, FakeEngine)
        assert (tried.version.name, tried.engine.number, harness.worker.arms.share) == ("b", 2, 0.25)
        report = harness.manager.traffic.report()
        assert report["canary"] | {"version": "b", "train_step": 2, "share": 0.25, "sessions": 0} == report["canary"]
        assert report["active"]["version"] == "a"
        assert "decision" not in report


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("a", SwapRefused, "version a serves already"),
        ("nothing", UnknownVersion, "no checkpoint 'nothing'; the newest are: c, b, a"),
        ("bad", SwapRefused, "checkpoint bad is refused: its weights are not finite"),
        ("half", SwapRefused, "checkpoint half is incomplete: variables are missing"),
    ],
)
async def test_what_cannot_be_tried_changes_nothing(
    tmp_path: Path, name: str, error: type[Exception], text: str
) -> None:
    async with trying(tmp_path) as harness:
        if name == "bad":
            harness.put("bad", 4, refuse="its weights are not finite")
        if name == "half":
            harness.put("half", 4, incomplete="variables are missing", settled="yes")
        with pytest.raises(error, match=text):
            await harness.manager.traffic.put(wish(name))
        assert canary(harness) == "b"
        assert harness.serves == ("a", 1)
        assert harness.states["b"] == "verified"


async def test_a_canary_that_a_worker_cannot_load_is_refused_and_the_one_before_stays(tmp_path: Path) -> None:
    async with trying(tmp_path) as harness:
        harness.worker.loader.refusal = SwapRefused("the file is not for this machine")
        with pytest.raises(SwapRefused, match="not for this machine"):
            await harness.manager.traffic.put(wish("c"))
        assert canary(harness) == "b"
        assert harness.reasons["c"] == "the file is not for this machine"


async def test_another_share_of_the_same_canary_goes_on_with_its_figures(tmp_path: Path) -> None:
    async with trying(tmp_path) as harness:
        harness.worker.arms.begun(CANARY)
        tried = harness.worker.arms.canary
        report = await harness.manager.traffic.put(wish("b", share=0.75, promote_after_episodes=9))
        assert (report["canary"]["sessions"], report["canary"]["share"]) == (1, 0.75)
        assert report["canary"]["promote_after_episodes"] == 9
        assert harness.worker.arms.canary is tried
        assert harness.worker.arms.share == 0.75


async def test_a_lower_return_stops_a_canary_and_watching_does_not_swap_to_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with trying(tmp_path, stop_if_return_drops=0.1) as harness:
        shutil.rmtree(harness.checkpoints / "c")
        ended(harness.worker, ACTIVE, np.linspace(95.0, 105.0, 200))
        ended(harness.worker, CANARY, np.linspace(75.0, 85.0, 200))
        await until(lambda: harness.manager.traffic.trials.canary is None)
        action, reason = decided(harness)
        assert action == "stop"
        assert "80" in reason
        assert "100" in reason
        assert harness.states["b"] == "refused"
        assert harness.reasons["b"] == f"its trial as the canary was stopped: {reason}"
        assert harness.worker.copies.find(harness.loaded.version.digest) is harness.loaded
        for name in ("policy_server.swap", "policy_server.audit"):
            assert [r for r in caplog.records if r.name == name and reason in r.getMessage()]
        sample = harness.metrics.registry.get_sample_value
        assert sample("policy_server_canary_decisions_total", {"policy": "p", "decision": "stop"}) == 1
        assert sample("policy_server_arm_episodes_total", {"policy": "p", "arm": "canary"}) == 200
        assert sample("policy_server_arm_mean_return", {"policy": "p", "arm": "canary"}) == pytest.approx(80.0)
        assert sample("policy_server_arm_share", {"policy": "p", "arm": "canary"}) == 0
        report = harness.manager.traffic.report()["decision"]
        assert (report["canary"]["episodes"], report["active"]["episodes"]) == (200, 200)
        # Neither watching nor a reload of the newest swaps to it; its name does.
        await harness.manager.reload(None)
        assert harness.serves == ("a", 1)
        await harness.manager.catch_up()
        assert harness.serves == ("a", 1)
        await harness.manager.reload("b")
        assert harness.serves == ("b", 2)


@pytest.mark.parametrize("mean", [100.0, 130.0])
async def test_enough_episodes_promote_a_canary_that_is_not_worse(tmp_path: Path, mean: float) -> None:
    async with trying(tmp_path, stop_if_return_drops=0.1, promote_after_episodes=100) as harness:
        tried = harness.worker.arms.canary
        ended(harness.worker, ACTIVE, np.linspace(95.0, 105.0, 300))
        ended(harness.worker, CANARY, np.linspace(mean - 5, mean + 5, 99))
        await until(lambda: harness.manager.traffic.report()["canary"]["episodes"] == 99)
        assert harness.serves == ("a", 1)
        ended(harness.worker, CANARY, [mean])
        await until(lambda: harness.manager.pinned == "b")
        assert harness.serves == ("b", 2)
        assert harness.loaded is tried  # no session of the arm waits for anything
        assert canary(harness) is None
        action, reason = decided(harness)
        assert action == "promote"
        assert harness.reasons["b"] == f"promoted: {reason}"
        await harness.manager.catch_up()
        assert harness.serves == ("b", 2)  # it is pinned, as by a reload by its name


async def test_a_failure_stops_a_canary_at_once(tmp_path: Path) -> None:
    async with trying(tmp_path) as harness:
        harness.worker.arms.failed("the policy failed: ValueError")
        await until(lambda: harness.manager.traffic.trials.canary is None)
        assert decided(harness) == (
            "stop",
            "it failed on 1 of 1 requests, which the active version answered: the policy failed: ValueError",
        )


@pytest.mark.parametrize(
    ("how", "stops"),
    [("killed by SIGSEGV", True), ("killed by SIGABRT", True), ("killed by SIGKILL", False), ("exit status 1", False)],
)
async def test_a_worker_that_crashes_stops_a_canary_and_one_that_is_killed_does_not(
    tmp_path: Path, how: str, stops: bool
) -> None:
    async with trying(tmp_path) as harness:
        harness.manager.traffic.worker_ended(how)
        if stops:
            await until(lambda: harness.manager.traffic.trials.canary is None)
            assert decided(harness) == ("stop", f"a worker was {how} while it was tried")
        else:
            assert canary(harness) == "b"


async def test_a_canary_whose_checkpoint_is_deleted_or_replaced_is_stopped(tmp_path: Path) -> None:
    async with trying(tmp_path) as harness:
        await harness.manager.catch_up()
        assert canary(harness) == "b"
        shutil.rmtree(harness.checkpoints / "b")
        await harness.manager.catch_up()
        assert canary(harness) is None
        assert decided(harness) == ("stop", "its checkpoint was deleted")
        await harness.manager.traffic.put(wish("c"))
        harness.put("c", 9)
        await harness.manager.catch_up()
        assert canary(harness) is None
        assert decided(harness) == ("stop", "other files have taken the place of its checkpoint")


async def test_an_operator_promotes_a_canary(tmp_path: Path) -> None:
    async with trying(tmp_path) as harness:
        swapped = await harness.manager.traffic.promote()
        assert (swapped.version, swapped.previous) == ("b", "a")
        assert harness.serves == ("b", 2)
        assert (canary(harness), harness.manager.pinned) == (None, "b")
        assert decided(harness) == ("promote", "an operator promoted it")
        with pytest.raises(SwapRefused, match="no canary is tried"):
            await harness.manager.traffic.promote()
        await harness.manager.rollback()
        assert harness.serves == ("a", 1)


async def test_an_operator_ends_a_trial(tmp_path: Path) -> None:
    async with trying(tmp_path) as harness:
        await harness.manager.traffic.put(TrafficWish())
        assert canary(harness) is None
        assert decided(harness) == ("stop", "an operator ended its trial")
        assert harness.states["b"] == "refused"
        await harness.manager.traffic.put(wish("b"))  # whoever asks for it by name may have it again
        assert harness.states["b"] == "verified"
        await harness.manager.traffic.put(wish("c"))
        assert canary(harness) == "c"
        assert decided(harness) == ("stop", "an operator tries c instead")


async def test_what_is_tried_is_tried_again_after_a_restart(tmp_path: Path) -> None:
    async with trying(tmp_path, share=0.25, stop_if_return_drops=0.1) as harness:
        await harness.manager.reload(None)  # without a pin, the newest would serve after a restart
        assert harness.serves == ("c", 3)
        await harness.manager.traffic.put(wish("a", 0.25, stop_if_return_drops=0.1))
        harness.put("d", 4)
        for arm in (ACTIVE, CANARY):
            harness.worker.arms.begun(arm)
            ended(harness.worker, arm, [10.0, 20.0])
        await until(lambda: harness.manager.traffic.report()["canary"]["episodes"] == 2)
    async with open_harness(tmp_path / "p", state=tmp_path / "state") as harness:
        assert harness.serves == ("c", 3)
        assert canary(harness) == "a"
        assert harness.worker.arms.share == 0.25
        report = harness.manager.traffic.report()
        assert report["canary"]["stop_if_return_drops"] == 0.1
        for arm in (ACTIVE, CANARY):
            figures = {"sessions": 1, "episodes": 2, "mean_return": 15.0, "mean_length": 3.0}
            assert report[arm] | figures == report[arm]
        await harness.manager.catch_up()
        assert harness.serves == ("c", 3)
        late = await harness.admit()
        assert late.arms.canary is not None


async def test_what_was_stopped_stays_so_after_a_restart(tmp_path: Path) -> None:
    async with trying(tmp_path) as harness:
        await harness.manager.traffic.put(wish("c"))
        await harness.manager.traffic.put(TrafficWish())
        await harness.manager.reload(None)
        assert harness.serves == ("a", 1)
    async with open_harness(tmp_path / "p", state=tmp_path / "state") as harness:
        assert harness.serves == ("a", 1)
        assert (harness.states["b"], harness.states["c"]) == ("refused", "refused")
        assert harness.reasons["c"] == "its trial as the canary was stopped: an operator ended its trial"
        assert decided(harness) == ("stop", "an operator ended its trial")
        await harness.manager.catch_up()
        assert harness.serves == ("a", 1)


async def test_a_canary_that_is_gone_after_a_restart_is_no_longer_tried(tmp_path: Path) -> None:
    async with trying(tmp_path) as harness:
        shutil.rmtree(harness.checkpoints / "c")
    shutil.rmtree(tmp_path / "p" / "checkpoints" / "b")
    async with open_harness(tmp_path / "p", state=tmp_path / "state") as harness:
        assert (harness.serves, canary(harness)) == (("a", 1), None)
        action, reason = decided(harness)
        assert action == "end"
        assert reason.startswith("it could not be tried after a restart: no checkpoint 'b'")


async def test_a_worker_that_starts_later_tries_it_before_it_is_admitted(tmp_path: Path) -> None:
    async with trying(tmp_path) as harness:
        late = await harness.admit()
        assert late.arms.canary is not None
        assert late.did == ["traffic"]
        await harness.manager.traffic.put(TrafficWish())
        assert late.arms.canary is None


async def test_the_files_of_a_canary_stay_until_its_trial_has_ended(tmp_path: Path) -> None:
    async with trying(tmp_path) as harness:
        digest = harness.manager.traffic.trials.canary.version.digest  # type: ignore[union-attr]
        bundle = harness.state_dir.place(digest)
        await harness.manager.targets.persist(harness.manager.records.pin)
        assert bundle.is_dir()
        await harness.manager.traffic.put(TrafficWish())
        assert not bundle.exists()


# What meets a canary, in control: docs/how-to/traffic.md has the table; what concerns requests is tested on a server.


async def reload_another(harness: Harness) -> None:
    await harness.manager.reload("c")


async def reload_newest(harness: Harness) -> None:
    await harness.manager.reload(None)


async def reload_export(harness: Harness) -> None:
    harness.replace_graph("another graph")
    await harness.manager.reload_export()


async def roll_back(harness: Harness) -> None:
    await harness.manager.rollback()


async def reload_the_same(harness: Harness) -> None:
    await harness.manager.reload("a")


@pytest.mark.parametrize(
    ("act", "serves", "reason"),
    [
        (reload_another, "c", "a checkpoint was reloaded by its name"),
        (reload_the_same, "a", "a checkpoint was reloaded by its name"),
        (reload_newest, "c", "the newest version was reloaded"),
        (reload_export, "export", "the export was reloaded"),
        (roll_back, "export", "the version before was reloaded"),
    ],
)
async def test_an_operator_who_has_another_version_serve_ends_the_trial(
    tmp_path: Path, act: Any, serves: str, reason: str
) -> None:
    async with open_harness(tmp_path / "p", state=tmp_path / "state") as harness:
        for name, train_step in (("a", 1), ("b", 2), ("c", 3)):
            harness.put(name, train_step)
        await harness.manager.reload("a")
        await harness.manager.traffic.put(wish("b"))
        await act(harness)
        assert harness.serves[0] == serves
        assert canary(harness) is None
        assert decided(harness) == ("end", reason)
        assert harness.states["b"] == "released"
        assert harness.reasons["b"] == f"its trial ended: {reason}"
        await harness.manager.reload("b")  # nothing was said against it
        assert harness.serves == ("b", 2)


async def test_a_reload_of_the_canary_promotes_it(tmp_path: Path) -> None:
    async with trying(tmp_path) as harness:
        tried = harness.worker.arms.canary
        await harness.manager.reload("b")
        assert harness.serves == ("b", 2)
        assert harness.loaded is tried
        assert (canary(harness), harness.manager.pinned) == (None, "b")
        assert decided(harness) == ("promote", "a checkpoint was reloaded by its name")


async def test_what_is_refused_changes_nothing_of_a_trial(tmp_path: Path) -> None:
    async with trying(tmp_path) as harness:
        harness.put("bad", 4, refuse="its weights are not finite")
        with pytest.raises(SwapRefused):
            await harness.manager.reload("bad")
        assert canary(harness) == "b"


async def test_watching_swaps_to_nothing_while_a_canary_is_tried(tmp_path: Path) -> None:
    async with open_harness(tmp_path / "p", ("b", 2), state=tmp_path / "state") as harness:
        harness.put("a", 1)
        await harness.manager.traffic.put(wish("a"))
        harness.put("c", 3)
        await harness.manager.catch_up()
        assert (harness.serves, canary(harness)) == (("b", 2), "a")
        await harness.manager.traffic.put(TrafficWish())
        await harness.manager.catch_up()
        assert harness.serves == ("c", 3)


async def test_a_pin_stays_when_a_canary_is_stopped(tmp_path: Path) -> None:
    async with trying(tmp_path) as harness:
        assert harness.manager.pinned == "a"
        await harness.manager.traffic.put(TrafficWish())
        assert harness.manager.pinned == "a"
        await harness.manager.catch_up()
        assert harness.serves == ("a", 1)


async def test_a_canary_may_be_older_than_what_serves_or_the_export_itself(tmp_path: Path) -> None:
    async with open_harness(tmp_path / "p", ("b", 2), state=tmp_path / "state") as harness:
        await harness.manager.traffic.put(wish("export"))
        await harness.manager.catch_up()
        assert (canary(harness), harness.serves) == ("export", ("b", 2))
        await harness.manager.traffic.promote()
        assert harness.serves[0] == "export"
        assert harness.manager.pinned == "export"


async def test_a_shadow_ends_with_the_next_wish_or_when_it_serves(tmp_path: Path) -> None:
    async with open_harness(tmp_path / "p", ("a", 1), state=tmp_path / "state") as harness:
        harness.put("b", 2)
        await harness.manager.traffic.put(TrafficWish(shadow=ArmWish("b", 1.0)))
        assert harness.worker.arms.shadow is not None
        assert harness.states["b"] == "verified"
        assert harness.manager.traffic.report()["shadow"]["version"] == "b"
        await harness.manager.traffic.put(TrafficWish())
        assert harness.worker.arms.shadow is None
        assert harness.states["b"] == "released"
        await harness.manager.traffic.put(TrafficWish(shadow=ArmWish("b", 1.0)))
        await harness.manager.reload("b")
        assert harness.serves == ("b", 2)
        assert harness.worker.arms.shadow is None


async def test_a_wish_of_two_is_granted_or_not_as_a_whole(tmp_path: Path) -> None:
    async with trying(tmp_path) as harness:
        with pytest.raises(UnknownVersion):
            await harness.manager.traffic.put(TrafficWish(ArmWish("c", 0.5), ArmWish("nothing", 1.0)))
        assert canary(harness) == "b"
        assert harness.states["c"] == "released"


async def test_one_version_may_be_canary_and_shadow(tmp_path: Path) -> None:
    async with trying(tmp_path) as harness:
        await harness.manager.traffic.put(TrafficWish(ArmWish("b", 0.5), ArmWish("b", 1.0)))
        assert harness.worker.arms.canary is harness.worker.arms.shadow
        await harness.manager.traffic.put(TrafficWish(None, ArmWish("b", 1.0)))
        assert harness.worker.arms.shadow is not None
        assert canary(harness) is None


async def test_a_worker_that_cannot_load_the_canary_stops_it(tmp_path: Path) -> None:
    async with trying(tmp_path) as harness:
        late = LocalWorker(harness.executor)
        with harness.manager.admission.offered() as (version, graph, bundle):
            await late.copies.load_first(version.name, graph, bundle)
            late.loader.refusal = SwapRefused("no memory is left")
            await harness.manager.admission.admit(late, version.key)
        await until(lambda: harness.manager.traffic.trials.canary is None)
        assert decided(harness) == ("stop", "a worker cannot load it: no memory is left")


async def test_how_a_shadow_compares_is_added_up_and_outlives_a_restart(tmp_path: Path) -> None:
    async with open_harness(tmp_path / "p", ("a", 1), state=tmp_path / "state") as harness:
        await harness.manager.reload("a")
        harness.put("b", 2)
        seen = [
            ShadowFigures(compared=4, agreed=3, max_difference=0.5, kl=0.2, kl_rows=4, skipped=1, answers=2),
            ShadowFigures(compared=4, agreed=4, max_difference=0.1, kl=0.2, kl_rows=3, kl_infinite=1, answers=1),
        ]
        take_figures = harness.worker.arms.take_figures
        harness.worker.arms.take_figures = lambda: replace(  # type: ignore[method-assign]
            take_figures(), shadow=seen.pop() if seen else None
        )
        await harness.manager.traffic.put(TrafficWish(shadow=ArmWish("b", 0.5)))
        figures = {
            "compared": 8, "agreement": 0.875, "max_difference": 0.5, "mean_kl": 0.0571429, "infinite_kl": 1,
            "skipped": 1, "answers": 3, "failures": 0,
        }  # fmt: skip
        await until(lambda: harness.manager.traffic.report()["shadow"]["compared"] == 8)
        row = harness.manager.traffic.report()["shadow"]
        assert row | figures == row
    async with open_harness(tmp_path / "p", state=tmp_path / "state") as harness:
        row = harness.manager.traffic.report()["shadow"]
        assert row | figures == row
        await harness.manager.traffic.put(TrafficWish())
        await harness.manager.traffic.put(TrafficWish(shadow=ArmWish("b", 0.5)))
        assert harness.manager.traffic.report()["shadow"]["compared"] == 0
