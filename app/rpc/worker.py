"""A worker process as the control process calls it."""

from __future__ import annotations

from app.artifacts.bundle import Bundle, Graph
from app.rpc.child import Child
from app.rpc.messages import TrafficFigures, TrafficPlan
from app.wire.tensors import Arrays


class RemoteWorker:
    """One worker as the manager of one policy sees it: see `app.control.workers.Worker`."""

    def __init__(self, policy: str, child: Child) -> None:
        self._policy = policy
        self._child = child

    async def prepare(self, graph: Graph, bundle: Bundle) -> None:
        """See `Worker`."""
        await self._child.call("prepare", self._policy, graph, bundle)

    async def activate(self, name: str, digest: str) -> None:
        """See `Worker`."""
        await self._child.call("activate", self._policy, name, digest)

    async def drained(self) -> None:
        """See `Worker`."""
        await self._child.call("drained", self._policy)

    async def pause(self, mode: str) -> None:
        """See `Worker`."""
        await self._child.call("pause", self._policy, mode)

    async def resume(self) -> None:
        """See `Worker`."""
        await self._child.call("resume", self._policy)

    async def hold(self, seconds: float) -> None:
        """See `Worker`."""
        await self._child.call("hold", self._policy, seconds)

    async def release(self) -> None:
        """See `Worker`."""
        await self._child.call("release", self._policy)

    async def retained(self) -> list[str]:
        """See `Worker`."""
        digests: list[str] = await self._child.call("retained", self._policy)
        return digests

    async def recorded(self) -> list[Arrays]:
        """See `Worker`."""
        inputs: list[Arrays] = await self._child.call("recorded", self._policy)
        return inputs

    def kill(self) -> None:
        """See `Worker`."""
        self._child.kill()

    async def traffic(self, plan: TrafficPlan) -> None:
        """See `Worker`."""
        await self._child.call("traffic", self._policy, plan)

    async def traffic_figures(self) -> TrafficFigures:
        """See `Worker`."""
        figures: TrafficFigures = await self._child.call("traffic_figures", self._policy)
        return figures
