"""The builder process as the control process calls it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from app.artifacts.bundle import Bundle, Graph, Prepared
from app.errors import LinkLost, SwapRefused
from app.rpc.child import Child
from app.wire.tensors import Arrays
from saver.artifact import PolicySpec

# How a process ends that C++ code has crashed.
_CRASHES = {-signal.SIGABRT, -signal.SIGBUS, -signal.SIGFPE, -signal.SIGILL, -signal.SIGSEGV}


class _Ended(Exception):
    """The builder process has ended over a call. `crashed`: by a fault of its own; else somebody has killed it."""

    def __init__(self, crashed: bool) -> None:
        super().__init__("the builder process ended over it")
        self.crashed = crashed

    def refusal(self) -> SwapRefused:
        """What a caller is told. Who was killed may be luckier the next time."""
        return SwapRefused(str(self), for_now=not self.crashed)


class BuilderCalls:
    """Calls to the builder process, whichever lives; one at a time, so that each is to blame for how it ends."""

    def __init__(self) -> None:
        self._child: Child | None = None
        self._there = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._closed = False

    def begin(self, child: Child) -> None:
        """From now on this process is asked."""
        self._child = child
        self._there.set()

    def close(self) -> None:
        """No process comes any more: whoever waits for one is told so."""
        self._closed = True
        self._there.set()

    async def call(self, name: str, *args: Any) -> Any:
        """Asks, and asks the next process where one was killed over it.

        Raises:
          SwapRefused: it has crashed over it, or was killed again; or the server is stopping.
        """
        try:
            return await self.ask(name, *args)
        except _Ended as error:
            raise error.refusal() from None

    async def ask(self, name: str, *args: Any) -> Any:
        """The same; a process that ends is told as `_Ended`."""
        async with self._one_at_a_time:
            try:
                return await self._once(name, *args)
            except _Ended as error:
                if error.crashed:
                    raise
            return await self._once(name, *args)

    async def _once(self, name: str, *args: Any) -> Any:
        await self._there.wait()
        if self._closed or self._child is None:
            raise SwapRefused("the server is stopping")
        child = self._child
        try:
            return await child.call(name, *args)
        except LinkLost:
            if not self._closed:
                self._there.clear()
            raise _Ended(await child.process.wait() in _CRASHES) from None


def _nothing(_: PolicySpec) -> Sequence[tuple[str, Arrays]]:
    return ()


class RemoteBuilder:
    """The builder process as the manager of one policy sees it. `given`: an operator's probe inputs for its spec."""

    def __init__(
        self, policy: str, calls: BuilderCalls, given: Callable[[PolicySpec], Sequence[tuple[str, Arrays]]] = _nothing
    ) -> None:
        self._policy = policy
        self._calls = calls
        self._given = given
        self._not_to_compile: set[str] = set()

    async def open(self, folder: Path, graphs: Path) -> Graph:
        """See `app.builder.open_export.open_export`."""
        graph: Graph = await self._calls.call("open", folder, graphs)
        return graph

    async def prepare(
        self,
        graph: Graph,
        source: Path | None,
        digest: str,
        destination: Path,
        recorded: Sequence[Arrays],
        serving: tuple[Graph, Bundle] | None = None,
    ) -> Prepared:
        """See `app.builder.builder.Builder.prepare`.

        Where the process crashes, compiling may be to blame: the next one leaves it out, now and for what is to come.
        """
        args = (self._policy, graph, source, digest, destination, recorded, self._given(graph.spec), serving)
        compiled = graph.digest not in self._not_to_compile
        try:
            prepared: Prepared = await self._calls.ask("prepare", *args, compiled)
        except _Ended as error:
            if not (error.crashed and compiled):
                raise error.refusal() from None
            prepared = await self._calls.call("prepare", *args, False)
            self._not_to_compile.add(graph.digest)
        return prepared

    async def check(self, graph: Graph, folder: Path) -> int:
        """See `app.builder.builder.Builder.check`."""
        train_step: int = await self._calls.call("check", self._policy, graph, folder)
        return train_step

    async def needs_own_graph(self, graph: Graph, folder: Path) -> bool:
        """See `app.builder.builder.Builder.needs_own_graph`."""
        needs: bool = await self._calls.call("needs_own_graph", self._policy, graph, folder)
        return needs
