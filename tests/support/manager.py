"""A manager over a builder and workers that a test drives by hand, without TensorFlow or other processes."""

import asyncio
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from app.artifacts.bundle import Bundle, Graph, Prepared
from app.artifacts.export import identify_export
from app.control.assembly import build_manager
from app.control.history import History
from app.control.source import Source
from app.control.state_dir import StateDir
from app.control.states import State
from app.engine.fake import FakeEngine
from app.errors import LinkLost, SwapRefused
from app.metrics import Metrics
from app.rpc.messages import TrafficFigures, TrafficPlan
from app.settings import PolicyFolder
from app.traffic.arms import Arms
from app.versions.active import LoadedVersions
from saver.artifact import Noise, PolicySpec, ServingInfo, read_checkpoint_manifest
from tests.support.checkpoints import contents, identify, put
from tests.support.shadows import Unasked

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
        self.arms = Arms(self.copies, Unasked)  # type: ignore[arg-type]
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

    async def hold(self, seconds: float) -> None:
        self._call("hold")

    async def release(self) -> None:
        self._call("release")

    async def retained(self) -> list[str]:
        self._call("retained")
        return []

    async def recorded(self) -> list:
        return []

    async def traffic(self, plan: TrafficPlan) -> None:
        self._call("traffic")
        await self.arms.follow(plan)

    async def traffic_figures(self) -> TrafficFigures:
        return self.arms.take_figures()


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
        named = PolicyFolder("p", policy)
        self.manager = build_manager(
            named, builder, source, state_dir, executor, History("p", self.metrics.policy("p"))
        )
        self.worker = LocalWorker(executor)

    def put(self, name: str, train_step: int, **more: str) -> Path:
        return put(self.checkpoints, name, train_step, **more)

    def identify_by_manifest(self) -> None:
        self._identify = lambda folder, rest_s: read_checkpoint_manifest(folder) or identify(folder, rest_s)

    def replace_graph(self, content: str) -> None:
        (self.policy / "saved_model.pb").write_text(content)

    @property
    def graph(self) -> Graph:
        with self.manager.admission.offered() as (_, graph, _):
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
        with self.manager.admission.offered() as (version, graph, bundle):
            await worker.copies.load_first(version.name, graph, bundle)
            await self.manager.admission.admit(worker, version.key)
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


async def until(true: Callable[[], bool]) -> None:
    """Returns when `true()` is."""
    while not true():
        await asyncio.sleep(0.001)
