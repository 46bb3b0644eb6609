"""All fronts that serve one policy, asked as one: a swap is made ready on all of them before any of them switches."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from app.artifacts.bundle import Bundle, Graph
from app.errors import LinkLost
from app.wire.tensors import Arrays


class Front(Protocol):
    """One front, for one policy. Each call raises LinkLost where its process is gone."""

    async def prepare(self, graph: Graph, bundle: Bundle) -> None:
        """Makes a version ready; SwapRefused where that cannot be done."""

    async def activate(self, name: str, digest: str) -> None:
        """From now on new batches run on the version that was made ready."""

    async def drained(self) -> None:
        """Returns when no batch runs on an older version any more."""

    async def pause(self, mode: str) -> None:
        """Closes the gate; returns when no batch runs any more."""

    async def resume(self) -> None:
        """Opens the gate."""

    async def recorded(self) -> list[Arrays]:
        """Inputs of real requests, one row each."""


class Fleet:
    """The fronts of one policy. One that is gone is left out: its successor is admitted when it is there."""

    def __init__(self) -> None:
        self._fronts: list[Front] = []

    def admit(self, front: Front) -> None:
        """From now on the front is asked too."""
        self._fronts.append(front)

    async def prepare(self, graph: Graph, bundle: Bundle) -> None:
        """Makes a version ready on all, those that were admitted meanwhile among them.

        Whoever goes on without waiting finds it ready on every front.

        Raises:
          SwapRefused: one of them cannot load it.
        """
        ready: list[Front] = []
        while late := [front for front in self._fronts if front not in ready]:
            await self._ask(lambda front: front.prepare(graph, bundle), late)
            ready += late

    async def activate(self, name: str, digest: str) -> None:
        """Switches all."""
        await self._ask(lambda front: front.activate(name, digest))

    async def drained(self) -> None:
        """Returns when no batch runs on an older version anywhere."""
        await self._ask(lambda front: front.drained())

    async def pause(self, mode: str) -> None:
        """Returns when no batch runs anywhere."""
        await self._ask(lambda front: front.pause(mode))

    async def resume(self) -> None:
        """Opens every gate."""
        await self._ask(lambda front: front.resume())

    async def recorded(self) -> list[Arrays]:
        """Inputs of real requests, from all."""
        return [inputs for one in await self._ask(lambda front: front.recorded()) for inputs in one]

    async def _ask(self, ask: Callable[[Front], Awaitable[Any]], some: list[Front] | None = None) -> list[Any]:
        asked = list(self._fronts) if some is None else some
        answers = await asyncio.gather(*map(ask, asked), return_exceptions=True)
        for front, answer in zip(asked, answers, strict=True):
            if isinstance(answer, LinkLost) and front in self._fronts:
                self._fronts.remove(front)
        answers = [answer for answer in answers if not isinstance(answer, LinkLost)]
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return answers
