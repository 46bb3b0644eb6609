"""A version with its engine, and the count of batches that run on it. Event loop only."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from app.engine.bundle import Bundle

E = TypeVar("E")


@dataclass(frozen=True)
class ServedVersion:
    """What a front knows of a version. `metadata` is JSON: {name: value}."""

    name: str
    digest: str
    train_step: int
    engine: str = ""
    engine_reason: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, bundle: Bundle) -> ServedVersion:
        """The version of that name with these weights."""
        return cls(name, bundle.digest, bundle.train_step, bundle.engine, bundle.engine_reason, bundle.metadata)


class Slot(Generic[E]):
    """One copy of a policy: an engine and the version in it."""

    def __init__(self, engine: E, version: ServedVersion) -> None:
        self.engine = engine
        self.version = version
        self._leases = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @contextlib.contextmanager
    def lease(self) -> Iterator[Slot[E]]:
        """For the length of one batch: the slot is not restored into while anyone holds a lease."""
        self._leases += 1
        self._idle.clear()
        try:
            yield self
        finally:
            self._leases -= 1
            if not self._leases:
                self._idle.set()

    @property
    def idle(self) -> bool:
        """Whether nobody holds a lease."""
        return not self._leases

    async def drained(self) -> None:
        """Returns once nobody holds a lease."""
        await self._idle.wait()
