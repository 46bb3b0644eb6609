import asyncio
import contextlib
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from app.engine.fake import FakeEngine
from app.errors import SwapRefused, TooOld, UnknownVersion
from app.metrics import Metrics
from app.swap import history as history_module
from app.swap import manager as manager_module
from app.swap.manager import Manager
from app.swap.source import Source
from app.swap.states import State
from app.swap.store import Store
from tests.app.swap.checkpoints import contents, digest, identify, put

HALF_OVERWRITTEN = -999


@dataclass
class Weights:
    train_step: int
    loaded_at: float = field(default_factory=time.time)
    metadata: dict[str, Any] = field(default_factory=dict)


class FakeWorkshop:
    """A workshop driven by hand. An engine's `number` is the train step of what it holds."""

    def __init__(self, digest: str = "digest of the export", train_step: int = 0) -> None:
        self.digest = digest
        self.train_step = train_step
        self.export_is_bad = ""
        self.next_graph: FakeWorkshop | SwapRefused | None = None
        self.made: list[FakeEngine] = []
        self.restored: list[tuple[FakeEngine, str]] = []
        self.serving: Callable[[], FakeEngine | None] = lambda: None
        self.crash: Exception | None = None
        self.go_on = threading.Event()
        self.go_on.set()
        self.entered = threading.Event()

    def stale(self) -> bool:
        return self.next_graph is not None

    def reopened(self) -> "FakeWorkshop":
        assert self.next_graph is not None
        if isinstance(self.next_graph, SwapRefused):
            raise self.next_graph
        return self.next_graph

    def standby(self) -> FakeEngine:
        self.made.append(FakeEngine(self.train_step))
        return self.made[-1]

    def weights(self, engine: FakeEngine) -> Weights:
        if self.export_is_bad:
            raise SwapRefused(self.export_is_bad)
        return Weights(engine.number)

    def restore(self, engine: FakeEngine, folder: Path) -> Weights:
        assert engine is not self.serving(), "restored into the engine that serves"
        assert engine in self.made, "restored into a copy of another graph"
        assert engine.number != HALF_OVERWRITTEN, "restored into a copy that is not to be trusted"
        self.restored.append((engine, folder.name))
        engine.number = HALF_OVERWRITTEN
        self.entered.set()
        self.go_on.wait(10)
        if self.crash is not None:
            raise self.crash
        data = contents(folder)
        if "refuse" in data:
            raise SwapRefused(data["refuse"])
        engine.number = data["train_step"]
        return Weights(engine.number, metadata={"name": folder.name})

    @property
    def tried(self) -> list[str]:
        return [name for _, name in self.restored]


class House:
    """A manager over a temporary folder of checkpoints."""

    def __init__(self, policy: Path, workshop: FakeWorkshop, lane: ThreadPoolExecutor, store: Store) -> None:
        self.checkpoints = policy / "checkpoints"
        self.workshop = workshop
        self.metrics = Metrics()
        source = Source(policy, identify)
        self.store = store
        self.manager = Manager("p", workshop, source, store, lane, self.metrics.policy("p"))
        workshop.serving = self._serving

    def _serving(self) -> FakeEngine | None:
        return self.manager.active.engine if hasattr(self.manager, "active") else None  # type: ignore[return-value]

    def put(self, name: str, train_step: int, **more: str) -> Path:
        return put(self.checkpoints, name, train_step, **more)

    @property
    def serves(self) -> tuple[str, int]:
        """The active version's name, and the train step of what its engine really holds."""
        slot = self.manager.active
        assert slot.version.state is State.ACTIVE
        assert slot.version.train_step == slot.engine.number  # type: ignore[attr-defined]
        return slot.version.name, slot.version.train_step

    @property
    def states(self) -> dict[str, str]:
        return {v.name: v.state.value for v in self.manager.versions()}

    @property
    def reasons(self) -> dict[str, str]:
        return {v.name: v.reason for v in self.manager.versions() if v.reason}

    def counted(self, name: str) -> float:
        value = self.metrics.registry.get_sample_value(f"policy_server_{name}", {"policy": "p"})
        assert value is not None
        return value

    async def restoring(self) -> None:
        """Returns once the workshop is inside a restore."""
        await asyncio.get_running_loop().run_in_executor(None, self.workshop.entered.wait, 10)


