"""The copies of one policy in this worker: the one that serves, and the one that the next version is made ready in.

The switch is one assignment on the event loop, between two batches. A version that somebody holds (an episode that
keeps the weights it began with) stays beside these two until it is forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Protocol, TypeVar

from app.artifacts.bundle import Bundle, Graph
from app.engine.base import Engine
from app.errors import SwapRefused, is_passing
from app.versions.lease import ServedVersion, Slot

T = TypeVar("T")


class Loader(Protocol):
    """Makes engines from bundles. `load` and `stand_by` block."""

    def load(self, graph: Graph, bundle: Bundle) -> Engine:
        """An engine that nobody uses yet, with these weights."""

    def stand_by(self, graph: Graph, bundle: Bundle) -> None:
        """Makes what the next `load` would have to wait for, where a version like this one serves."""

    def give_back(self, engine: Engine) -> None:
        """Nobody uses the engine any more."""


class Copies:
    """One policy's. Methods run on the event loop; loading runs in `lane`.

    `holds`: whether somebody may need the version of a digest when it serves no more; `most_held`: of more than these
    go those that were asked for the longest time ago.
    """

    def __init__(
        self, loader: Loader, lane: Executor, holds: Callable[[str], bool] = lambda _: False, most_held: int = 1
    ) -> None:
        self._holds = holds
        self._most_held = most_held
        self._loader = loader
        self._lane = lane
        self._ready: tuple[Bundle, Engine] | None = None
        self._draining: set[asyncio.Task[None]] = set()
        self._active: Slot[Engine] | None = None
        self._held: dict[str, Slot[Engine]] = {}

    @property
    def active(self) -> Slot[Engine]:
        """The version that serves, with its engine."""
        assert self._active is not None, "nothing serves before the first version was activated"
        return self._active

    def forget(self, digest: str) -> None:
        """Nobody needs this version any more, unless it serves; what still waits for it will be told."""
        slot = self._held.pop(digest, None)
        if slot is not None:
            self._retire(slot)

    @property
    def held(self) -> set[str]:
        """The digests of the versions that stay, though they do not serve."""
        return set(self._held)

    def slot_of(self, digest: str) -> Slot[Engine] | None:
        """The version of this digest: the one that serves, or one that is held; None where it has gone."""
        if self.active.version.digest == digest:
            return self.active
        slot = self._held.pop(digest, None)
        if slot is not None:
            self._held[digest] = slot  # it was asked for last
        return slot

    async def prepare(self, graph: Graph, bundle: Bundle) -> None:
        """Makes a version ready beside the one that serves.

        Raises:
          SwapRefused: this process cannot load it.
        """
        await self.drained()  # the copy that served before may be the one to restore into
        self._forget_ready()
        try:
            engine = await self._work(lambda: self._loader.load(graph, bundle))
        except SwapRefused:
            raise
        except Exception as error:
            text = f"it cannot be loaded: {type(error).__name__}: {str(error)[:200]}"
            raise SwapRefused(text, is_passing(error)) from error
        self._ready = bundle, engine

    async def begin(self, name: str, graph: Graph, bundle: Bundle) -> None:
        """Loads and activates the first version, and what the next one will need.

        Raises:
          SwapRefused: this process cannot load it.
        """
        await self.prepare(graph, bundle)
        self.activate(name, bundle.digest)
        await self._work(lambda: self._loader.stand_by(graph, bundle))

    def activate(self, name: str, digest: str) -> None:
        """The one assignment that changes what serves: the version that was prepared, under this name."""
        assert self._ready is not None, f"{name} was not prepared"
        (bundle, engine), self._ready = self._ready, None
        assert bundle.digest == digest, f"{bundle.digest} was prepared, and not {name}"
        version, old = ServedVersion.of(name, bundle), self._active
        same = old if old is not None and old.version.digest == digest else self._held.pop(digest, None)
        if same is None:
            self._active = Slot(engine, version)
        else:  # what waits for it goes on
            self._loader.give_back(engine)
            self._active, same.version = same, version
        if old is not None and old is not self._active:
            self._hold_or_retire(old)

    def _hold_or_retire(self, old: Slot[Engine]) -> None:
        if not self._holds(old.version.digest):
            self._retire(old)
            return
        self._held[old.version.digest] = old
        while len(self._held) > self._most_held:
            self.forget(next(iter(self._held)))

    def _retire(self, old: Slot[Engine]) -> None:
        old.retired = True
        if old.idle:
            self._loader.give_back(old.engine)
        else:
            task = asyncio.create_task(self._drain(old))
            self._draining.add(task)
            task.add_done_callback(self._draining.discard)

    async def drained(self) -> None:
        """Returns when no batch runs on older weights than the active ones."""
        while self._draining:
            await asyncio.wait(self._draining)

    async def _drain(self, slot: Slot[Engine]) -> None:
        await slot.drained()
        self._loader.give_back(slot.engine)

    def _forget_ready(self) -> None:
        """A swap that was given up has left one."""
        if self._ready is not None:
            self._loader.give_back(self._ready[1])
            self._ready = None

    async def _work(self, job: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._lane, job)
