"""The builder process: the calls that it answers, in the order in which they come, at low priority.

It keeps nothing that cannot be had again: a call names the folders that it is about, so that the next process can
answer it when this one has died.
"""

from __future__ import annotations

import asyncio
import contextlib
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
from app.errors import LinkLost, PolicyServerError, SwapRefused, is_lack_of_room, is_passing
from app.offload import in_executor
from app.rpc.link import Handlers, Link

T = TypeVar("T")


class Calls:
    """Calls that other processes may make; one thread runs them all."""

    link: Link

    def __init__(self, executor: ThreadPoolExecutor, engine: str) -> None:
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
        report = self._reporter(policy)
        builder = self._builder(policy, graph)
        report("loaded")
        builder.report = report
        builder.gives_way = self._gives_way
        *tried_on, compiled = how
        return builder.prepare(source, digest, destination, Trial(*tried_on), compiled)

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

    def _reporter(self, policy: str) -> Callable[[str], None]:
        """A function that reports each step to the control process, with the seconds since the step before."""
        last = time.perf_counter()

        def report(step: str) -> None:
            nonlocal last
            last, before = time.perf_counter(), last
            asyncio.run_coroutine_threadsafe(_sent(self.link, policy, step, last - before), self._loop)

        return report

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

        return answer


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


async def _sent(link: Link, policy: str, step: str, seconds: float) -> None:
    with contextlib.suppress(LinkLost):
        await link.call("step", policy, step, seconds)


async def serve(end: socket.socket, engine: str) -> None:
    """Answers calls until the other end is gone. `engine`: what every version has to run on, or "auto"."""
    with ThreadPoolExecutor(1, "builder") as executor:
        calls = Calls(executor, engine)
        calls.link = await Link.over(end, calls.handlers())
        await calls.link.lost()
        os._exit(0)  # whatever TensorFlow is busy with is of no use to anyone