@asynccontextmanager
async def open_house(
    policy: Path, *there: tuple[str, int], workshop: FakeWorkshop | None = None, state: Path | None = None
) -> AsyncIterator[House]:
    """`state` is the folder that a restart finds again."""
    for name, train_step in there:
        put(policy / "checkpoints", name, train_step)
    folder = state or Path(tempfile.mkdtemp(dir=policy.parent))
    with ThreadPoolExecutor(1) as lane, Store(folder).opened() as store:
        house = House(policy, workshop or FakeWorkshop(), lane, store)
        await house.manager.start()
        try:
            yield house
        finally:
            house.workshop.go_on.set()
            await house.manager.close()


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30))


# Start


@pytest.mark.parametrize(
    ("there", "serves"),
    [
        ([], ("export", 0)),
        ([("a", 3), ("b", 7), ("c", 5)], ("b", 7)),
        ([("step-9", 7), ("step-10", 7)], ("step-10", 7)),
        ([("unknown", -1)], ("unknown", -1)),
    ],
)
def test_start_serves_the_highest_train_step(tmp_path, there, serves):
    async def test() -> None:
        async with open_house(tmp_path, *there) as house:
            assert house.serves == serves
            assert house.manager.pinned is None
            assert house.counted("train_step") == serves[1]

    run(test)


def test_start_passes_over_refused_checkpoints_to_the_next_best_and_tells_why(tmp_path):
    put(tmp_path / "checkpoints", "b", 9, refuse="it holds NaN")
    put(tmp_path / "checkpoints", "c", 8, unreadable="its index is damaged")
    put(tmp_path / "checkpoints", "d", 7, refuse="another architecture")

    async def test() -> None:
        async with open_house(tmp_path, ("a", 3), ("z", 2)) as house:
            assert house.serves == ("a", 3)
            assert house.reasons == {
                "b": "it holds NaN",
                "c": "its index is damaged",
                "d": "another architecture",
            }
            refused = dict.fromkeys("bcd", "refused")
            await _until(lambda: house.states == refused | {"a": "active", "z": "found", "export": "released"})
            assert house.counted("refused_versions_total") == 3

    run(test)


def test_start_serves_the_export_where_every_checkpoint_is_refused(tmp_path):
    put(tmp_path / "checkpoints", "a", 9, refuse="it holds NaN")

    async def test() -> None:
        async with open_house(tmp_path) as house:
            assert house.serves == ("export", 0)

    run(test)


def test_export_that_fails_on_probe_inputs_is_no_policy(tmp_path):
    workshop = FakeWorkshop()
    workshop.export_is_bad = "the action is not finite"

    async def test() -> None:
        with pytest.raises(SwapRefused, match="the action is not finite"):
            async with open_house(tmp_path, ("a", 1), workshop=workshop):
                pass

    run(test)


# Reload


def test_reload_swaps_to_the_newest_and_tells_what_served_before(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path, ("a", 1)) as house:
            house.put("b", 2)
            house.put("c", 3)
            swapped = await house.manager.reload(None)
            assert (swapped.version.name, swapped.previous.name) == ("c", "a")
            assert swapped.took_ms > 0
            assert house.serves == ("c", 3)
            assert house.states == {"a": "released", "b": "found", "c": "active", "export": "released"}
            assert house.manager.active.version.metadata == {"name": "c"}
            assert house.counted("swaps_total") == 2
            assert house.counted("train_step") == 3

    run(test)


def test_reload_by_name_pins_and_reload_of_the_newest_unpins(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path, ("a", 1), ("b", 2)) as house:
            await house.manager.reload("a")
            assert (house.serves, house.manager.pinned) == (("a", 1), "a")
            house.put("c", 3)
            assert await house.manager.catch_up() is None
            assert house.serves == ("a", 1)
            await house.manager.reload(None)
            assert (house.serves, house.manager.pinned) == (("c", 3), None)
            house.put("d", 4)
            await house.manager.catch_up()
            assert house.serves == ("d", 4)

    run(test)


def test_reload_of_what_serves_changes_nothing(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path, ("a", 1)) as house:
            engine, tried = house.manager.active.engine, house.workshop.tried.copy()
            for name in (None, "a"):
                swapped = await house.manager.reload(name)
                assert swapped.previous is swapped.version
                assert house.manager.active.engine is engine
            assert house.workshop.tried == tried
            assert house.manager.pinned == "a"

    run(test)


