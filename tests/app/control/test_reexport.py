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
from tests.support.manager import SPEC, FakeBuilder, Harness, open_harness

SERVING = ServingInfo({}, {}, Noise(0, 0), dict.fromkeys(FUNCTIONS, "it has none"))


class TrainedBuilder(FakeBuilder):
    """One whose graphs have the train step in their file: `graph 50` has 50."""

    async def open(self, folder: Path, graphs: Path):
        graph = await super().open(folder, graphs)
        train_step = int((folder / "saved_model.pb").read_text().split()[-1])
        graph = replace(graph, train_step=train_step, serving=SERVING)
        graph.write()
        return graph

    async def prepare(self, graph, source, digest, destination, recorded, serving):
        self.train_step = graph.train_step
        return await super().prepare(graph, source, digest, destination, recorded, serving)


def save_again(harness: Harness, train_step: int, ago_s: float = 60.0, text: str = "graph") -> None:
    """As the saver does it, some time ago."""
    save(harness.policy, train_step, ago_s, text)


def save(policy: Path, train_step: int, ago_s: float = 120.0, text: str = "graph") -> None:
    policy.mkdir(exist_ok=True)
    staged = policy / ".staged"
    staged.write_text(f"{text} {train_step}")
    os.utime(staged, (time.time() - ago_s,) * 2)
    staged.replace(policy / "saved_model.pb")


def checkpoint(harness: Harness, name: str, train_step: int, ago_s: float) -> None:
    path = harness.put(name, train_step) / "variables" / "weights"
    os.utime(path, (time.time() - ago_s,) * 2)


def watching(tmp_path: Path, *there: tuple[str, int], train_step: int = 0, state: Path | None = None):
    if not (tmp_path / "saved_model.pb").exists():
        save(tmp_path, train_step)
    return open_harness(tmp_path, *there, builder=TrainedBuilder(), state=state)


async def scan(harness: Harness) -> tuple[str, int]:
    harness.manager.watch()
    await harness.manager.catch_up()
    return harness.serves


@pytest.mark.anyio
async def test_it_is_served_and_can_be_rolled_back(tmp_path):
    async with watching(tmp_path / "p") as harness:
        first = harness.graph
        for step in (10, 20):
            save_again(harness, step)
            assert harness.manager.stale()
            assert await scan(harness) == ("export", step)
            assert not harness.manager.stale()
            assert harness.graph.digest == harness.manager.active.digest
        assert len({v.digest for v in harness.manager.versions() if v.name == "export"}) == 3
        for step in (10, 0):
            await harness.manager.rollback()
            assert harness.serves == ("export", step)
            assert await scan(harness) == ("export", step)  # it is pinned
        assert harness.graph == first
        assert harness.manager.stale()
        await harness.manager.reload(None)
        assert harness.serves == ("export", 20)
        assert not harness.manager.stale()


@pytest.mark.anyio
async def test_what_is_served_is_what_was_trained_longest(tmp_path):
    async with watching(tmp_path / "p", ("a", 30)) as harness:
        assert harness.serves == ("a", 30)
        save_again(harness, 20)
        assert await scan(harness) == ("a", 30)
        assert harness.manager.stale()
        assert harness.states["export"] == "found"
        save_again(harness, 40)
        assert await scan(harness) == ("export", 40)
        harness.put("b", 35)
        assert await scan(harness) == ("export", 40)
        harness.put("c", 45)
        assert await scan(harness) == ("c", 45)


@pytest.mark.anyio
@pytest.mark.parametrize(("exported", "published"), [(7, 7), (-1, 7), (7, -1), (-1, -1)])
async def test_where_train_steps_are_equal_or_unknown_the_last_one_written_serves(tmp_path, exported, published):
    async with watching(tmp_path / "p") as harness:
        checkpoint(harness, "a", published, ago_s=50)
        assert await scan(harness) == ("a", published)
        save_again(harness, exported, ago_s=40)
        assert await scan(harness) == ("export", exported)
        checkpoint(harness, "b", published, ago_s=45)  # written before, found later
        assert await scan(harness) == ("export", exported)
        checkpoint(harness, "c", published, ago_s=30)
        assert await scan(harness) == ("c", published)


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["policy_specs.pbtxt", "assets/vocabulary"])
async def test_specs_and_assets_that_are_replaced_are_another_export_also_after_a_restart(tmp_path, name):
    path = tmp_path / "p" / name
    save(tmp_path / "p", 7)
    path.parent.mkdir(exist_ok=True)
    found = []
    for restart, content in ((False, "a b"), (False, "b a"), (True, "b a c")):
        path.write_text(content)
        os.utime(path, (time.time() - 60,) * 2)
        async with watching(tmp_path / "p", state=tmp_path / "state") as harness:
            found.append(harness.manager.active.digest)
            if restart:
                break
            path.write_text(f"{content} d")
            os.utime(path, (time.time() - 50,) * 2)
            assert harness.manager.stale()
            assert await scan(harness) == ("export", 7)
            assert not harness.manager.stale()
            found.append(harness.manager.active.digest)
    assert len(set(found)) == len(found) == 5


