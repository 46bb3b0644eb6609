"""A version with its engine, and the count of batches that run on it. Event loop only."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from app.artifacts.bundle import Bundle, Graph

E = TypeVar("E")


@dataclass(frozen=True)
class VersionInfo:
    """Facts about a version in a worker. `metadata`, `probed`: JSON; `dependent_rows`: a reason, see `Bundle`."""

    name: str
    digest: str
    train_step: int
    engine: str = ""
    engine_reason: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    dependent_rows: str = ""
    probed: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, bundle: Bundle) -> VersionInfo:
        """Makes the info of the version of that name with these weights."""
        return cls(
            name,
            bundle.digest,
            bundle.train_step,
            bundle.engine,
            bundle.engine_reason,
            bundle.metadata,
            dependent_rows=bundle.dependent_rows,
            probed=bundle.probed,
        )


class LoadedVersion(Generic[E]):
    """One copy of a policy: an engine and the version in it. `retired`: no batch may start on it any more.

    `made_of`: what another copy can be loaded from, where that is known.
    """

    retired = False

    def __init__(self, engine: E, version: VersionInfo, made_of: tuple[Graph, Bundle] | None = None) -> None:
        self.engine = engine
        self.version = version
        self.made_of = made_of
        self._leases = 0
        self._waiting: asyncio.Event | None = None

    def acquire(self) -> None:
        """Starts a lease, for a batch that ends in a later call of the event loop: until then nothing is restored."""
        self._leases += 1

    def release(self) -> None:
        """Ends a lease."""
        self._leases -= 1
        if not self._leases and self._waiting is not None:
            self._waiting.set()

    @property
    def idle(self) -> bool:
        """Returns whether the version is not leased."""
        return not self._leases

    async def drained(self) -> None:
        """Returns once the version is not leased."""
        while self._leases:
            self._waiting = self._waiting or asyncio.Event()
            self._waiting.clear()
            await self._waiting.wait()
