import asyncio
import contextlib
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.artifacts.bundle import Bundle, Graph, Prepared
from app.artifacts.export import identify_export
from app.control import history as history_module
from app.control import manager as manager_module
from app.control.manager import Manager
from app.control.source import Source
from app.control.state_dir import StateDir
from app.control.states import State
from app.engine.fake import FakeEngine
from app.errors import LinkLost, SwapRefused, TooOld, UnknownVersion, UnusablePolicy
from app.metrics import Metrics
from app.versions.loaded import LoadedVersions
from saver.artifact import Noise, PolicySpec, ServingInfo, read_checkpoint_manifest, write_checkpoint_manifest
from tests.support.checkpoints import contents, digest, identify, put

SPEC = PolicySpec((), (), (), (), (), None, True, {})
SERVING = ServingInfo({}, {}, Noise(0, 0), {})


class FakeBuilder:
    """A builder driven by hand. A version's bundle has the train step that its checkpoint says."""

    def __init__(self, train_step: int = 0) -> None:
        self.train_step = train_step
        self.export_is_bad = ""
        self.spec = SPEC
        self.bad_graph: Exception | None = None
        self.prepared: list[str] = []
        self.opened = 0
        self.crash: Exception | None = None
        self.go_on = threading.Event()
        self.go_on.set()
        self.entered = threading.Event()

    async def open(self, folder: Path, graphs: Path) -> Graph:
        self.opened += 1
        if self.bad_graph is not None:
            raise self.bad_graph
        graph = Graph(graphs / identify_export(folder).digest, identify_export(folder).digest, self.spec, SERVING, True)
        graph.folder.mkdir(parents=True, exist_ok=True)
        graph.write()
        return graph

    async def prepare(
        self, graph: Graph, source: Path | None, digest: str, destination: Path, recorded, serving
    ) -> Prepared:
        self.prepared.append(source.name if source else "export")
        self.entered.set()
        await asyncio.get_running_loop().run_in_executor(None, self.go_on.wait, 10)
        if self.crash is not None:
            raise self.crash
        data = contents(source) if source else {"train_step": self.train_step}
        refusal = data.get("refuse") if source else self.export_is_bad
        if refusal:
            raise SwapRefused(refusal)
        destination.mkdir(exist_ok=True)
        bundle = Bundle(destination, graph.digest, digest, data["train_step"], "fake", "", {"name": destination.name})
        bundle.write()
        return Prepared(bundle)

    async def check(self, graph: Graph, folder: Path) -> int:
        return int(contents(folder)["train_step"])


class FakeLoader:
    """Engines whose `number` is the train step of what they hold."""

    def __init__(self) -> None:
        self.refusal: Exception | None = None
        self.go_on = threading.Event()
        self.go_on.set()
        self.entered = threading.Event()

    def load(self, graph: Graph, bundle: Bundle) -> FakeEngine:
        self.entered.set()
        self.go_on.wait()
        if self.refusal is not None:
            raise self.refusal
        return FakeEngine(bundle.train_step)

    def stand_by(self, graph: Graph, bundle: Bundle) -> None:
        pass

    def give_back(self, engine: Any) -> None:
        pass


