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

# The exit statuses of a process in which C++ code has crashed.
_CRASHES = {-signal.SIGABRT, -signal.SIGBUS, -signal.SIGFPE, -signal.SIGILL, -signal.SIGSEGV}


# What the builder did for a call, as a refusal says it.
_DOING = {
    "open": "opening this export",
    "prepare": "preparing this version",
    "check": "checking this checkpoint",
    "needs_own_graph": "comparing this export with the one that serves",
    "train_step_in": "reading this checkpoint",
}


class _Ended(Exception):
    """The builder process ended during the call `name`, with the exit status `status`, -N by signal N."""

    def __init__(self, name: str, status: int) -> None:
        self.crashed = status in _CRASHES
        how = "crashed" if self.crashed else "was killed" if status < 0 else "ended"
        super().__init__(f"the builder process {how} while {_DOING[name]}")

    def refusal(self) -> SwapRefused:
        """Returns the refusal for the caller. A killed process is worth another try; a crash is not."""
        return SwapRefused(str(self), for_now=not self.crashed)


class BuilderCalls:
    """Calls to the builder process, whichever lives; one at a time, so that each is to blame for its end."""

    def __init__(self) -> None:
        self._child: Child | None = None
        self._there = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._closed = False

    def use(self, child: Child) -> None:
        """Has this process answer the calls from now on."""
        self._child = child
        self._there.set()

    def close(self) -> None:
        """Refuses the calls that wait for a process: none comes any more."""
        self._closed = True
        self._there.set()

    async def call(self, name: str, *args: Any) -> Any:
        """Calls the process, and the next one where it was killed meanwhile.

        Raises:
          SwapRefused: the process crashed, or the next one was killed too; or the server is stopping.
        """
        try:
            return await self.ask(name, *args)
        except _Ended as error:
            raise error.refusal() from None

    async def ask(self, name: str, *args: Any) -> Any:
        """Like `call`, but raises `_Ended` where the process ends."""
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
            if not self._closed and self._child is child:  # its successor may be there by now
                self._there.clear()
            raise _Ended(name, await child.process.wait()) from None


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
