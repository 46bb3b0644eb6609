"""Members of a fleet in this process, over a real Redis, each with a policy that only notes what it is asked to do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest

from app.artifacts.records import Pin, VersionRecord
from app.errors import SwapRefused
from app.fleet.commit import CommitProtocol
from app.fleet.fleet import Fleet
from app.fleet.follower import Following
from app.fleet.protocol import Committed
from app.fleet.store import FleetStore
from app.rpc.messages import FleetStatus
from tests.support.redis_server import redis_running


@pytest.fixture(scope="module")
def redis() -> Iterator[str]:
    with redis_running() as url:
        yield url


class Policy:
    """A policy of one member; `refuses`: why it cannot prepare what others want."""

    def __init__(self, fleet: Fleet, name: str, version: str = "v0") -> None:
        self.fleet = fleet
        self.served: tuple[VersionRecord, ...] = (record(version),)
        self.pin: Pin | None = None
        self.paused: str | None = None
        self.traffic = ""
        self.refuses = ""
        self.did: list[str] = []
        self.member, self.coordinator = fleet.member(name, lambda: self.served[-1].name, 6)

    @property
    def serves(self) -> str:
        return self.served[-1].name

    def serving(self) -> tuple[tuple[VersionRecord, ...], Pin | None]:
        return self.served, self.pin

    async def serve(self, committed: Committed) -> None:
        if self.refuses:
            raise SwapRefused(self.refuses)
        self._adopt(committed)

    async def follow(self, record: VersionRecord, following: Following) -> None:
        if self.refuses:
            raise SwapRefused(self.refuses)
        await self._swap(record, following)
        self._adopt(following.committed)

    async def change(self, version: str) -> None:
        """Swaps as a server does that has found a version by itself."""
        await self.coordinator.begin()
        try:
            await self._swap(record(version), self.coordinator)
            self.served = (*self.served, record(version))
        finally:
            await self.coordinator.end()

    async def _swap(self, record: VersionRecord, protocol: CommitProtocol) -> None:
        await protocol.announce(record)
        await protocol.prepared(record)
        self.did.append(f"holds for {record.name}")
        await protocol.held()
        self.did.append(f"serves {record.name}")
        await protocol.switched()

    def _adopt(self, committed: Committed) -> None:
        self.served, self.pin, self.paused = committed.served, committed.pin, committed.paused
        self.traffic = committed.traffic


def record(name: str) -> VersionRecord:
    return VersionRecord(name, f"digest{name}", int(name[1:]))


@contextlib.asynccontextmanager
async def joined(url: str, name: str, version: str = "v0", fleet: str = "f") -> AsyncIterator[Policy]:
    """A member that takes part; it leaves at the end."""
    statuses: list[FleetStatus] = []

    async def publish(status: FleetStatus, _: int) -> None:
        statuses.append(status)

    one = Fleet(FleetStore(url, fleet), fleet, "http://127.0.0.1:9", publish)
    one.start()
    policy = Policy(one, name, version)
    try:
        await one.join(policy.member, policy)
        yield policy
    finally:
        await one.close()


async def until(true: object, what: str = "it") -> None:
    """Returns when `true()` is."""
    async with asyncio.timeout(60):
        while not true():  # type: ignore[operator]
            await asyncio.sleep(0.005)
