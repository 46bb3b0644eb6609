"""An export that is saved again while it is served: a new version like any other."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from app.control.manager import Manager
from app.control.plan import Candidate, OwnWeights, ranked
from app.control.states import State
from app.errors import SwapRefused, UnusablePolicy
from saver.artifact import FUNCTIONS, Noise, ServingInfo
from tests.app.control.test_manager import SPEC, FakeBuilder, House, open_house, run

SERVING = ServingInfo({}, {}, Noise(0, 0), dict.fromkeys(FUNCTIONS, "it has none"))


class TrainedBuilder(FakeBuilder):
    """One whose graphs tell the train step that their file does: `graph 50` has 50."""

    async def open(self, folder: Path, graphs: Path):
        graph = await super().open(folder, graphs)
        train_step = int((folder / "saved_model.pb").read_text().split()[-1])
        graph = replace(graph, train_step=train_step, serving=SERVING)
        graph.write()
        return graph

    async def prepare(self, graph, source, digest, destination, recorded, serving):
        self.train_step = graph.train_step
        return await super().prepare(graph, source, digest, destination, recorded, serving)


def save_again(house: House, train_step: int, ago_s: float = 60.0, text: str = "graph") -> None:
    """As the saver does it, some time ago."""
    save(house.policy, train_step, ago_s, text)


def save(policy: Path, train_step: int, ago_s: float = 120.0, text: str = "graph") -> None:
    policy.mkdir(exist_ok=True)
    staged = policy / ".staged"
    staged.write_text(f"{text} {train_step}")
    os.utime(staged, (time.time() - ago_s,) * 2)
    staged.replace(policy / "saved_model.pb")


def checkpoint(house: House, name: str, train_step: int, ago_s: float) -> None:
    path = house.put(name, train_step) / "variables" / "weights"
    os.utime(path, (time.time() - ago_s,) * 2)


def watching(tmp_path: Path, *there: tuple[str, int], train_step: int = 0, state: Path | None = None):
    if not (tmp_path / "saved_model.pb").exists():
        save(tmp_path, train_step)
    return open_house(tmp_path, *there, builder=TrainedBuilder(), state=state)


async def scan(house: House) -> tuple[str, int]:
    house.manager.watched = True
    await house.manager.catch_up()
    return house.serves


def test_it_is_served_and_can_be_rolled_back(tmp_path):
    async def test() -> None:
        async with watching(tmp_path / "p") as house:
            first = house.graph
            for step in (10, 20):
                save_again(house, step)
                assert house.manager.stale()
                assert await scan(house) == ("export", step)
                assert not house.manager.stale()
                assert house.graph.digest == house.manager.active.digest
            assert len({v.digest for v in house.manager.versions() if v.name == "export"}) == 3
            for step in (10, 0):
                await house.manager.rollback()
                assert house.serves == ("export", step)
                assert await scan(house) == ("export", step)  # it is pinned
            assert house.graph == first
            assert house.manager.stale()
            await house.manager.reload(None)
            assert house.serves == ("export", 20)
            assert not house.manager.stale()

    run(test)


def test_what_is_served_is_what_was_trained_longest(tmp_path):
    async def test() -> None:
        async with watching(tmp_path / "p", ("a", 30)) as house:
            assert house.serves == ("a", 30)
            save_again(house, 20)
            assert await scan(house) == ("a", 30)
            assert house.manager.stale()
            assert house.states["export"] == "found"
            save_again(house, 40)
            assert await scan(house) == ("export", 40)
            house.put("b", 35)
            assert await scan(house) == ("export", 40)
            house.put("c", 45)
            assert await scan(house) == ("c", 45)

    run(test)


@pytest.mark.parametrize(("exported", "published"), [(7, 7), (-1, 7), (7, -1), (-1, -1)])
def test_where_train_steps_tell_nothing_the_last_one_written_serves(tmp_path, exported, published):
    async def test() -> None:
        async with watching(tmp_path / "p") as house:
            checkpoint(house, "a", published, ago_s=50)
            assert await scan(house) == ("a", published)
            save_again(house, exported, ago_s=40)
            assert await scan(house) == ("export", exported)
            checkpoint(house, "b", published, ago_s=45)  # written before, found later
            assert await scan(house) == ("export", exported)
            checkpoint(house, "c", published, ago_s=30)
            assert await scan(house) == ("c", published)

    run(test)


def test_what_is_the_newest_serves_after_a_restart_too(tmp_path):
    async def test() -> None:
        async with watching(tmp_path / "p", ("a", 30), state=tmp_path / "state") as house:
            save_again(house, 40)
            assert await scan(house) == ("export", 40)
        for state in (tmp_path / "state", tmp_path / "new"):
            async with watching(tmp_path / "p", state=state) as house:
                assert house.serves == ("export", 40)

    run(test)


def test_that_it_was_saved_again_is_remembered(tmp_path):
    async def test() -> None:
        async with watching(tmp_path / "p", state=tmp_path / "state") as house:
            checkpoint(house, "a", -1, ago_s=50)
            assert await scan(house) == ("a", -1)
            save_again(house, -1, ago_s=40)
            assert await scan(house) == ("export", -1)
        async with watching(tmp_path / "p", state=tmp_path / "state") as house:
            assert house.serves == ("export", -1)

    run(test)


def test_an_export_that_was_there_from_the_start_is_older_than_checkpoints_whatever_its_files_time(tmp_path):
    async def test() -> None:
        save(tmp_path / "p", 7, ago_s=3)  # as if it had been copied after the checkpoints
        async with watching(tmp_path / "p") as house:
            checkpoint(house, "a", 7, ago_s=500)
            assert await scan(house) == ("a", 7)

    run(test)


@pytest.mark.parametrize("restart", [False, True])
def test_a_roll_back_holds_over_it(tmp_path, restart):
    async def test() -> None:
        async with watching(tmp_path / "p", ("a", 1), state=tmp_path / "state") as house:
            house.put("b", 2)
            await scan(house)
            await house.manager.rollback()
            save_again(house, 90)
            assert await scan(house) == ("a", 1)
        async with watching(tmp_path / "p", state=tmp_path / "state") as house:
            assert (house.serves, house.manager.pinned) == (("a", 1), "a")
            assert await scan(house) == ("a", 1)
            await house.manager.reload(None)
            assert house.serves == ("export", 90)

    run(test)


def test_a_checkpoint_is_gone_back_to_with_the_graph_that_it_served_with(tmp_path):
    async def test() -> None:
        async with watching(tmp_path / "p", ("a", 1), state=tmp_path / "state") as house:
            first = house.graph
            save_again(house, 90, text="another architecture")
            assert await scan(house) == ("export", 90)
            await house.manager.rollback()
            assert (house.serves, house.graph) == (("a", 1), first)
        async with watching(tmp_path / "p", state=tmp_path / "state") as house:
            assert (house.serves, house.graph) == (("a", 1), first)

    run(test)


def other_specs(builder: FakeBuilder) -> None:
    builder.spec = replace(SPEC, batch_size=3)


def broken(builder: FakeBuilder) -> None:
    builder.bad_graph = UnusablePolicy("it cannot be loaded")


@pytest.mark.parametrize(("change", "says"), [(other_specs, "other specs"), (broken, "it cannot be loaded")])
def test_what_cannot_be_served_stays_stale_and_says_why(tmp_path, change: Callable, says: str):
    async def test() -> None:
        async with watching(tmp_path / "p") as house:
            save_again(house, 10)
            change(house.builder)
            opened = house.builder.opened
            for _ in range(3):
                assert await scan(house) == ("export", 0)
            assert house.builder.opened == opened + 1, "it has not changed"
            assert house.manager.stale()
            assert says in house.manager.stale_reason()
            refused = [v for v in house.manager.versions() if v.state is State.REFUSED]
            assert [(v.name, says in v.reason) for v in refused] == [("export", True)]
            house.put("a", 1)  # it holds nothing up
            assert await scan(house) == ("a", 1)
            house.builder.spec, house.builder.bad_graph = SPEC, None
            save_again(house, 20)
            assert await scan(house) == ("export", 20)
            assert (house.manager.stale(), house.manager.stale_reason()) == (False, "")
            assert all(v.state is not State.REFUSED for v in house.manager.versions())

    run(test)


def test_weights_that_may_not_serve_change_nothing(tmp_path):
    async def test() -> None:
        async with watching(tmp_path / "p") as house:
            save_again(house, 10)
            house.builder.export_is_bad = "the action is not finite"
            for _ in range(3):
                assert await scan(house) == ("export", 0)
            assert house.manager.stale_reason() == "checkpoint export is refused: the action is not finite"
            assert house.builder.prepared.count("export") == 2
            house.builder.export_is_bad = ""
            assert (await house.manager.reload(None)).version == "export"  # whoever asks has it tried afresh
            assert house.serves == ("export", 10)

    run(test)


def test_what_is_being_written_is_waited_for(tmp_path):
    async def test() -> None:
        async with watching(tmp_path / "p") as house:
            save_again(house, 10, ago_s=0)
            house.manager.watched = True
            assert await house.manager.catch_up() is not None
            assert house.serves == ("export", 0)
            (house.policy / "policy_specs.pbtxt").write_text("")
            for name, ago_s in (("saved_model.pb", 1.0), ("policy_specs.pbtxt", 1.5)):
                os.utime(house.policy / name, (time.time() - ago_s,) * 2)
            assert await house.manager.catch_up() is not None, "its specs come last"
            assert house.serves == ("export", 0)
            os.utime(house.policy / "policy_specs.pbtxt", (time.time() - 0.5,) * 2)
            assert await house.manager.catch_up() is None
            assert house.serves == ("export", 10)

    run(test)


def test_what_changes_while_it_is_read_is_read_again(tmp_path):
    async def test() -> None:
        async with watching(tmp_path / "p") as house:
            save_again(house, 10)
            opened = house.builder.open

            async def open_slowly(folder: Path, graphs: Path):
                graph = await opened(folder, graphs)
                house.builder.open = opened
                save_again(house, 20)
                return graph

            house.builder.open = open_slowly
            house.manager.watched = True
            assert await house.manager.catch_up() is not None
            assert house.serves == ("export", 0)
            assert await scan(house) == ("export", 20)

    run(test)


def test_it_may_be_deleted_before_it_is_saved_again(tmp_path):
    async def test() -> None:
        async with watching(tmp_path / "p") as house:
            (house.policy / "saved_model.pb").unlink()
            assert await scan(house) == ("export", 0)
            assert all(v.state is not State.REFUSED for v in house.manager.versions())
            save_again(house, 10)
            assert await scan(house) == ("export", 10)

    run(test)


def test_the_same_bytes_are_no_new_version(tmp_path):
    async def test() -> None:
        async with watching(tmp_path / "p") as house:
            save_again(house, 0, ago_s=10)
            assert house.manager.stale()
            assert await scan(house) == ("export", 0)
            assert not house.manager.stale()
            assert house.builder.prepared == ["export"]

    run(test)


def test_without_watching_a_reload_takes_it_if_it_was_trained_longer(tmp_path):
    async def test() -> None:
        async with watching(tmp_path / "p", ("a", 30)) as house:
            for step, serves in ((30, ("a", 30)), (-1, ("a", 30)), (40, ("export", 40))):
                save_again(house, step)
                await house.manager.reload(None)
                assert house.serves == serves

    run(test)


def test_a_pin_by_reload_holds(tmp_path):
    async def test() -> None:
        async with watching(tmp_path / "p", ("a", 30)) as house:
            for name in ("a", "export"):
                await house.manager.reload(name)
                serves = house.serves
                save_again(house, 90)
                assert await scan(house) == serves

    run(test)


async def _refused(manager: Manager) -> None:
    with pytest.raises(SwapRefused):
        await manager.reload_export()


def test_it_can_still_be_asked_for(tmp_path):
    async def test() -> None:
        async with watching(tmp_path / "p", ("a", 30)) as house:
            save_again(house, 20)
            await scan(house)
            swapped = await house.manager.reload_export()
            assert (swapped.version, house.serves, house.manager.pinned) == ("export", ("export", 20), "export")
            save_again(house, 25)
            other_specs(house.builder)
            await _refused(house.manager)
            assert house.serves == ("export", 20)

    run(test)


def checkpoints(*steps: int) -> list[Candidate]:
    return [Candidate(str(i), Path(str(i)), str(i), step, None, float(i)) for i, step in enumerate(steps)]


@pytest.mark.parametrize(
    ("steps", "own", "order"),
    [
        ((1, 2), OwnWeights("d", 3), ["d", "1", "0"]),
        ((1, 3), OwnWeights("d", 2), ["1", "d", "0"]),
        ((1, 3), OwnWeights("d", 1), ["1", "0"]),
        ((1, 3), OwnWeights("d", 1, 0.5), ["1", "d", "0"]),
        ((1, 3), OwnWeights("d", -1, 0.5), ["1", "d", "0"]),
        ((1, 3), OwnWeights("d", -1, 1.5), ["d", "1", "0"]),
        ((-1, -1), OwnWeights("d", -1), ["1", "0"]),
        ((-1, -1), OwnWeights("d", 9), ["1", "0"]),
        ((), OwnWeights("d", 9), []),
    ],
)
def test_order_of_an_exports_own_weights_among_checkpoints(steps, own, order):
    assert [choice.digest for choice in ranked(checkpoints(*steps), own)] == order
