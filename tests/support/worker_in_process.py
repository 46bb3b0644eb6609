"""The whole HTTP half of a server in the test's own process: the real composition root, over an engine that echoes."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app import worker as worker_module
from app.artifacts.bundle import Bundle, Graph
from app.engine.fake import FakeEngine
from app.rpc.messages import Offer, Swapped
from app.settings import PolicyFolder, Settings
from app.worker import Worker
from saver.artifact import Leaf, Noise, ServingInfo, Signature
from tests.support.specs import policy_spec

TOKEN = "a token"
SIGNATURES: Any = {"action": Signature({}, {"action": None})}  # type: ignore[dict-item]
SPEC = policy_spec(action=Leaf("action", "float32", ()), signatures=SIGNATURES)


class EchoEngine(FakeEngine):
    """Answers each row with its observation's first number plus `number`, and keeps what was asked."""

    name = "echo"

    def __init__(self, number: int = 0) -> None:
        super().__init__(number)
        self.seen: list[float] = []

    def run(self, function: str, inputs: Mapping[str, Any]) -> Any:
        first = inputs["0/observation"][:, 0]
        self.seen += first.tolist()
        return {"action": first + self.number}


class Control:
    """In the place of the control process: keeps what it is asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.answers: dict[str, Callable[..., Any]] = {
            "pause": lambda policy, mode: mode,
            "resume": lambda policy: None,
            "reload": lambda policy, name: Swapped(str(name), 0, "export", 0.0),
        }

    async def call(self, name: str, *args: Any) -> Any:
        self.calls.append((name, *args))
        if name == "wait_for":
            await asyncio.Event().wait()  # for weights that never come
        return self.answers[name](*args)


class Running:
    """A worker that listens on `port`; `engine`: that of the first policy."""

    def __init__(self, worker: Worker, engines: Mapping[str, EchoEngine], control: Control, port: int) -> None:
        self.worker, self.engines, self.control, self.port = worker, engines, control, port
        self.engine = next(iter(engines.values()))

    @property
    def unfinished_bytes(self) -> int:
        return self.worker._http.config.http_protocol_class.shared.unfinished._total

    @property
    def connections(self) -> set[Any]:
        return self.worker._http.server_state.connections


@asynccontextmanager
async def running(
    monkeypatch: pytest.MonkeyPatch, names: Sequence[str] = ("echo",), **settings: Any
) -> AsyncIterator[Running]:
    """Policies with the same spec: the first adds 0 to what it is asked, the second 1000, …"""
    engines, control = {name: EchoEngine(1000 * place) for place, name in enumerate(names)}, Control()
    loader = SimpleNamespace(
        load=lambda _, bundle: engines.get(bundle.digest, engines[names[0]]),
        stand_by=lambda *_: None,
        give_back=lambda *_: None,
    )
    monkeypatch.setattr(worker_module, "BundleLoader", lambda: loader)
    listener = socket.create_server(("127.0.0.1", 0))
    worker = Worker([listener])
    worker.link = control  # type: ignore[assignment]
    serving = ServingInfo(
        {}, {}, Noise(0, 0), dict.fromkeys(("distribution", "greedy", "sample", "log_prob"), "not here")
    )
    graph = Graph(Path("nowhere"), "graph", SPEC, serving, plain=False)
    folders = tuple(PolicyFolder(name, Path("nowhere")) for name in names)
    await worker.open(Settings(folders, admin_token=TOKEN, **settings))
    for place, name in enumerate(names):
        bundle = Bundle(Path("nowhere"), "graph", name, 7 + place, "echo", "", {})
        await worker.open_policy(name, Offer("export", graph, bundle))
    await worker._http.start([listener])
    try:
        yield Running(worker, engines, control, listener.getsockname()[1])
    finally:
        await worker._http.stop()
        await worker.stop()