@pytest.mark.anyio
async def test_what_is_the_newest_serves_after_a_restart_too(tmp_path):
    async with watching(tmp_path / "p", ("a", 30), state=tmp_path / "state") as harness:
        save_again(harness, 40)
        assert await scan(harness) == ("export", 40)
    for state in (tmp_path / "state", tmp_path / "new"):
        async with watching(tmp_path / "p", state=state) as harness:
            assert harness.serves == ("export", 40)


@pytest.mark.anyio
async def test_that_it_was_saved_again_is_saved(tmp_path):
    async with watching(tmp_path / "p", state=tmp_path / "state") as harness:
        checkpoint(harness, "a", -1, ago_s=50)
        assert await scan(harness) == ("a", -1)
        save_again(harness, -1, ago_s=40)
        assert await scan(harness) == ("export", -1)
    async with watching(tmp_path / "p", state=tmp_path / "state") as harness:
        assert harness.serves == ("export", -1)


@pytest.mark.anyio
async def test_an_export_that_was_there_from_the_start_is_older_than_checkpoints_whatever_its_files_time(tmp_path):
    save(tmp_path / "p", 7, ago_s=3)  # as if it had been copied after the checkpoints
    async with watching(tmp_path / "p") as harness:
        checkpoint(harness, "a", 7, ago_s=500)
        assert await scan(harness) == ("a", 7)


@pytest.mark.anyio
@pytest.mark.parametrize("restart", [False, True])
async def test_a_roll_back_holds_over_it(tmp_path, restart):
    async with watching(tmp_path / "p", ("a", 1), state=tmp_path / "state") as harness:
        harness.put("b", 2)
        await scan(harness)
        await harness.manager.rollback()
        save_again(harness, 90)
        assert await scan(harness) == ("a", 1)
    async with watching(tmp_path / "p", state=tmp_path / "state") as harness:
        assert (harness.serves, harness.manager.pinned) == (("a", 1), "a")
        assert await scan(harness) == ("a", 1)
        await harness.manager.reload(None)
        assert harness.serves == ("export", 90)


@pytest.mark.anyio
async def test_a_checkpoint_is_gone_back_to_with_the_graph_that_it_served_with(tmp_path):
    async with watching(tmp_path / "p", ("a", 1), state=tmp_path / "state") as harness:
        first = harness.graph
        save_again(harness, 90, text="another architecture")
        assert await scan(harness) == ("export", 90)
        await harness.manager.rollback()
        assert (harness.serves, harness.graph) == (("a", 1), first)
    async with watching(tmp_path / "p", state=tmp_path / "state") as harness:
        assert (harness.serves, harness.graph) == (("a", 1), first)


def other_specs(builder: FakeBuilder) -> None:
    builder.spec = replace(SPEC, batch_size=3)


def broken(builder: FakeBuilder) -> None:
    builder.bad_graph = UnusablePolicy("it cannot be loaded")


@pytest.mark.anyio
@pytest.mark.parametrize(("change", "says"), [(other_specs, "other specs"), (broken, "it cannot be loaded")])
async def test_what_cannot_be_served_stays_stale_and_says_why(tmp_path, change: Callable, says: str):
    async with watching(tmp_path / "p") as harness:
        save_again(harness, 10)
        change(harness.builder)
        opened = harness.builder.opened
        for _ in range(3):
            assert await scan(harness) == ("export", 0)
        assert harness.builder.opened == opened + 1, "it has not changed"
        assert harness.manager.stale()
        assert says in harness.manager.export.reason
        refused = [v for v in harness.manager.versions() if v.state is State.REFUSED]
        assert [(v.name, says in v.reason) for v in refused] == [("export", True)]
        harness.put("a", 1)  # it holds nothing up
        assert await scan(harness) == ("a", 1)
        harness.builder.spec, harness.builder.bad_graph = SPEC, None
        save_again(harness, 20)
        assert await scan(harness) == ("export", 20)
        assert (harness.manager.stale(), harness.manager.export.reason) == (False, "")
        assert all(v.state is not State.REFUSED for v in harness.manager.versions())


