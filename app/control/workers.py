"""All workers that serve one policy, asked as one: a swap is made ready on all of them before any of them switches."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from app.artifacts.bundle import Bundle, Graph
from app.errors import LinkLost
from app.rpc.messages import TrafficFigures, TrafficPlan
from app.wire.tensors import Arrays


class Worker(Protocol):
    """One worker, for one policy. Each call raises LinkLost where its process is gone."""

    async def prepare(self, graph: Graph, bundle: Bundle) -> None:
        """Makes a version ready; SwapRefused where that cannot be done."""

    async def activate(self, name: str, digest: str) -> None:
        """Switches: later batches run on the version that was made ready."""

    async def drained(self) -> None:
        """Returns when no batch runs on an older version any more."""

    async def pause(self, mode: str) -> None:
        """Closes the gate; returns when no batch runs any more."""

    async def resume(self) -> None:
        """Opens the gate."""

    async def hold(self, seconds: float) -> None:
        """Has requests wait until a switch or a release, or for so long; returns when no batch runs any more."""

    async def release(self) -> None:
        """Lets requests go on, on what serves."""

    async def retained(self) -> list[str]:
        """Returns the digests of the versions that sessions keep."""

    async def recorded(self) -> list[Arrays]:
        """Returns inputs of real requests, one row each."""

    async def traffic(self, plan: TrafficPlan) -> None:
        """Loads and tries the versions of a plan; SwapRefused where one cannot be loaded."""

    async def traffic_figures(self) -> TrafficFigures:
        """Returns what has come of what is tried since the last call."""


class Workers:
    """The workers of one policy. One that is gone is left out: its successor is admitted when it is there."""

    def __init__(self) -> None:
        self._workers: list[Worker] = []

    def admit(self, worker: Worker) -> None:
        """Adds a worker, which is asked too from now on."""
        self._workers.append(worker)

    async def prepare(self, graph: Graph, bundle: Bundle, ready: Sequence[Worker] = ()) -> list[Worker]:
        """Makes a version ready on all that are not yet, those that were admitted meanwhile among them.

        Returns:
          Those that are ready: who goes on without waiting finds it ready on every worker.

        Raises:
          SwapRefused: one of them cannot load it.
        """
        done = list(ready)
        while late := [worker for worker in self._workers if worker not in done]:
            await self._ask(lambda worker: worker.prepare(graph, bundle), late)
            done += late
        return done

    async def activate(self, name: str, digest: str) -> None:
        """Switches all."""
        await self._ask(lambda worker: worker.activate(name, digest))

    async def drained(self) -> None:
        """Returns when no batch runs on an older version anywhere."""
        await self._ask(lambda worker: worker.drained())

    async def pause(self, mode: str) -> None:
        """Returns when no batch runs anywhere."""
        await self._ask(lambda worker: worker.pause(mode))

    async def resume(self) -> None:
        """Opens every gate."""
        await self._ask(lambda worker: worker.resume())

    async def hold(self, seconds: float) -> None:
        """Returns when no batch runs anywhere, and none begins for so long."""
        await self._ask(lambda worker: worker.hold(seconds))

    async def release(self) -> None:
        """Lets held requests go on."""
        await self._ask(lambda worker: worker.release())

    async def retained(self) -> set[str]:
        """Returns the digests of the versions that sessions keep anywhere."""
        return {digest for one in await self._ask(lambda worker: worker.retained()) for digest in one}

    async def recorded(self) -> list[Arrays]:
        """Returns inputs of real requests, from all."""
        return [inputs for one in await self._ask(lambda worker: worker.recorded()) for inputs in one]

    async def traffic(self, plan: TrafficPlan) -> None:
        """Has all try the versions of a plan.

        Raises:
          SwapRefused: one of them cannot load one.
        """
        await self._ask(lambda worker: worker.traffic(plan))

    async def traffic_figures(self) -> list[TrafficFigures]:
        """Returns what has come of it, on each."""
        return await self._ask(lambda worker: worker.traffic_figures())

    async def _ask(self, ask: Callable[[Worker], Awaitable[Any]], some: list[Worker] | None = None) -> list[Any]:
        asked = list(self._workers) if some is None else some
        answers = await asyncio.gather(*map(ask, asked), return_exceptions=True)
        for worker, answer in zip(asked, answers, strict=True):
            if isinstance(answer, LinkLost) and worker in self._workers:
                self._workers.remove(worker)
        answers = [answer for answer in answers if not isinstance(answer, LinkLost)]
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return answers
