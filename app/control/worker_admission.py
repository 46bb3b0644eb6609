"""Admission of workers, which load what serves before they take part in swaps, and the pause that holds for all."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

from app.artifacts.bundle import Bundle, Graph
from app.control.states import Version
from app.control.swap import Swapper
from app.control.workers import Worker


class Admission:
    """The workers of one policy as they come. Event loop only; never waits for a swap."""

    def __init__(self, swapper: Swapper) -> None:
        self._swapper = swapper
        self._protected: Counter[str] = Counter()
        self._paused: str | None = None

    @property
    def paused(self) -> str | None:
        """The mode of the pause that is in force; None for none."""
        return self._paused

    @contextlib.contextmanager
    def offered(self) -> Iterator[tuple[Version, Graph, Bundle]]:
        """Yields what a worker has to load before it can be admitted; within, its files stay where they are."""
        offer = self._swapper.offer()
        with self._protect(offer[2]):
            yield offer

    def protected(self) -> list[str]:
        """Returns the digests of the bundles whose files a worker loads now."""
        return [digest for digest, count in self._protected.items() if count]

    async def admit(self, worker: Worker, loaded: tuple[str, str]) -> None:
        """Admits a worker that has loaded the version `loaded` (name and digest): it takes part in every swap from now.

        A swap that is under way is not waited for: it may take long, and the worker could be the only one.

        Raises:
          LinkLost: it is gone already.
          SwapRefused: it cannot load what serves by now.
        """
        while loaded != (wanted := self._swapper.wanted())[0].key:
            version, graph, bundle = wanted
            with self._protect(bundle):
                await worker.prepare(graph, bundle)
                await worker.activate(*version.key)
            loaded = version.key
        self._swapper.workers.admit(worker)
        if self._paused is not None:
            await worker.pause(self._paused)

    async def pause(self, mode: str) -> str | None:
        """Pauses every worker; returns what is in force when no batch runs any more."""
        self._paused = mode
        await self._swapper.workers.pause(mode)
        return self._paused

    async def resume(self) -> None:
        """Lets every worker answer again."""
        self._paused = None
        await self._swapper.workers.resume()

    @contextlib.contextmanager
    def _protect(self, bundle: Bundle) -> Iterator[None]:
        self._protected[bundle.digest] += 1
        try:
            yield
        finally:
            self._protected[bundle.digest] -= 1