@pytest.mark.anyio
async def test_weights_that_may_not_serve_change_nothing(tmp_path):
    async with watching(tmp_path / "p") as harness:
        save_again(harness, 10)
        harness.builder.export_is_bad = "the action is not finite"
        for _ in range(3):
            assert await scan(harness) == ("export", 0)
        assert harness.manager.export.reason == "checkpoint export is refused: the action is not finite"
        assert harness.builder.prepared.count("export") == 2
        harness.builder.export_is_bad = ""
        assert (await harness.manager.reload(None)).version == "export"  # whoever asks has it tried afresh
        assert harness.serves == ("export", 10)


@pytest.mark.anyio
async def test_what_is_being_written_is_waited_for(tmp_path):
    async with watching(tmp_path / "p") as harness:
        save_again(harness, 10, ago_s=0)
        harness.manager.watch()
        assert await harness.manager.catch_up() is not None
        assert harness.serves == ("export", 0)
        (harness.policy / "policy_specs.pbtxt").write_text("")
        for name, ago_s in (("saved_model.pb", 0.6), ("policy_specs.pbtxt", 0.9)):
            os.utime(harness.policy / name, (time.time() - ago_s,) * 2)
        assert await harness.manager.catch_up() is not None, "its specs come last"
        assert harness.serves == ("export", 0)
        os.utime(harness.policy / "policy_specs.pbtxt", (time.time() - 0.4,) * 2)
        assert await harness.manager.catch_up() is None
        assert harness.serves == ("export", 10)


@pytest.mark.anyio
async def test_what_changes_while_it_is_read_is_read_again(tmp_path):
    async with watching(tmp_path / "p") as harness:
        save_again(harness, 10)
        opened = harness.builder.open

        async def open_slowly(folder: Path, graphs: Path):
            graph = await opened(folder, graphs)
            harness.builder.open = opened
            save_again(harness, 20)
            return graph

        harness.builder.open = open_slowly
        harness.manager.watch()
        assert await harness.manager.catch_up() is not None
        assert harness.serves == ("export", 0)
        assert await scan(harness) == ("export", 20)


@pytest.mark.anyio
async def test_it_may_be_deleted_before_it_is_saved_again(tmp_path):
    async with watching(tmp_path / "p") as harness:
        (harness.policy / "saved_model.pb").unlink()
        assert await scan(harness) == ("export", 0)
        assert all(v.state is not State.REFUSED for v in harness.manager.versions())
        save_again(harness, 10)
        assert await scan(harness) == ("export", 10)


@pytest.mark.anyio
async def test_the_same_bytes_are_no_new_version(tmp_path):
    async with watching(tmp_path / "p") as harness:
        save_again(harness, 0, ago_s=10)
        assert harness.manager.stale()
        assert await scan(harness) == ("export", 0)
        assert not harness.manager.stale()
        assert harness.builder.prepared == ["export"]


@pytest.mark.anyio
async def test_without_watching_a_reload_takes_it_if_it_was_trained_longer(tmp_path):
    async with watching(tmp_path / "p", ("a", 30)) as harness:
        for step, serves in ((30, ("a", 30)), (-1, ("a", 30)), (40, ("export", 40))):
            save_again(harness, step)
            await harness.manager.reload(None)
            assert harness.serves == serves


@pytest.mark.anyio
async def test_a_pin_by_reload_holds(tmp_path):
    async with watching(tmp_path / "p", ("a", 30)) as harness:
        for name in ("a", "export"):
            await harness.manager.reload(name)
            serves = harness.serves
            save_again(harness, 90)
            assert await scan(harness) == serves


async def _refused(manager: Manager) -> None:
    with pytest.raises(SwapRefused):
        await manager.reload_export()


@pytest.mark.anyio
async def test_it_can_still_be_asked_for(tmp_path):
    async with watching(tmp_path / "p", ("a", 30)) as harness:
        save_again(harness, 20)
        await scan(harness)
        swapped = await harness.manager.reload_export()
        assert (swapped.version, harness.serves, harness.manager.pinned) == ("export", ("export", 20), "export")
        save_again(harness, 25)
        other_specs(harness.builder)
        await _refused(harness.manager)
        assert harness.serves == ("export", 20)


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