def test_reload_by_name_may_go_back_to_older_weights(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path, ("a", 1), ("b", 2)) as house:
            assert (await house.manager.reload("a")).previous.name == "b"
            assert (await house.manager.reload("b")).previous.name == "a"
            assert house.serves == ("b", 2)

    run(test)


def test_reload_of_an_unknown_name_lists_what_there_is(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path, ("a", 1), ("b", 2)) as house:
            with pytest.raises(UnknownVersion, match=r"no checkpoint 'x'; the newest are: b, a"):
                await house.manager.reload("x")
            assert (house.serves, house.manager.pinned) == (("b", 2), None)

    run(test)


@pytest.mark.parametrize("name", ["bad", None])
def test_refused_checkpoint_leaves_the_old_weights_serving(tmp_path, name):
    async def test() -> None:
        async with open_house(tmp_path) as house:
            house.put("bad", 9, refuse="it holds NaN")
            engine = house.manager.active.engine
            with pytest.raises(SwapRefused, match="checkpoint bad is refused: it holds NaN"):
                await house.manager.reload(name)
            assert (house.serves, house.manager.pinned) == (("export", 0), None)
            assert house.manager.active.engine is engine
            assert (house.states["bad"], house.reasons["bad"]) == ("refused", "it holds NaN")

    run(test)


def test_refused_reload_keeps_the_pin(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path, ("a", 1), ("b", 2)) as house:
            await house.manager.reload("a")
            house.put("bad", 9, refuse="it holds NaN")
            with pytest.raises(SwapRefused):
                await house.manager.reload("bad")
            assert (house.serves, house.manager.pinned) == (("a", 1), "a")

    run(test)


def test_reload_of_the_newest_falls_to_the_next_best_that_may_serve(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path, ("a", 1)) as house:
            house.put("bad", 9, refuse="it holds NaN")
            house.put("b", 5)
            assert (await house.manager.reload(None)).version.name == "b"
            assert house.reasons == {"bad": "it holds NaN"}

    run(test)


def test_unreadable_checkpoint_is_refused_by_name_with_its_reason(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path, ("a", 1)) as house:
            house.put("bad", 9, unreadable="its index is damaged")
            with pytest.raises(SwapRefused, match="checkpoint bad is refused: its index is damaged"):
                await house.manager.reload("bad")
            assert house.serves == ("a", 1)

    run(test)


def test_explicit_reload_looks_afresh_at_what_was_refused(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path, ("a", 1)) as house:
            house.workshop.crash = SwapRefused("the disk was full")
            house.put("b", 2)
            await house.manager.catch_up()
            await house.manager.catch_up()
            assert house.workshop.tried == ["a", "b"]  # watching does not try it a second time
            house.workshop.crash = None
            await house.manager.reload("b")
            assert house.serves == ("b", 2)
            assert house.reasons == {}

    run(test)


def test_reload_waits_for_a_checkpoint_that_is_still_being_written(tmp_path, monkeypatch):
    monkeypatch.setattr(manager_module, "REST_S", 0.0)

    async def test() -> None:
        async with open_house(tmp_path, ("a", 1)) as house:
            house.put("b", 2, incomplete="1 of 2 data files are there")
            reload = asyncio.create_task(house.manager.reload("b"))
            for _ in range(20):
                await asyncio.sleep(0)
            assert not reload.done()
            house.put("b", 2)
            assert (await reload).version.name == "b"

    run(test)


def test_checkpoint_that_stays_incomplete_is_refused_but_not_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(manager_module, "PATIENCE_S", 0.0)

    async def test() -> None:
        async with open_house(tmp_path, ("a", 1)) as house:
            house.put("b", 2, incomplete="1 of 2 data files are there")
            with pytest.raises(SwapRefused, match="checkpoint b is incomplete: 1 of 2 data files are there"):
                await house.manager.reload("b")
            assert "b" not in house.states
            house.put("b", 2)
            await house.manager.reload("b")
            assert house.serves == ("b", 2)

    run(test)


