"""All workers that serve one policy, asked as one: a swap is made ready on all of them before any of them switches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from app.artifacts.bundle import Bundle, Graph
from app.errors import LinkLost
from app.rpc.messages import TrafficFigures, TrafficPlan
from app.wire.tensors import Arrays

log = logging.getLogger("policy_server.swap")


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

    def kill(self) -> None:
        """Ends its process at once: the next one loads what serves by then."""

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

    async def prepare(self, graph: Graph, bundle: Bundle) -> list[Worker]:
        """Makes a version ready on all, those that are admitted meanwhile among them.

        Returns:
          Those that are ready: who goes on without waiting finds it ready on every worker.

        Raises:
          SwapRefused: one of them cannot load it.
        """
        done: list[Worker] = []
        while late := [worker for worker in self._workers if worker not in done]:
            await self._ask(lambda worker: worker.prepare(graph, bundle), late)
            done += late
        return [worker for worker in done if worker in self._workers]

    async def prepare_others(self, graph: Graph, bundle: Bundle, ready: Sequence[Worker]) -> list[Worker]:
        """Makes a version that counts already ready on those that were admitted since the `ready` ones were asked.

        One that cannot load it is ended, since it would go on with the version before.

        Returns:
          All that are ready, but for those that are admitted from now on.
        """
        others = [worker for worker in self._workers if worker not in ready]
        answers = await asyncio.gather(*[worker.prepare(graph, bundle) for worker in others], return_exceptions=True)
        for worker, answer in zip(others, answers, strict=True):
            if isinstance(answer, Exception):
                log.error("a worker that was started meanwhile cannot load it, and is ended: %s", answer)
                worker.kill()
                if worker in self._workers:
                    self._workers.remove(worker)
        return [worker for worker in (*ready, *others) if worker in self._workers]

    async def activate(self, name: str, digest: str, ready: list[Worker]) -> None:
        """Switches those that are ready."""
        await self._ask(lambda worker: worker.activate(name, digest), ready)

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
