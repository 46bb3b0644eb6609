"""A swapper, versions to swap to, and workers that only note what they are asked."""

import asyncio
from pathlib import Path
from typing import Any

from app.artifacts.bundle import Bundle, Graph, Prepared
from app.control.history import History
from app.control.states import Version
from app.control.swap import Swapper
from app.metrics import Metrics
from saver.artifact import FUNCTIONS, Noise, PolicySpec, ServingInfo

SPEC = PolicySpec((), (), (), (), (), None, True, {})
SERVING = ServingInfo({}, {}, Noise(0, 0), dict.fromkeys(FUNCTIONS, "it has none"))
GRAPH = Graph(Path("graph"), "graph", SPEC, SERVING, True)


def bundle(name: str, train_step: int = 1, **more: Any) -> Bundle:
    """Of a version whose digest is its name in capitals."""
    return Bundle(Path(name), GRAPH.digest, name.upper(), train_step, "fake", "", {}, **more)


class NotingWorker:
    """A worker that notes each call in `did`. `errors`: what a call raises; `gates`: what a call waits for."""

    def __init__(self, did: list[str] | None = None, name: str = "") -> None:
        self.did: list[str] = [] if did is None else did
        self.errors: dict[str, Exception] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.inputs: list[Any] = []
        self._name = name

    async def _call(self, method: str, about: str = "") -> None:
        self.did.append(f"{self._name} {method} {about}".strip())
        if method in self.gates:
            await self.gates[method].wait()
        if method in self.errors:
            raise self.errors[method]

    async def prepare(self, graph: Graph, bundle: Bundle) -> None:
        await self._call("prepare", bundle.digest)

    async def activate(self, name: str, digest: str) -> None:
        await self._call("activate", f"{name} {digest}")

    async def drained(self) -> None:
        await self._call("drained")

    async def pause(self, mode: str) -> None:
        await self._call("pause", mode)

    async def resume(self) -> None:
        await self._call("resume")

    async def hold(self, seconds: float) -> None:
        await self._call("hold")

    async def release(self) -> None:
        await self._call("release")

    async def retained(self) -> list[str]:
        await self._call("retained")
        return []

    def kill(self) -> None:
        self.did.append(f"{self._name} kill".strip())

    async def recorded(self) -> list[Any]:
        await self._call("recorded")
        return self.inputs


class Swaps:
    """A swapper and what it reports to."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.history = History("p", self.metrics.policy("p"))
        self.swapper = Swapper("p", self.history, self.metrics.policy("p"))
        self.worker = NotingWorker()
        self.swapper.workers.admit(self.worker)

    def version(self, name: str, train_step: int = 1) -> Version:
        return self.history.version(name, name.upper(), train_step)

    async def to(self, name: str, train_step: int = 1, stamp: object = None, **more: Any) -> Version:
        """Swaps to a version that is prepared at once."""
        version = self.version(name, train_step)

        async def prepare() -> Prepared:
            return Prepared(bundle(name, train_step, **more))

        await self.swapper.to(version, GRAPH, prepare, stamp)
        return version

    def counted(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"policy_server_{name}", {"policy": "p"})