def test_reload_of_the_newest_waits_for_a_newer_one_that_is_still_being_written(tmp_path, monkeypatch):
    monkeypatch.setattr(manager_module, "REST_S", 0.0)

    async def test() -> None:
        async with open_house(tmp_path, ("a", 1)) as house:
            house.put("b", 2, incomplete="its files changed just now")
            reload = asyncio.create_task(house.manager.reload(None))
            for _ in range(20):
                await asyncio.sleep(0)
            assert not reload.done()
            house.put("b", 2)
            assert (await reload).version.name == "b"

    run(test)


def test_checkpoint_that_nobody_writes_any_more_is_refused_without_waiting(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path, ("a", 1)) as house:
            house.put("b", 2, incomplete="1 of 2 data files are there", settled="yes")
            began = asyncio.get_running_loop().time()
            with pytest.raises(SwapRefused, match="checkpoint b is incomplete: 1 of 2 data files are there"):
                await house.manager.reload("b")
            assert asyncio.get_running_loop().time() - began < manager_module.PATIENCE_S / 2
            assert await house.manager.catch_up() is None  # and not worth another look

    run(test)


def test_reload_of_the_newest_does_not_wait_for_a_checkpoint_that_nobody_writes_any_more(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path) as house:
            house.put("a", 1)
            house.put("b", 2, incomplete="1 of 2 data files are there", settled="yes")
            swapped = await house.manager.reload(None)
            assert swapped.version.name == "a"
            assert swapped.took_ms < 1000 * manager_module.PATIENCE_S

    run(test)


def test_same_bytes_under_another_name_serve_under_the_name_that_was_asked_for(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path, ("a", 1)) as house:
            house.put("copy", 1)
            await house.manager.catch_up()
            assert house.serves == ("a", 1)  # for watching they are nothing new
            swapped = await house.manager.reload("copy")
            assert (swapped.version.name, swapped.previous.name) == ("copy", "a")
            assert swapped.version.digest == swapped.previous.digest

    run(test)


# The export


def test_reload_of_the_export_serves_its_own_weights_and_pins(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path, ("a", 1)) as house:
            swapped = await house.manager.reload("export")
            assert (swapped.version.name, swapped.previous.name) == ("export", "a")
            assert (house.serves, house.manager.pinned) == (("export", 0), "export")
            await house.manager.reload(None)
            assert house.serves == ("a", 1)

    run(test)


def test_reload_of_the_newest_serves_the_export_where_no_checkpoint_is_left(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path, ("a", 1)) as house:
            shutil.rmtree(house.checkpoints)
            await house.manager.reload(None)
            assert (house.serves, house.manager.pinned) == (("export", 0), None)

    run(test)


def test_export_can_be_asked_for_while_it_still_drains(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path) as house:
            with house.manager.active.lease():
                house.put("a", 1)
                await house.manager.catch_up()
                assert house.states == {"a": "active", "export": "draining"}
                reload = asyncio.create_task(house.manager.reload("export"))
                await asyncio.sleep(0.01)
                assert not reload.done()
            assert (await reload).version.name == "export"
            assert house.serves == ("export", 0)

    run(test)


def test_new_graph_serves_its_own_weights_and_copies_of_the_old_one_are_never_used_again(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path, ("a", 1)) as house:
            assert not house.manager.stale()
            house.workshop.next_graph = new = FakeWorkshop("digest of the new graph", 50)
            new.serving = house.workshop.serving
            assert house.manager.stale()
            swapped = await house.manager.reload_export()
            assert (swapped.version.name, swapped.previous.name) == ("export", "a")
            assert (house.serves, house.manager.pinned) == (("export", 50), "export")
            assert not house.manager.stale()
            # The fake refuses to restore into an engine that it has not made.
            for name in ("a", "export", "a"):
                await house.manager.reload(name)
            assert house.serves == ("a", 1)

    run(test)


def test_graph_that_may_not_serve_changes_nothing(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path, ("a", 1)) as house:
            house.workshop.next_graph = SwapRefused("its specs differ")
            with pytest.raises(SwapRefused, match="its specs differ"):
                await house.manager.reload_export()
            assert (house.serves, house.manager.pinned) == (("a", 1), None)
            house.put("b", 2)
            await house.manager.catch_up()
            assert house.serves == ("b", 2)

    run(test)


# The standby


