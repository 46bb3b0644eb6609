"""The copies of one policy in this worker: the one that serves, and the one that the next version is made ready in.

The switch is one assignment on the event loop, between two batches. A version that somebody retains (an episode that
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
from app.versions.lease import LoadedVersion, VersionInfo

T = TypeVar("T")


class Loader(Protocol):
    """Makes engines from bundles. `load` and `stand_by` block."""

    def load(self, graph: Graph, bundle: Bundle) -> Engine:
        """An engine that nobody uses yet, with these weights."""

    def stand_by(self, graph: Graph, bundle: Bundle) -> None:
        """Makes what the next `load` would have to wait for, where a version like this one serves."""

    def give_back(self, engine: Engine) -> None:
        """Nobody uses the engine any more."""


class LoadedVersions:
    """One policy's. Methods run on the event loop; loading runs in `executor`.

    `retains`: whether somebody may need the version of a digest when it serves no more; `most_retained`: of more
    than these go those that were asked for the longest time ago.
    """

    def __init__(
        self,
        loader: Loader,
        executor: Executor,
        retains: Callable[[str], bool] = lambda _: False,
        most_retained: int = 1,
    ) -> None:
        self._retains = retains
        self._most_retained = most_retained
        self._loader = loader
        self._executor = executor
        self._ready: tuple[Bundle, Engine] | None = None
        self._draining: set[asyncio.Task[None]] = set()
        self._active: LoadedVersion[Engine] | None = None
        self._retained: dict[str, LoadedVersion[Engine]] = {}

    @property
    def active(self) -> LoadedVersion[Engine]:
        """The version that serves, with its engine."""
        assert self._active is not None, "nothing serves before the first version was activated"
        return self._active

    def forget(self, digest: str) -> None:
        """Nobody needs this version any more, unless it serves; what still waits for it will be told."""
        loaded = self._retained.pop(digest, None)
        if loaded is not None:
            self._retire(loaded)

    @property
    def retained(self) -> set[str]:
        """The digests of the versions that stay, though they do not serve."""
        return set(self._retained)

    def find(self, digest: str) -> LoadedVersion[Engine] | None:
        """The version of this digest: the one that serves, or one that is retained; None where it has gone."""
        if self.active.version.digest == digest:
            return self.active
        loaded = self._retained.pop(digest, None)
        if loaded is not None:
            self._retained[digest] = loaded  # it was asked for last
        return loaded

    async def prepare(self, graph: Graph, bundle: Bundle) -> None:
        """Makes a version ready beside the one that serves.

        Raises:
          SwapRefused: this process cannot load it.
        """
        await self.drained()  # the copy that served before may be the one to restore into
        self._forget_ready()
        try:
            engine = await self._in_executor(lambda: self._loader.load(graph, bundle))
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
        await self._in_executor(lambda: self._loader.stand_by(graph, bundle))

    def activate(self, name: str, digest: str) -> None:
        """The one assignment that changes what serves: the version that was prepared, under this name."""
        assert self._ready is not None, f"{name} was not prepared"
        (bundle, engine), self._ready = self._ready, None
        assert bundle.digest == digest, f"{bundle.digest} was prepared, and not {name}"
        version, old = VersionInfo.of(name, bundle), self._active
        same = old if old is not None and old.version.digest == digest else self._retained.pop(digest, None)
        if same is None:
            self._active = LoadedVersion(engine, version)
        else:  # what waits for it goes on
            self._loader.give_back(engine)
            self._active, same.version = same, version
        if old is not None and old is not self._active:
            self._retain_or_retire(old)

    def _retain_or_retire(self, old: LoadedVersion[Engine]) -> None:
        if not self._retains(old.version.digest):
            self._retire(old)
            return
        self._retained[old.version.digest] = old
        while len(self._retained) > self._most_retained:
            self.forget(next(iter(self._retained)))

    def _retire(self, old: LoadedVersion[Engine]) -> None:
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

    async def _drain(self, loaded: LoadedVersion[Engine]) -> None:
        await loaded.drained()
        self._loader.give_back(loaded.engine)

    def _forget_ready(self) -> None:
        """A swap that was given up has left one."""
        if self._ready is not None:
            self._loader.give_back(self._ready[1])
            self._ready = None

    async def _in_executor(self, job: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, job)
