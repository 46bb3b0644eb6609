"""The builder process: the calls that it answers, in the order in which they come, at low priority.

It keeps nothing that cannot be had again: a call names the folders that it is about, so that the next process can
answer it when this one has died.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from app.artifacts.bundle import Graph, Prepared
from app.background import all_cores_are_wanted
from app.builder import checkpoint_validation
from app.builder.builder import Builder
from app.builder.open_export import open_export
from app.builder.probe import Trial
from app.errors import PolicyServerError, SwapRefused, is_lack_of_room, is_passing
from app.memory import KeptMemory
from app.offload import in_executor
from app.rpc.link import Handlers, Link

T = TypeVar("T")
_GATHER_S = 0.05


class Calls:
    """Calls that other processes may make; one thread runs them all."""

    link: Link

    def __init__(self, executor: ThreadPoolExecutor, engine: str) -> None:
        self._memory = KeptMemory()
        self._executor = executor
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._builders: dict[str, Builder] = {}
        self._calls = 0  # that are under way, or wait for it

    def handlers(self) -> Handlers:
        """The calls by name; see the methods."""
        calls = (self.open, self.prepare, self.check, self.needs_own_graph, self.train_step_in)
        return {call.__name__: self._in_executor(call) for call in calls}

    def open(self, folder: Path, graphs: Path) -> Graph:
        """See `open_export.open_export`."""
        return open_export(folder, graphs, [builder.graph for builder in self._builders.values()])

    def prepare(
        self,
        policy: str,
        graph: Graph,
        source: Path | None,
        digest: str,
        destination: Path,
        *how: Any,
    ) -> Prepared:
        """See `Builder.prepare`. `how`: the parts of a `Trial`, in their order, and whether it may be compiled."""
        steps = _Steps(lambda some: self._loop.call_soon_threadsafe(self.link.note, "steps", policy, some))
        builder = self._builder(policy, graph)
        steps.add("loaded")
        builder.report = steps.add
        builder.gives_way = self._gives_way
        *tried_on, compiled = how
        try:
            return builder.prepare(source, digest, destination, Trial(*tried_on), compiled)
        finally:
            steps.send()

    def check(self, policy: str, graph: Graph, folder: Path) -> int:
        """See `Builder.check`."""
        return self._builder(policy, graph).check(folder)

    def needs_own_graph(self, policy: str, graph: Graph, folder: Path) -> bool:
        """See `Builder.needs_own_graph`."""
        return self._builder(policy, graph).needs_own_graph(folder)

    def train_step_in(self, folder: Path) -> int:
        """See `checkpoint_validation.train_step_in`."""
        return checkpoint_validation.train_step_in(folder)

    def _gives_way(self) -> bool:
        """Whether others want its core, and nobody waits for the thread."""
        return self._calls <= 1 and all_cores_are_wanted()

    def _builder(self, policy: str, graph: Graph) -> Builder:
        """The policy's builder; a new one where its graph is another. Policies of one graph share what it takes."""
        builder = self._builders.get(policy)
        if builder is None or builder.graph != graph:
            del builder
            self._builders.pop(policy, None)
            gc.collect()  # what TensorFlow loads refers to itself: the graph before would stay, with all its weights
            alike = (other for other in self._builders.values() if other.graph.differs_in_weights_alone(graph))
            builder = self._builders[policy] = Builder(graph, self._engine, next(alike, None))
        return builder

    def _in_executor(self, call: Callable[..., T]) -> Callable[..., Awaitable[T]]:
        async def answer(*args: object) -> T:
            self._calls += 1
            try:
                return await in_executor(self._executor, _blamed, call, *args)
            finally:
                self._calls -= 1
                self._memory.used()

        return answer


class _Steps:
    """Steps that are done, each with the seconds since the one before, on their way to the control process.

    Those of a short time go together: a message of its own for each takes two processes longer than the steps do.
    """

    def __init__(self, send: Callable[[list[tuple[str, float]]], object]) -> None:
        self._send = send
        self._done: list[tuple[str, float]] = []
        self._last = self._sent = time.perf_counter()

    def add(self, step: str) -> None:
        """Notes that a step is done."""
        self._last, before = time.perf_counter(), self._last
        self._done.append((step, self._last - before))
        if self._last - self._sent >= _GATHER_S:
            self.send()

    def send(self) -> None:
        """Sends those that have not been sent."""
        done, self._done = self._done, []
        self._sent = self._last
        if done:
            self._send(done)


def _blamed(call: Callable[..., T], *args: object) -> T:
    """Returns what `call` returns. A refusal that the machine is to blame for is one for now."""
    try:
        return call(*args)
    except SwapRefused as refusal:
        refusal.for_now = refusal.for_now or is_passing(refusal)
        refusal.no_room = is_lack_of_room(refusal)
        raise
    except Exception as error:
        if isinstance(error, PolicyServerError) or not is_passing(error):
            raise
        raise SwapRefused(f"the builder cannot go on: {type(error).__name__}: {str(error)[:200]}", True) from error


async def serve(end: socket.socket, engine: str) -> None:
    """Answers calls until the other end is gone. `engine`: what every version has to run on, or "auto"."""
    with ThreadPoolExecutor(1, "builder") as executor:
        calls = Calls(executor, engine)
        calls.link = await Link.over(end, calls.handlers())
        await calls.link.lost()
        os._exit(0)  # whatever TensorFlow is busy with is of no use to anyone