def test_swaps_alternate_between_two_copies_and_never_touch_the_one_that_serves(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path) as house:
            for step in range(1, 20):
                house.put(f"s{step}", step)
                await house.manager.reload(None)
                assert house.serves == (f"s{step}", step)
            # FakeWorkshop.restore asserts that the engine it gets is not the active one.
            assert len(house.workshop.restored) == 19
            assert len(house.workshop.made) == 2

    run(test)


def test_failed_restore_throws_the_copy_away_and_the_next_swap_has_a_new_one(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path) as house:
            house.put("bad", 1, refuse="it holds NaN")
            await house.manager.catch_up()
            spoilt = house.workshop.restored[-1][0]
            house.put("good", 2)
            await house.manager.reload("good")
            assert house.serves == ("good", 2)
            assert len(house.workshop.made) == 3
            assert spoilt is not house.manager.active.engine

    run(test)


def test_crash_of_a_restore_leaves_the_old_weights_serving_and_the_next_swap_goes_well(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path) as house:
            house.put("a", 1)
            house.workshop.crash = MemoryError("no room")
            with pytest.raises(MemoryError):
                await house.manager.reload("a")
            assert (house.serves, house.manager.pinned) == (("export", 0), None)
            house.workshop.crash = None
            await house.manager.reload("a")
            assert house.serves == ("a", 1)

    run(test)


def test_old_weights_serve_until_the_new_ones_are_ready(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path) as house:
            house.put("a", 1)
            house.workshop.entered.clear()
            house.workshop.go_on.clear()
            reload = asyncio.create_task(house.manager.reload(None))
            await house.restoring()
            assert house.serves == ("export", 0)
            assert house.states == {"a": "found", "export": "active"}
            house.workshop.go_on.set()
            await reload
            assert house.serves == ("a", 1)

    run(test)


# Draining


def test_reload_answers_when_no_batch_runs_on_older_weights(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path, ("a", 1)) as house:
            house.put("b", 2)
            with house.manager.active.lease() as old:
                reload = asyncio.create_task(house.manager.reload(None))
                await _until(lambda: house.manager.active is not old)
                assert house.serves == ("b", 2)  # new batches run on it at once
                assert house.states["a"] == "draining"
                await asyncio.sleep(0.01)
                assert not reload.done()
            await reload
            assert house.states["a"] == "released"

    run(test)


def test_copy_is_not_restored_into_while_a_batch_still_runs_on_it(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path, ("a", 1)) as house:
            with house.manager.active.lease() as old:
                house.put("b", 2)
                await house.manager.catch_up()
                house.put("c", 3)
                catching_up = asyncio.create_task(house.manager.catch_up())
                await asyncio.sleep(0.01)
                assert house.workshop.tried == ["a", "b"]
                assert old.engine.number == 1  # type: ignore[attr-defined]
            await catching_up
            assert house.serves == ("c", 3)
            assert house.manager.active.engine is old.engine

    run(test)


async def _until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.001)


# Watching


def test_catching_up_swaps_forwards_only(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path, ("b", 5)) as house:
            house.put("older", 4)
            await house.manager.catch_up()
            assert house.serves == ("b", 5)
            house.put("newer", 6)
            await house.manager.catch_up()
            assert house.serves == ("newer", 6)
            shutil.rmtree(house.checkpoints / "newer")
            await house.manager.catch_up()
            assert house.serves == ("newer", 6)

    run(test)


def test_overwritten_checkpoint_is_a_new_version(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path, ("a", 5)) as house:
            old = house.manager.active.version
            house.put("a", 4)
            await house.manager.catch_up()
            assert house.serves == ("a", 4)
            assert house.manager.active.version.digest == digest(house.checkpoints / "a") != old.digest
            await _until(lambda: old.state is State.RELEASED)

    run(test)


def test_refused_checkpoint_is_tried_once_and_again_when_its_bytes_change(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path, ("a", 1)) as house:
            house.put("b", 2, refuse="it holds NaN")
            for _ in range(3):
                await house.manager.catch_up()
            assert house.workshop.tried == ["a", "b"]
            house.put("b", 2)
            await house.manager.catch_up()
            assert house.serves == ("b", 2)
            assert house.counted("refused_versions_total") == 1

    run(test)