class LocalWorker:
    """A worker in this process. `gone_at`: the call at which its process has ended."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self.loader = FakeLoader()
        self.copies = LoadedVersions(self.loader, executor)
        self.gone_at = ""
        self.did: list[str] = []

    def _call(self, name: str) -> None:
        self.did.append(name)
        if name == self.gone_at:
            raise LinkLost(name)

    async def prepare(self, graph: Graph, bundle: Bundle) -> None:
        self._call("prepare")
        await self.copies.prepare(graph, bundle)

    async def activate(self, name: str, digest: str) -> None:
        self._call("activate")
        self.copies.activate(name, digest)

    async def drained(self) -> None:
        self._call("drained")
        await self.copies.drained()

    async def pause(self, mode: str) -> None:
        self._call(f"pause {mode}")

    async def resume(self) -> None:
        self._call("resume")

    async def recorded(self) -> list:
        return []


class Harness:
    """A manager over a temporary folder of checkpoints, and one worker."""

    def __init__(self, policy: Path, builder: FakeBuilder, executor: ThreadPoolExecutor, state_dir: StateDir) -> None:
        self.policy = policy
        self.checkpoints = policy / "checkpoints"
        self.builder = builder
        self.metrics = Metrics()
        self.executor = executor
        self.state_dir = state_dir
        source = Source(policy, lambda folder, rest_s: self._identify(folder, rest_s))
        self._identify: Callable[[Path, float], Any] = identify
        self.manager = Manager("p", policy, builder, source, state_dir, executor, self.metrics.policy("p"))
        self.worker = LocalWorker(executor)

    def put(self, name: str, train_step: int, **more: str) -> Path:
        return put(self.checkpoints, name, train_step, **more)

    def identify_by_manifest(self) -> None:
        self._identify = lambda folder, rest_s: read_checkpoint_manifest(folder) or identify(folder, rest_s)

    def replace_graph(self, content: str) -> None:
        (self.policy / "saved_model.pb").write_text(content)

    @property
    def graph(self) -> Graph:
        with self.manager.offered() as (_, graph, _):
            return graph

    @property
    def loaded(self) -> Any:
        return self.worker.copies.active

    @property
    def serves(self) -> tuple[str, int]:
        """The active version's name, and the train step of what the worker's engine really holds."""
        version = self.manager.active
        assert version.state is State.ACTIVE
        assert (self.loaded.version.name, self.loaded.version.digest) == version.key
        assert version.train_step == self.loaded.version.train_step == self.loaded.engine.number
        return version.name, version.train_step

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

    async def admit(self) -> LocalWorker:
        """One more worker."""
        worker = LocalWorker(self.executor)
        with self.manager.offered() as (version, graph, bundle):
            await worker.copies.begin(version.name, graph, bundle)
            await self.manager.admit(worker, version.key)
        return worker

    async def preparing(self) -> None:
        """Returns once the builder is inside a preparation."""
        await asyncio.get_running_loop().run_in_executor(None, self.builder.entered.wait, 10)


@asynccontextmanager
async def open_harness(
    policy: Path, *there: tuple[str, int], builder: FakeBuilder | None = None, state: Path | None = None
) -> AsyncIterator[Harness]:
    """`state` is the folder that a restart finds again."""
    for name, train_step in there:
        put(policy / "checkpoints", name, train_step)
    policy.mkdir(exist_ok=True)
    if not (policy / "saved_model.pb").exists():
        (policy / "saved_model.pb").write_text("the first graph")
    folder = state or Path(tempfile.mkdtemp(dir=policy.parent))
    with ThreadPoolExecutor(2) as executor, StateDir(folder).opened() as state_dir:
        harness = Harness(policy, builder or FakeBuilder(), executor, state_dir)
        await harness.manager.start()
        harness.worker = await harness.admit()
        try:
            yield harness
        finally:
            harness.builder.go_on.set()
            await harness.manager.close()


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


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
        async with open_harness(tmp_path, *there) as harness:
            assert harness.serves == serves
            assert harness.manager.pinned is None
            assert harness.counted("train_step") == serves[1]

    run(test)


def test_start_passes_over_refused_checkpoints_to_the_next_best_and_tells_why(tmp_path):
    put(tmp_path / "checkpoints", "b", 9, refuse="it holds NaN")
    put(tmp_path / "checkpoints", "c", 8, unreadable="its index is damaged")
    put(tmp_path / "checkpoints", "d", 7, refuse="another architecture")

    async def test() -> None:
        async with open_harness(tmp_path, ("a", 3), ("z", 2)) as harness:
            assert harness.serves == ("a", 3)
            assert harness.reasons == {
                "b": "it holds NaN",
                "c": "its index is damaged",
                "d": "another architecture",
            }
            refused = dict.fromkeys("bcd", "refused")
            assert harness.states == refused | {"a": "active", "z": "found"}
            assert harness.counted("refused_versions_total") == 3

    run(test)


def test_start_serves_the_export_where_every_checkpoint_is_refused(tmp_path):
    put(tmp_path / "checkpoints", "a", 9, refuse="it holds NaN")

    async def test() -> None:
        async with open_harness(tmp_path) as harness:
            assert harness.serves == ("export", 0)

    run(test)


def test_export_that_fails_on_probe_inputs_is_no_policy(tmp_path):
    builder = FakeBuilder()
    builder.export_is_bad = "the action is not finite"

    async def test() -> None:
        with pytest.raises(SwapRefused, match="the action is not finite"):
            async with open_harness(tmp_path, builder=builder):
                pass

    run(test)


def test_a_checkpoint_that_may_serve_is_enough_whatever_the_exports_own_weights_are(tmp_path):
    builder = FakeBuilder()
    builder.export_is_bad = "the action is not finite"

    async def test() -> None:
        async with open_harness(tmp_path, ("a", 1), builder=builder) as harness:
            assert harness.serves == ("a", 1)

    run(test)


# Reload


def test_reload_swaps_to_the_newest_and_tells_what_served_before(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path, ("a", 1)) as harness:
            harness.put("b", 2)
            harness.put("c", 3)
            swapped = await harness.manager.reload(None)
            assert (swapped.version, swapped.previous) == ("c", "a")
            assert swapped.took_ms > 0
            assert harness.serves == ("c", 3)
            assert harness.states == {"a": "released", "b": "found", "c": "active"}
            assert harness.loaded.version.metadata == {"name": harness.manager.active.digest}
            assert harness.counted("swaps_total") == 1
            assert harness.counted("train_step") == 3

    run(test)


def test_reload_by_name_pins_and_reload_of_the_newest_unpins(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path, ("a", 1), ("b", 2)) as harness:
            await harness.manager.reload("a")
            assert (harness.serves, harness.manager.pinned) == (("a", 1), "a")
            harness.put("c", 3)
            assert await harness.manager.catch_up() is None
            assert harness.serves == ("a", 1)
            await harness.manager.reload(None)
            assert (harness.serves, harness.manager.pinned) == (("c", 3), None)
            harness.put("d", 4)
            await harness.manager.catch_up()
            assert harness.serves == ("d", 4)

    run(test)


def test_reload_of_what_serves_changes_nothing(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path, ("a", 1)) as harness:
            engine, tried = harness.loaded.engine, harness.builder.prepared.copy()
            for name in (None, "a"):
                swapped = await harness.manager.reload(name)
                assert swapped.previous == swapped.version
                assert harness.loaded.engine is engine
            assert harness.builder.prepared == tried
            assert harness.manager.pinned == "a"

    run(test)


def test_reload_by_name_may_go_back_to_older_weights(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path, ("a", 1), ("b", 2)) as harness:
            assert (await harness.manager.reload("a")).previous == "b"
            assert (await harness.manager.reload("b")).previous == "a"
            assert harness.serves == ("b", 2)

    run(test)


def test_reload_of_an_unknown_name_lists_what_there_is(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path, ("a", 1), ("b", 2)) as harness:
            with pytest.raises(UnknownVersion, match=r"no checkpoint 'x'; the newest are: b, a"):
                await harness.manager.reload("x")
            assert (harness.serves, harness.manager.pinned) == (("b", 2), None)

    run(test)


@pytest.mark.parametrize("name", ["bad", None])
def test_refused_checkpoint_leaves_the_old_weights_serving(tmp_path, name):
    async def test() -> None:
        async with open_harness(tmp_path) as harness:
            harness.put("bad", 9, refuse="it holds NaN")
            engine = harness.loaded.engine
            with pytest.raises(SwapRefused, match="checkpoint bad is refused: it holds NaN"):
                await harness.manager.reload(name)
            assert (harness.serves, harness.manager.pinned) == (("export", 0), None)
            assert harness.loaded.engine is engine
            assert (harness.states["bad"], harness.reasons["bad"]) == ("refused", "it holds NaN")

    run(test)


def test_refused_reload_keeps_the_pin(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path, ("a", 1), ("b", 2)) as harness:
            await harness.manager.reload("a")
            harness.put("bad", 9, refuse="it holds NaN")
            with pytest.raises(SwapRefused):
                await harness.manager.reload("bad")
            assert (harness.serves, harness.manager.pinned) == (("a", 1), "a")

    run(test)


def test_reload_of_the_newest_falls_to_the_next_best_that_may_serve(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path, ("a", 1)) as harness:
            harness.put("bad", 9, refuse="it holds NaN")
            harness.put("b", 5)
            assert (await harness.manager.reload(None)).version == "b"
            assert harness.reasons == {"bad": "it holds NaN"}

    run(test)


def test_unreadable_checkpoint_is_refused_by_name_with_its_reason(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path, ("a", 1)) as harness:
            harness.put("bad", 9, unreadable="its index is damaged")
            with pytest.raises(SwapRefused, match="checkpoint bad is refused: its index is damaged"):
                await harness.manager.reload("bad")
            assert harness.serves == ("a", 1)

    run(test)


def test_explicit_reload_looks_afresh_at_what_was_refused(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path, ("a", 1)) as harness:
            harness.builder.crash = SwapRefused("the disk was full")
            harness.put("b", 2)
            await harness.manager.catch_up()
            await harness.manager.catch_up()
            assert harness.builder.prepared == ["a", "b"]  # watching does not try it a second time
            harness.builder.crash = None
            await harness.manager.reload("b")
            assert harness.serves == ("b", 2)
            assert harness.reasons == {}

    run(test)


def test_reload_waits_for_a_checkpoint_that_is_still_being_written(tmp_path, monkeypatch):
    monkeypatch.setattr(manager_module, "REST_S", 0.0)

    async def test() -> None:
        async with open_harness(tmp_path, ("a", 1)) as harness:
            harness.put("b", 2, incomplete="1 of 2 data files are there")
            reload = asyncio.create_task(harness.manager.reload("b"))
            for _ in range(20):
                await asyncio.sleep(0)
            assert not reload.done()
            harness.put("b", 2)
            assert (await reload).version == "b"

    run(test)


def test_checkpoint_that_stays_incomplete_is_refused_but_not_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(manager_module, "PATIENCE_S", 0.0)

    async def test() -> None:
        async with open_harness(tmp_path, ("a", 1)) as harness:
            harness.put("b", 2, incomplete="1 of 2 data files are there")
            with pytest.raises(SwapRefused, match="checkpoint b is incomplete: 1 of 2 data files are there"):
                await harness.manager.reload("b")
            assert "b" not in harness.states
            harness.put("b", 2)
            await harness.manager.reload("b")
            assert harness.serves == ("b", 2)

    run(test)


def test_reload_of_the_newest_waits_for_a_newer_one_that_is_still_being_written(tmp_path, monkeypatch):
    monkeypatch.setattr(manager_module, "REST_S", 0.0)

    async def test() -> None:
        async with open_harness(tmp_path, ("a", 1)) as harness:
            harness.put("b", 2, incomplete="its files changed just now")
            reload = asyncio.create_task(harness.manager.reload(None))
            for _ in range(20):
                await asyncio.sleep(0)
            assert not reload.done()
            harness.put("b", 2)
            assert (await reload).version == "b"

    run(test)


def test_checkpoint_that_nobody_writes_any_more_is_refused_without_waiting(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path, ("a", 1)) as harness:
            harness.put("b", 2, incomplete="1 of 2 data files are there", settled="yes")
            began = asyncio.get_running_loop().time()
            with pytest.raises(SwapRefused, match="checkpoint b is incomplete: 1 of 2 data files are there"):
                await harness.manager.reload("b")
            assert asyncio.get_running_loop().time() - began < manager_module.PATIENCE_S / 2
            assert await harness.manager.catch_up() is None  # and not worth another look

    run(test)


def test_reload_of_the_newest_does_not_wait_for_a_checkpoint_that_nobody_writes_any_more(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path) as harness:
            harness.put("a", 1)
            harness.put("b", 2, incomplete="1 of 2 data files are there", settled="yes")
            swapped = await harness.manager.reload(None)
            assert swapped.version == "a"
            assert swapped.took_ms < 1000 * manager_module.PATIENCE_S

    run(test)


def test_same_bytes_under_another_name_serve_under_the_name_that_was_asked_for(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path, ("a", 1)) as harness:
            harness.put("copy", 1)
            await harness.manager.catch_up()
            assert harness.serves == ("a", 1)  # for watching they are nothing new
            swapped = await harness.manager.reload("copy")
            assert (swapped.version, swapped.previous) == ("copy", "a")

    run(test)


# The export


def test_reload_of_the_export_serves_its_own_weights_and_pins(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path, ("a", 1)) as harness:
            swapped = await harness.manager.reload("export")
            assert (swapped.version, swapped.previous) == ("export", "a")
            assert (harness.serves, harness.manager.pinned) == (("export", 0), "export")
            await harness.manager.reload(None)
            assert harness.serves == ("a", 1)

    run(test)


def test_reload_of_the_newest_serves_the_export_where_no_checkpoint_is_left(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path, ("a", 1)) as harness:
            shutil.rmtree(harness.checkpoints)
            await harness.manager.reload(None)
            assert (harness.serves, harness.manager.pinned) == (("export", 0), None)

    run(test)


def test_export_can_be_asked_for_while_it_still_drains(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path) as harness:
            with harness.loaded.lease():
                harness.put("a", 1)
                await harness.manager.catch_up()
                assert harness.states == {"a": "active", "export": "draining"}
                reload = asyncio.create_task(harness.manager.reload("export"))
                await asyncio.sleep(0.01)
                assert not reload.done()
            assert (await reload).version == "export"
            assert harness.serves == ("export", 0)

    run(test)


def test_new_graph_serves_its_own_weights_and_what_was_prepared_under_the_old_one_is_prepared_again(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path, ("a", 1)) as harness:
            assert not harness.manager.stale()
            first = harness.graph
            harness.replace_graph("another graph")
            harness.builder.train_step = 50
            assert harness.manager.stale()
            swapped = await harness.manager.reload_export()
            assert (swapped.version, swapped.previous) == ("export", "a")
            assert (harness.serves, harness.manager.pinned) == (("export", 50), "export")
            assert not harness.manager.stale()
            assert not first.folder.exists()
            await harness.manager.rollback()  # the weights of before, under the new graph
            assert harness.serves == ("a", 1)
            assert harness.graph.digest != first.digest
            assert harness.builder.prepared == ["a", "export", "a"]

    run(test)


def test_there_is_no_way_back_to_the_weights_of_an_export_that_was_replaced(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path) as harness:
            harness.replace_graph("another graph")
            await harness.manager.reload_export()
            with pytest.raises(SwapRefused, match="no version served before export"):
                await harness.manager.rollback()

    run(test)


def test_reloading_a_graph_that_has_not_changed_forgets_nothing(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path, ("a", 1), ("b", 2)) as harness:
            await harness.manager.reload("a")
            await harness.manager.reload_export()
            assert harness.serves == ("export", 0)
            await harness.manager.rollback()
            await harness.manager.rollback()
            assert harness.serves == ("b", 2)

    run(test)


def test_graph_that_may_not_serve_changes_nothing(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path, ("a", 1)) as harness:
            harness.replace_graph("another graph")
            harness.builder.bad_graph = UnusablePolicy("it cannot be loaded")
            with pytest.raises(SwapRefused, match="it cannot be loaded"):
                await harness.manager.reload_export()
            assert (harness.serves, harness.manager.pinned) == (("a", 1), None)
            harness.put("b", 2)
            await harness.manager.catch_up()
            assert harness.serves == ("b", 2)

    run(test)


def test_graph_with_other_specs_is_refused(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path, ("a", 1)) as harness:
            harness.replace_graph("another graph")
            harness.builder.spec = replace(SPEC, batch_size=3)
            with pytest.raises(SwapRefused, match="other specs: a server started anew can serve it"):
                await harness.manager.reload_export()
            assert (harness.serves, harness.manager.pinned) == (("a", 1), None)

    run(test)


# What was prepared before


def test_what_was_prepared_before_is_not_prepared_again(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path, ("a", 1), ("b", 2)) as harness:
            for name in ("a", "b", "export", "a", "b", "export"):
                await harness.manager.reload(name)
            assert harness.builder.prepared == ["b", "a", "export"]
            assert harness.serves == ("export", 0)

    run(test)


def test_files_that_changed_under_a_manifest_are_refused_though_their_digest_is_known(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path, ("a", 1)) as harness:
            folder = harness.put("b", 2)
            write_checkpoint_manifest(folder, 2)
            harness.identify_by_manifest()
            await harness.manager.reload("b")
            await harness.manager.reload("a")
            (folder / "variables" / "weights").write_text("{}")
            with pytest.raises(SwapRefused, match="variables/weights has sha256"):
                await harness.manager.reload("b")
            assert harness.serves == ("a", 1)

    run(test)


def test_refused_for_want_of_room_is_tried_again_at_the_next_look(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path) as harness:
            harness.put("a", 1)
            harness.builder.crash = SwapRefused("no space left", for_now=True)
            await harness.manager.catch_up()
            assert (harness.states["a"], harness.reasons["a"]) == ("refused", "no space left")
            harness.builder.crash = None
            await harness.manager.catch_up()
            assert harness.serves == ("a", 1)

    run(test)


def test_manifest_over_the_files_of_an_older_version_is_refused_and_nothing_alternates(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path, ("a", 1)) as harness:
            harness.put("c", 5)
            await harness.manager.catch_up()
            assert harness.serves == ("c", 5)
            lying = harness.put("b", 1)  # what a holds
            harness._identify = lambda folder, rest_s: (
                replace(identify(folder, rest_s), train_step=10) if folder == lying else identify(folder, rest_s)
            )
            for _ in range(4):
                await harness.manager.catch_up()
                assert harness.serves == ("c", 5)
            assert harness.reasons == {"b": "checkpoint.json says train step 10, the weights say 1"}
            assert harness.counted("refused_versions_total") == 1
            with pytest.raises(SwapRefused, match="says train step 10"):
                await harness.manager.reload("b")

    run(test)


def test_where_there_is_no_room_the_oldest_version_to_roll_back_to_goes(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path, ("a", 1)) as harness:
            for step in range(2, 6):
                harness.put("a", step)
                await harness.manager.catch_up()
            prepare, versions = harness.builder.prepare, harness.state_dir.place("x").parent
            assert len(list(versions.iterdir())) == 5

            async def prepare_with_room_for(*args: Any) -> Prepared:
                if len(list(versions.iterdir())) > room:
                    refusal = SwapRefused("no room for a copy of it", for_now=True)
                    refusal.no_room = True
                    raise refusal
                return await prepare(*args)

            harness.builder.prepare = prepare_with_room_for
            room = 2
            harness.put("a", 6)
            await harness.manager.catch_up()
            assert harness.serves == ("a", 6)
            assert (await harness.manager.rollback()).train_step == 5
            room = 0  # not even the active one's place would do
            harness.put("b", 7)
            with pytest.raises(SwapRefused, match="no room"):
                await harness.manager.reload("b")
            assert harness.serves == ("a", 5)

    run(test)


# Several workers


def test_all_workers_switch_and_none_before_all_are_ready(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path, ("a", 1)) as harness:
            other = await harness.admit()
            harness.put("b", 2)
            other.loader.go_on.clear()
            reload = asyncio.create_task(harness.manager.reload(None))
            await _until(lambda: "prepare" in harness.worker.did)
            await asyncio.sleep(0.01)
            assert [worker.copies.active.version.name for worker in (harness.worker, other)] == ["a", "a"]
            other.loader.go_on.set()
            await reload
            assert [worker.copies.active.version.name for worker in (harness.worker, other)] == ["b", "b"]

    run(test)


def test_version_that_one_worker_cannot_load_serves_on_none(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path, ("a", 1)) as harness:
            other = await harness.admit()
            other.loader.refusal = MemoryError("too large")
            harness.put("b", 2)
            with pytest.raises(SwapRefused, match="b is refused: it cannot be loaded: MemoryError: too large"):
                await harness.manager.reload("b")
            assert [worker.copies.active.version.name for worker in (harness.worker, other)] == ["a", "a"]
            assert harness.states == {"a": "active", "b": "refused"}
            other.loader.refusal = None
            await harness.manager.reload("b")
            assert [worker.copies.active.version.name for worker in (harness.worker, other)] == ["b", "b"]

    run(test)


@pytest.mark.parametrize("at", ["prepare", "activate", "drained"])
def test_worker_that_ends_in_the_middle_of_a_swap_is_left_out(tmp_path, at):
    async def test() -> None:
        async with open_harness(tmp_path, ("a", 1)) as harness:
            other = await harness.admit()
            other.gone_at = at
            harness.put("b", 2)
            assert (await harness.manager.reload(None)).version == "b"
            assert harness.serves == ("b", 2)
            asked = len(other.did)
            await harness.manager.reload("a")
            assert len(other.did) == asked

    run(test)


def test_worker_that_comes_back_gets_the_version_that_serves_by_then(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path, ("a", 1)) as harness:
            late = LocalWorker(harness.executor)
            with harness.manager.offered() as (version, graph, bundle):
                for step in range(2, 12):  # more than are kept
                    harness.put("b", step)
                    await harness.manager.reload(None)
                assert bundle.folder.is_dir()
                await late.copies.begin(version.name, graph, bundle)
                await harness.manager.pause("wait")
                assert late.copies.active.version.name == "a"
                await harness.manager.admit(late, version.key)
            await harness.manager.reload("export")
            assert not bundle.folder.exists()
            await harness.manager.reload("b")
            assert late.copies.active.version.name == "b"
            assert late.did[:3] == ["prepare", "activate", "pause wait"]

    run(test)


@pytest.mark.parametrize("moment", ["builder", "another worker", "activate"])
def test_worker_is_admitted_in_the_middle_of_a_swap_and_ends_with_its_version(tmp_path, moment):
    async def test() -> None:
        async with open_harness(tmp_path, ("a", 1)) as harness:
            late, switching, switch = LocalWorker(harness.executor), asyncio.Event(), asyncio.Event()
            with harness.manager.offered() as (version, graph, bundle):
                await late.copies.begin(version.name, graph, bundle)
            executor = ThreadPoolExecutor(1)
            harness.worker.copies._executor = executor  # the one that is late can load meanwhile
            activate = harness.worker.activate

            async def activate_later(*key: str) -> None:
                switching.set()
                await switch.wait()
                await activate(*key)

            harness.worker.activate = activate_later
            if moment == "builder":
                harness.builder.go_on.clear()
            if moment == "another worker":
                harness.worker.loader.go_on.clear()
            harness.put("b", 2)
            reload = asyncio.create_task(harness.manager.reload(None))
            if moment == "builder":
                await _until(harness.builder.entered.is_set)
            elif moment == "another worker":
                await _until(lambda: "prepare" in harness.worker.did)
            else:
                await switching.wait()
            await asyncio.wait_for(harness.manager.admit(late, version.key), 5)
            assert not reload.done()
            # Before the others are sure to switch, it runs what they run.
            assert late.copies.active.version.name == ("b" if moment == "activate" else "a")
            harness.builder.go_on.set()
            harness.worker.loader.go_on.set()
            switch.set()
            assert (await reload).version == "b"
            assert [worker.copies.active.version.name for worker in (harness.worker, late)] == ["b", "b"]
            executor.shutdown()

    run(test)


def test_a_pause_is_one_of_all_workers(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path) as harness:
            other = await harness.admit()
            assert await harness.manager.pause("reject") == "reject"
            await harness.manager.resume()
            assert harness.worker.did == other.did == ["pause reject", "resume"]

    run(test)


# Trouble, and batches that still run


def test_crash_of_the_builder_leaves_the_old_weights_serving_and_the_next_swap_goes_well(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path) as harness:
            harness.put("a", 1)
            harness.builder.crash = MemoryError("no room")
            with pytest.raises(MemoryError):
                await harness.manager.reload("a")
            assert (harness.serves, harness.manager.pinned) == (("export", 0), None)
            harness.builder.crash = None
            await harness.manager.reload("a")
            assert harness.serves == ("a", 1)

    run(test)


def test_old_weights_serve_until_the_new_ones_are_ready(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path) as harness:
            harness.put("a", 1)
            harness.builder.entered.clear()
            harness.builder.go_on.clear()
            reload = asyncio.create_task(harness.manager.reload(None))
            await harness.preparing()
            assert harness.serves == ("export", 0)
            assert harness.states == {"a": "found", "export": "active"}
            harness.builder.go_on.set()
            await reload
            assert harness.serves == ("a", 1)

    run(test)


# Draining


def test_reload_answers_when_no_batch_runs_on_older_weights(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path, ("a", 1)) as harness:
            harness.put("b", 2)
            with harness.loaded.lease() as old:
                reload = asyncio.create_task(harness.manager.reload(None))
                await _until(lambda: harness.loaded is not old and harness.manager.active.name == "b")
                assert harness.serves == ("b", 2)  # new batches run on it at once
                assert harness.states["a"] == "draining"
                await asyncio.sleep(0.01)
                assert not reload.done()
            await reload
            assert harness.states["a"] == "released"

    run(test)


def test_no_swap_begins_while_a_batch_still_runs_on_the_version_before_the_last(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path, ("a", 1)) as harness:
            with harness.loaded.lease() as old:
                harness.put("b", 2)
                await harness.manager.catch_up()
                harness.put("c", 3)
                catching_up = asyncio.create_task(harness.manager.catch_up())
                await asyncio.sleep(0.01)
                assert harness.builder.prepared == ["a", "b"]
                assert old.engine.number == 1
            await catching_up
            assert harness.serves == ("c", 3)

    run(test)


async def _until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.001)


# Watching


def test_catching_up_swaps_forwards_only(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path, ("b", 5)) as harness:
            harness.put("older", 4)
            await harness.manager.catch_up()
            assert harness.serves == ("b", 5)
            harness.put("newer", 6)
            await harness.manager.catch_up()
            assert harness.serves == ("newer", 6)
            shutil.rmtree(harness.checkpoints / "newer")
            await harness.manager.catch_up()
            assert harness.serves == ("newer", 6)

    run(test)


def test_overwritten_checkpoint_is_a_new_version(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path, ("a", 5)) as harness:
            old = harness.manager.active
            harness.put("a", 4)
            await harness.manager.catch_up()
            assert harness.serves == ("a", 4)
            assert harness.manager.active.digest == digest(harness.checkpoints / "a") != old.digest
            await _until(lambda: old.state is State.RELEASED)

    run(test)


def test_refused_checkpoint_is_tried_once_and_again_when_its_bytes_change(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path, ("a", 1)) as harness:
            harness.put("b", 2, refuse="it holds NaN")
            for _ in range(3):
                await harness.manager.catch_up()
            assert harness.builder.prepared == ["a", "b"]
            harness.put("b", 2)
            await harness.manager.catch_up()
            assert harness.serves == ("b", 2)
            assert harness.counted("refused_versions_total") == 1

    run(test)


def test_unreadable_checkpoint_is_told_and_counted_once(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path, ("a", 1)) as harness:
            harness.put("b", 2, unreadable="its index is damaged")
            for _ in range(3):
                await harness.manager.catch_up()
            assert harness.reasons == {"b": "its index is damaged"}
            assert harness.counted("refused_versions_total") == 1

    run(test)


def test_catching_up_says_when_another_look_is_worth_it(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path, ("a", 1)) as harness:
            assert await harness.manager.catch_up() is None
            harness.put("b", 2, incomplete="its files changed just now")
            assert await harness.manager.catch_up() == manager_module.REST_S
            assert harness.serves == ("a", 1)
            harness.put("b", 2)
            assert await harness.manager.catch_up() is None
            assert harness.serves == ("b", 2)

    run(test)


# Freshness


def test_waiting_for_what_serves_already_is_over_at_once(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path, ("a", 5)) as harness:
            for step in (-1, 4, 5):
                await harness.manager.wait_for(step)

    run(test)


def test_waiting_looks_for_newer_weights_itself(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path, ("a", 5)) as harness:
            harness.put("b", 7)
            await harness.manager.wait_for(6)
            assert harness.serves == ("b", 7)

    run(test)


def test_waiting_ends_when_weights_that_are_new_enough_serve(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path, ("a", 5)) as harness:
            waiting = asyncio.create_task(harness.manager.wait_for(9))
            for step in (7, 8, 9):
                await asyncio.sleep(0.005)
                assert not waiting.done()
                harness.put(f"s{step}", step)
                await harness.manager.catch_up()
            await waiting
            assert harness.serves == ("s9", 9)

    run(test)


def test_waiting_can_be_given_up(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path, ("a", 5)) as harness:
            waiting = asyncio.create_task(harness.manager.wait_for(9))
            await asyncio.sleep(0.005)
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting
            harness.put("b", 9)
            await harness.manager.catch_up()
            assert harness.serves == ("b", 9)

    run(test)


def test_swap_goes_on_when_the_one_who_waited_for_it_is_gone(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path) as harness:
            harness.put("a", 1)
            harness.builder.go_on.clear()
            waiting = asyncio.create_task(harness.manager.wait_for(1))
            await harness.preparing()
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting
            harness.builder.go_on.set()
            await _until(lambda: harness.manager.active.name == "a")
            assert harness.serves == ("a", 1)

    run(test)


def test_no_waiting_for_newer_weights_than_those_that_are_pinned(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path, ("a", 5), ("b", 7)) as harness:
            await harness.manager.reload("a")
            await harness.manager.wait_for(5)
            with pytest.raises(TooOld, match=r"version a \(train step 5\) is pinned, min_train_step is 6"):
                await harness.manager.wait_for(6)

    run(test)


# Many at once


def test_concurrent_reloads_go_one_after_the_other(tmp_path):
    async def test() -> None:
        names = [f"s{step}" for step in range(1, 9)]
        async with open_harness(tmp_path, *((name, int(name[1:])) for name in names)) as harness:
            asked = [names[(3 * i) % 8] for i in range(16)]
            swaps = await asyncio.gather(*(harness.manager.reload(name) for name in asked))
            assert [swap.version for swap in swaps] == asked
            assert [swap.previous for swap in swaps] == ["s8", *asked[:-1]]
            assert harness.serves[0] == harness.manager.pinned == asked[-1]
            assert list(harness.states.values()).count("active") == 1
            assert "draining" not in harness.states.values()

    run(test)


def test_reloads_between_refusals_and_catching_up_end_in_order(tmp_path):
    async def test() -> None:
        async with open_harness(tmp_path, ("a", 1), ("b", 2)) as harness:
            harness.put("bad", 9, refuse="it holds NaN")
            calls = [harness.manager.reload(name) for name in ("a", "bad", None, "x", "b")]
            results = await asyncio.gather(*calls, harness.manager.catch_up(), return_exceptions=True)
            assert [type(result) for result in results[:5] if isinstance(result, Exception)] == [
                SwapRefused,
                UnknownVersion,
            ]
            assert (harness.serves, harness.manager.pinned) == (("b", 2), "b")

    run(test)


def test_few_of_the_versions_that_are_gone_are_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(history_module, "KEPT_VERSIONS", 3)

    async def test() -> None:
        async with open_harness(tmp_path) as harness:
            for step in range(1, 10):
                harness.put("latest", step)
                await harness.manager.catch_up()
            await harness.manager.catch_up()
            assert len(harness.manager.versions()) == 4
            assert harness.serves == ("latest", 9)

    run(test)
