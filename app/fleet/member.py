"""One policy of one member of a fleet: what it knows of the agreement, and what it reports to the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from app.artifacts.records import Pin, VersionRecord
from app.errors import FleetLost
from app.fleet.notice import Notice
from app.fleet.protocol import Committed, Local, PolicyState, Report
from app.fleet.store import FleetStore, Snapshot

# Redis notifies of every change; a notice that is lost costs so long.
TICK_S = 0.5


class PolicyMember:
    """One policy of one member. Event loop only.

    `local`: what it knows of itself; `known`: what it serves was committed as; `changed`: something may be new.
    `reason`: why it does not take part, "" where that is not known or it does. `prepares_for`: the member whose change
    it has prepared last.
    """

    def __init__(self, policy: str, member: str, store: FleetStore, joined: Callable[[], None]) -> None:
        self.policy = policy
        self.id = member
        self.store = store
        self.local = Local()
        self.known: Committed | None = None
        self.changed = Notice()
        self.reason = "it has not joined yet"
        self.prepares_for = ""
        self._joined = joined
        self._report = Report()
        self._closed = False

    async def read(self) -> Snapshot:
        """Returns what is agreed on now; raises FleetLost."""
        if self._closed:
            raise FleetLost("the server is stopping")
        return await self.store.read(self.policy)

    async def step(
        self, step: Callable[[PolicyState, Snapshot], PolicyState | None], seen: Snapshot | None = None
    ) -> Snapshot:
        """Makes a step from the state that is agreed on: see `FleetStore.step`.

        Raises:
          FleetLost: there is none, or it cannot be reached.
        """

        def from_state(seen: Snapshot) -> PolicyState | None:
            if seen.state is None:
                raise FleetLost("what the fleet agreed on is gone from Redis, and is written anew")
            return step(seen.state, seen)

        return await self.store.step(self.policy, from_state, seen)

    async def report(self, **changes: object) -> None:
        """Reports to the others what this member has done: fields of `Report`."""
        self._report = msgspec.structs.replace(self._report, **changes)
        await self.store.report(self.policy, self.id, self._report)

    def note(self, **changes: object) -> None:
        """Notes what this member has done: fields of `Local`."""
        before = self.local
        self.local = msgspec.structs.replace(self.local, **changes)
        if self.local.joined != before.joined:
            self.reason = "" if self.local.joined else self.reason
            self._joined()

    def serves(self, committed: Committed) -> None:
        """Notes that this server serves what was committed."""
        self.known = committed
        self.note(applied=committed.epoch, prepared=0, held=0)

    def lapsed(self) -> None:
        """Notes that the lease has ended: the member has to join again."""
        if self.local.joined:
            self.reason = "its lease has ended"
        self.note(joined=False)
        self.changed.give()

    def close(self) -> None:
        """Ends every wait for the others."""
        self._closed = True
        self.changed.give()

    async def wait(self, event: asyncio.Event) -> None:
        """Returns when something may be new since `event` was taken from `changed`."""
        await Notice.wait(event, TICK_S)


def served_after(served: tuple[VersionRecord, ...], record: VersionRecord, most: int) -> tuple[VersionRecord, ...]:
    """Returns the versions that served, once `record` does too."""
    return served if served and served[-1] == record else (*served, record)[-most:]


def same(known: Committed | None, served: tuple[VersionRecord, ...], pin: Pin | None, traffic: str) -> bool:
    """Returns whether that is what was committed."""
    return known is not None and (known.served, known.pin, known.traffic) == (served, pin, traffic)
