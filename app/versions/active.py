"""The versions of one policy in this worker: the one that serves, and the next one, which is loaded beside it.

The switch is one assignment on the event loop, between two batches. A version that an episode retains (it keeps the
weights it started with) stays beside these two until it is forgotten, and one that is tried until `try_only` ends that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from concurrent.futures import Executor
from typing import Protocol

from app.artifacts.bundle import Bundle, Graph
from app.engine.base import Engine
from app.errors import SwapRefused, is_passing
from app.offload import in_executor
from app.versions.lease import LoadedVersion, VersionInfo


class Loader(Protocol):
    """Makes engines from bundles. `load` and `stand_by` block."""

    def load(self, graph: Graph, bundle: Bundle) -> Engine:
        """Makes an engine with these weights, beside those in use."""

    def stand_by(self, graph: Graph, bundle: Bundle) -> None:
        """Prepares what the next `load` would have to wait for, where a version like this one serves."""

    def give_back(self, engine: Engine) -> None:
        """Takes an engine back that is no longer in use."""


class LoadedVersions:
    """The loaded versions of one policy. Methods run on the event loop; loading runs in `executor`.

    `active`: the version that serves, with its engine; there is none before the first one was activated. `retains`:
    whether a session may need the version of a digest when it serves no more; `most_retained`: beyond this number those
    go first that were asked for the longest time ago.
    """

    active: LoadedVersion[Engine]

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
        self._ready: tuple[Graph, Bundle, Engine] | None = None
        self._draining: set[asyncio.Task[None]] = set()
        self._retained: dict[str, LoadedVersion[Engine]] = {}
        self._tried: dict[str, LoadedVersion[Engine]] = {}

    def forget(self, digest: str) -> None:
        """Drops a retained version; jobs that still wait for it fail. The version that serves stays."""
        loaded = self._retained.pop(digest, None)
        if loaded is not None:
            self._retire(loaded)

    @property
    def retained(self) -> set[str]:
        """The digests of the versions that stay, though they do not serve."""
        return set(self._retained)

    def find(self, digest: str) -> LoadedVersion[Engine] | None:
        """Returns the version of this digest: active, tried or retained; None where it has gone."""
        if self.active.version.digest == digest:
            return self.active
        if digest in self._tried:
            return self._tried[digest]
        loaded = self._retained.pop(digest, None)
        if loaded is not None:
            self._retained[digest] = loaded  # it was asked for last
        return loaded

    @property
    def all(self) -> list[LoadedVersion[Engine]]:
        """Every version that can answer: the active one first, then those that are tried, and the retained."""
        found = {id(loaded): loaded for loaded in (self.active, *self._tried.values(), *self._retained.values())}
        return list(found.values())

    async def try_beside(self, name: str, graph: Graph, bundle: Bundle) -> LoadedVersion[Engine]:
        """Returns a version that is loaded beside the one that serves, until `try_only` ends that.

        Raises:
          SwapRefused: this process cannot load it.
        """
        loaded = self.find(bundle.digest) or await self._found_or_loaded(name, graph, bundle)
        self._retained.pop(bundle.digest, None)
        self._tried[bundle.digest] = loaded
        return loaded

    def try_only(self, digests: Collection[str]) -> None:
        """Ends the trial of all other versions, which stay only where they serve, or a session keeps them."""
        for digest in self._tried.keys() - set(digests):
            loaded = self._tried.pop(digest)
            if loaded is not self.active:
                self._retain_or_retire(loaded)

    async def prepare(self, graph: Graph, bundle: Bundle) -> None:
        """Loads a version beside the one that serves.

        Raises:
          SwapRefused: this process cannot load it.
        """
        await self.drained()  # the copy that served before may be the one to restore into
        self._forget_ready()
        self._ready = graph, bundle, await self._load(graph, bundle)

    async def _load(self, graph: Graph, bundle: Bundle) -> Engine:
        try:
            return await in_executor(self._executor, self._loader.load, graph, bundle)
        except SwapRefused:
            raise
        except Exception as error:
            text = f"it cannot be loaded: {type(error).__name__}: {str(error)[:200]}"
            raise SwapRefused(text, is_passing(error)) from error

    async def retain(self, name: str, graph: Graph, bundle: Bundle) -> None:
        """Loads a version beside the one that serves, for sessions that started with it elsewhere.

        Raises:
          SwapRefused: this process cannot load it.
        """
        loaded = await self._found_or_loaded(name, graph, bundle)
        if self.find(bundle.digest) is None:
            self._retain(loaded)

    async def _found_or_loaded(self, name: str, graph: Graph, bundle: Bundle) -> LoadedVersion[Engine]:
        """Loads a version, and returns it, or the one that somebody else has loaded meanwhile."""
        engine = await self._load(graph, bundle)
        found = self.find(bundle.digest)
        if found is not None:
            self._loader.give_back(engine)
        return found or LoadedVersion(engine, VersionInfo.of(name, bundle), (graph, bundle))

    async def load_first(self, name: str, graph: Graph, bundle: Bundle) -> None:
        """Loads and activates the first version, and what the next one will need.

        Raises:
          SwapRefused: this process cannot load it.
        """
        await self.prepare(graph, bundle)
        self.activate(name, bundle.digest)
        await in_executor(self._executor, self._loader.stand_by, graph, bundle)

    def activate(self, name: str, digest: str) -> None:
        """Switches to the version that was prepared, under this name: the one assignment that changes what serves."""
        assert self._ready is not None, f"{name} was not prepared"
        (graph, bundle, engine), self._ready = self._ready, None
        assert bundle.digest == digest, f"{bundle.digest} was prepared, and not {name}"
        version, old = VersionInfo.of(name, bundle), getattr(self, "active", None)
        same = old if old is not None and old.version.digest == digest else None
        same = same or self._tried.get(digest) or self._retained.pop(digest, None)
        if same is None:
            self.active = LoadedVersion(engine, version, (graph, bundle))
        else:  # jobs that wait for it go on
            self._loader.give_back(engine)
            self.active, same.version = same, version
        if old is not None and old is not self.active:
            self._retain_or_retire(old)

    def _retain_or_retire(self, old: LoadedVersion[Engine]) -> None:
        if old.version.digest in self._tried:
            return
        if not self._retains(old.version.digest):
            self._retire(old)
            return
        self._retain(old)

    def _retain(self, loaded: LoadedVersion[Engine]) -> None:
        self._retained[loaded.version.digest] = loaded
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
        """Drops the version that a swap prepared and gave up."""
        if self._ready is not None:
            self._loader.give_back(self._ready[-1])
            self._ready = None