def test_unreadable_checkpoint_is_told_and_counted_once(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path, ("a", 1)) as house:
            house.put("b", 2, unreadable="its index is damaged")
            for _ in range(3):
                await house.manager.catch_up()
            assert house.reasons == {"b": "its index is damaged"}
            assert house.counted("refused_versions_total") == 1

    run(test)


def test_catching_up_says_when_another_look_is_worth_it(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path, ("a", 1)) as house:
            assert await house.manager.catch_up() is None
            house.put("b", 2, incomplete="its files changed just now")
            assert await house.manager.catch_up() == manager_module.REST_S
            assert house.serves == ("a", 1)
            house.put("b", 2)
            assert await house.manager.catch_up() is None
            assert house.serves == ("b", 2)

    run(test)


# Freshness


def test_waiting_for_what_serves_already_is_over_at_once(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path, ("a", 5)) as house:
            for step in (-1, 4, 5):
                await house.manager.wait_for(step)

    run(test)


def test_waiting_looks_for_newer_weights_itself(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path, ("a", 5)) as house:
            house.put("b", 7)
            await house.manager.wait_for(6)
            assert house.serves == ("b", 7)

    run(test)


def test_waiting_ends_when_weights_that_are_new_enough_serve(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path, ("a", 5)) as house:
            waiting = asyncio.create_task(house.manager.wait_for(9))
            for step in (7, 8, 9):
                await asyncio.sleep(0.005)
                assert not waiting.done()
                house.put(f"s{step}", step)
                await house.manager.catch_up()
            await waiting
            assert house.serves == ("s9", 9)

    run(test)


def test_waiting_can_be_given_up(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path, ("a", 5)) as house:
            waiting = asyncio.create_task(house.manager.wait_for(9))
            await asyncio.sleep(0.005)
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting
            house.put("b", 9)
            await house.manager.catch_up()
            assert house.serves == ("b", 9)

    run(test)


def test_swap_goes_on_when_the_one_who_waited_for_it_is_gone(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path) as house:
            house.put("a", 1)
            house.workshop.go_on.clear()
            waiting = asyncio.create_task(house.manager.wait_for(1))
            await house.restoring()
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting
            house.workshop.go_on.set()
            await _until(lambda: house.manager.active.version.name == "a")
            assert house.serves == ("a", 1)

    run(test)


def test_no_waiting_for_newer_weights_than_those_that_are_pinned(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path, ("a", 5), ("b", 7)) as house:
            await house.manager.reload("a")
            await house.manager.wait_for(5)
            with pytest.raises(TooOld, match=r"version a \(train step 5\) is pinned, min_train_step is 6"):
                await house.manager.wait_for(6)

    run(test)


# Many at once


def test_concurrent_reloads_go_one_after_the_other(tmp_path):
    async def test() -> None:
        names = [f"s{step}" for step in range(1, 9)]
        async with open_house(tmp_path, *((name, int(name[1:])) for name in names)) as house:
            asked = [names[(3 * i) % 8] for i in range(16)]
            swaps = await asyncio.gather(*(house.manager.reload(name) for name in asked))
            assert [swap.version.name for swap in swaps] == asked
            assert [swap.previous.name for swap in swaps] == ["s8", *asked[:-1]]
            assert house.serves[0] == house.manager.pinned == asked[-1]
            assert list(house.states.values()).count("active") == 1
            assert "draining" not in house.states.values()
            assert len(house.workshop.made) == 2

    run(test)


def test_reloads_between_refusals_and_catching_up_end_in_order(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path, ("a", 1), ("b", 2)) as house:
            house.put("bad", 9, refuse="it holds NaN")
            calls = [house.manager.reload(name) for name in ("a", "bad", None, "x", "b")]
            results = await asyncio.gather(*calls, house.manager.catch_up(), return_exceptions=True)
            assert [type(result) for result in results[:5] if isinstance(result, Exception)] == [
                SwapRefused,
                UnknownVersion,
            ]
            assert (house.serves, house.manager.pinned) == (("b", 2), "b")

    run(test)


def test_few_of_the_versions_that_are_gone_are_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(history_module, "KEPT_VERSIONS", 3)

    async def test() -> None:
        async with open_house(tmp_path) as house:
            for step in range(1, 10):
                house.put("latest", step)
                await house.manager.catch_up()
            await house.manager.catch_up()
            assert len(house.manager.versions()) == 4
            assert house.serves == ("latest", 9)

    run(test)
