"""What the processes of one server ask of each other.

The control process asks the workshop (`WorkshopCalls`, `RemoteWorkshop`) and the fronts (`RemoteFront`); the fronts
ask the control process (`RemoteManager`, answered by `manager_calls`).
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.artifacts.bundle import Bundle, Graph, Prepared
from app.engine.base import Arrays
from app.errors import DeadlinePassed, LinkLost, SwapRefused
from app.processes.child import Child
from app.processes.link import Handlers, Link
from app.swap.manager import Manager, Swapped
from saver.artifact import PolicySpec


@dataclass(frozen=True)
class Offer:
    """What a front has to load for one policy before it can be admitted: a version and its name.

    `series`: the folder of exports that it comes from, where it comes from one.
    """

    name: str
    graph: Graph
    bundle: Bundle
    series: Path | None = None


# A folder of checkpoints may hold thousands; so many versions are told of where nobody asks for more.
SHOWN = 100
# How a process ends that C++ code has crashed.
_CRASHES = {-signal.SIGABRT, -signal.SIGBUS, -signal.SIGFPE, -signal.SIGILL, -signal.SIGSEGV}


class _Ended(Exception):
    """The workshop process has ended over a call. `crashed`: by a fault of its own; else somebody has killed it."""

    def __init__(self, crashed: bool) -> None:
        super().__init__("the workshop process ended over it")
        self.crashed = crashed

    def refusal(self) -> SwapRefused:
        """What a caller is told. Who was killed may be luckier the next time."""
        return SwapRefused(str(self), for_now=not self.crashed)


class WorkshopCalls:
    """Calls to the workshop process, whichever lives; one at a time, so that each is to blame for how it ends."""

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


class RemoteWorkshop:
    """The workshop process as the manager of one policy sees it. `given`: an operator's probe inputs for its spec."""

    def __init__(
        self, policy: str, calls: WorkshopCalls, given: Callable[[PolicySpec], Sequence[tuple[str, Arrays]]] = _nothing
    ) -> None:
        self._policy = policy
        self._calls = calls
        self._given = given
        self._not_to_compile: set[str] = set()

    async def open(self, folder: Path, graphs: Path) -> Graph:
        """See `app.workshop.load.open_export`."""
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
        """See `app.workshop.workshop.Workshop.prepare`.

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
        """See `app.workshop.workshop.Workshop.check`."""
        train_step: int = await self._calls.call("check", self._policy, graph, folder)
        return train_step

    async def needs_own_graph(self, graph: Graph, folder: Path) -> bool:
        """See `app.workshop.workshop.Workshop.needs_own_graph`."""
        needs: bool = await self._calls.call("needs_own_graph", self._policy, graph, folder)
        return needs


class RemoteFront:
    """One front as the manager of one policy sees it: see `app.swap.fleet.Front`."""

    def __init__(self, policy: str, child: Child) -> None:
        self._policy = policy
        self._child = child

    async def prepare(self, graph: Graph, bundle: Bundle) -> None:
        """See `Front`."""
        await self._child.call("prepare", self._policy, graph, bundle)

    async def activate(self, name: str, digest: str) -> None:
        """See `Front`."""
        await self._child.call("activate", self._policy, name, digest)

    async def drained(self) -> None:
        """See `Front`."""
        await self._child.call("drained", self._policy)

    async def pause(self, mode: str) -> None:
        """See `Front`."""
        await self._child.call("pause", self._policy, mode)

    async def resume(self) -> None:
        """See `Front`."""
        await self._child.call("resume", self._policy)

    async def recorded(self) -> list[Arrays]:
        """See `Front`."""
        inputs: list[Arrays] = await self._child.call("recorded", self._policy)
        return inputs


class RemoteManager:
    """The manager of one policy as a front sees it: see `Manager`.

    `swap_deadline_s`: how long a call that changes what serves is waited for.
    """

    def __init__(self, policy: str, link: Link, swap_deadline_s: float) -> None:
        self._policy = policy
        self._link = link
        self._swap_deadline_s = swap_deadline_s

    async def reload(self, name: str | None) -> Swapped:
        """See `Manager.reload`; raises DeadlinePassed where that takes long."""
        return await self._swapped("reload", name)

    async def reload_export(self) -> Swapped:
        """See `Manager.reload_export`; raises DeadlinePassed where that takes long."""
        return await self._swapped("reload_export")

    async def rollback(self) -> Swapped:
        """See `Manager.rollback`; raises DeadlinePassed where that takes long."""
        return await self._swapped("rollback")

    async def _swapped(self, call: str, *args: Any) -> Swapped:
        try:
            async with asyncio.timeout(self._swap_deadline_s):
                swapped: Swapped = await self._link.call(call, self._policy, *args)
                return swapped
        except TimeoutError:
            raise DeadlinePassed(
                f"no end after {self._swap_deadline_s:g} s; what was asked goes on, or waits for its turn: "
                f"GET /admin/policies/{self._policy}/versions tells how it ends"
            ) from None

    async def wait_for(self, train_step: int) -> None:
        """See `Manager.wait_for`."""
        await self._link.call("wait_for", self._policy, train_step)

    async def check(self, folder: Path) -> int:
        """See `Manager.check`."""
        train_step: int = await self._link.call("check", self._policy, folder)
        return train_step

    async def pause(self, mode: str) -> str | None:
        """See `Manager.pause`."""
        paused: str | None = await self._link.call("pause", self._policy, mode)
        return paused

    async def resume(self) -> None:
        """See `Manager.resume`."""
        await self._link.call("resume", self._policy)

    async def story(self, limit: int = SHOWN, offset: int = 0) -> dict[str, Any]:
        """What a person wants to know: {"pinned", "stale", "stale_reason", "versions", "versions_total"}.

        `versions`: the latest seen first, `limit` of them behind the first `offset`; and the active one, in any case.
        """
        story: dict[str, Any] = await self._link.call("story", self._policy, limit, offset)
        return story


def manager_calls(managers: Mapping[str, Manager]) -> Handlers:
    """The control process's side of `RemoteManager`."""

    async def story(manager: Manager, limit: int, offset: int) -> dict[str, Any]:
        versions = manager.versions()
        shown = versions[offset : offset + limit]
        if manager.active not in shown:
            shown.append(manager.active)
        return {
            "pinned": manager.pinned,
            "stale": manager.stale(),
            "stale_reason": manager.stale_reason(),
            "versions": [version.public() for version in shown],
            "versions_total": len(versions),
        }

    asked: list[Callable[..., Awaitable[Any]]] = [
        Manager.reload,
        Manager.reload_export,
        Manager.rollback,
        Manager.wait_for,
        Manager.check,
        Manager.pause,
        Manager.resume,
        story,
    ]

    def of_policy(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def answer(policy: str, *args: Any) -> Any:
            return await call(managers[policy], *args)

        return answer

    return {call.__name__: of_policy(call) for call in asked}
