"""One policy of one member of a fleet: what it knows of the agreement, and what it reports to the others."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable

import msgspec

from app.artifacts.records import Pin, VersionRecord
from app.errors import FleetLost
from app.fleet.notice import Notice
from app.fleet.protocol import Committed, Local, PolicyState, Report
from app.fleet.store import FleetStore, Notification, Snapshot

# Redis notifies of what others wait for; a message that is lost costs so long.
TICK_S = 0.5


class PolicyMember:
    """One policy of one member. Event loop only.

    `local`: what it knows of itself; `known`: what it serves was committed as; `changed`: something may be new;
    `reads`: of Redis, under way. `reason`: why it does not take part, "" where that is not known or it does.
    `prepares_for`: the member whose change it has prepared last.
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
        self._report, self._report_to = Report(), ""
        self._delivering = asyncio.Lock()
        self._closed = False
        self.reads: set[asyncio.Task[Snapshot]] = set()
        self._next_read: asyncio.Task[Snapshot] | None = None
        self._live: frozenset[str] = frozenset()
        self._reports: dict[str, Report] = {}
        self._pushed: Snapshot | None = None
        self._news = -1.0  # the revision of the latest state that has come; infinite for anything else
        self._made = -1  # the revision that this member has made last

    async def read(self) -> Snapshot:
        """Returns what is agreed on now, read once for all that ask before it is; raises FleetLost."""
        if self._closed:
            raise FleetLost("the server is stopping")
        if self._next_read is None:
            self._next_read = asyncio.create_task(self._read())
            self.reads.add(self._next_read)
            self._next_read.add_done_callback(self._was_read)
        return await asyncio.shield(self._next_read)

    async def _read(self) -> Snapshot:
        await asyncio.sleep(0)
        self._next_read = None  # whoever asks from now on may know of something newer
        made = self._made
        seen = await self.store.read(self.policy)
        self._live = seen.live
        if made == self._made and (seen.state is None or seen.state.revision < made):
            self._made = -1  # Redis has lost it
        return seen

    def _was_read(self, read: asyncio.Task[Snapshot]) -> None:
        self.reads.discard(read)
        if not read.cancelled():
            read.exception()  # those that asked have it, where any of them still waits

    def notified(self, notification: Notification) -> None:
        """Takes what Redis says has happened, and wakes up those that wait for it."""
        if notification.report is not None:
            self._reports[notification.member] = notification.report
            if self.local.coordinates:
                self.changed.give()
            return
        state = notification.state
        if state is not None and state.revision <= self._made:
            return
        self._news = math.inf if state is None else max(self._news, state.revision)
        self._pushed = None
        # With a coordinator that is not known to hold a lease there may be more to do than a state says.
        if state is not None and (state.change is None or state.change.coordinator in self._live):
            self._pushed = Snapshot(notification.raw, state, {}, self._live, 0)
        self.changed.give()

    def take_pushed(self) -> Snapshot | None:
        """Returns the state that Redis has sent last, without reports; None where it is to be read instead."""
        pushed, self._pushed = self._pushed, None
        return pushed

    def take_news(self) -> bool:
        """Returns whether something that others did, but for reports, has come since the last call."""
        news, self._news = self._news, -1.0
        return news > self._made  # a step of ours may come back before the answer to it

    def take_reports(self) -> dict[str, Report]:
        """Returns what others have reported to this member since the last call."""
        reports, self._reports = self._reports, {}
        return reports

    async def step(
        self, step: Callable[[PolicyState, Snapshot], PolicyState | None], seen: Snapshot | None = None
    ) -> Snapshot:
        """Makes a step from the state that is agreed on: see `FleetStore.step`.

        Raises:
          FleetLost: there is none, or it cannot be reached.
        """
        before = -1

        def from_state(seen: Snapshot) -> PolicyState | None:
            nonlocal before
            if seen.state is None:
                raise FleetLost("what the fleet agreed on is gone from Redis, and is written anew")
            before = seen.state.revision
            return step(seen.state, seen)

        after = await self.store.step(self.policy, from_state, seen)
        if after.state is not None and after.state.revision > before:
            self._made, self._pushed = after.state.revision, None
        return after

    async def report(self, to: str, **changes: object) -> None:
        """Reports what this member has done, fields of `Report`, to the one that waits for it; "" where none does.

        What cannot be written now is left to `deliver`: what was done is done, and others wait until they know of it.
        """
        self._report, self._report_to = msgspec.structs.replace(self._report, **changes), to
        self.note(unreported=True)
        with contextlib.suppress(FleetLost):
            await self.deliver()

    async def deliver(self) -> None:
        """Writes the last report, where it may not be in Redis; raises FleetLost."""
        async with self._delivering:  # or an earlier report could come after a later one, and stay
            if self.local.unreported:
                report = self._report
                await self.store.report(self.policy, self.id, report, self._report_to)
                self.note(unreported=report is not self._report)

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

    def leased(self) -> None:
        """Notes that a lease has begun: Redis may have forgotten what was reported before."""
        self.note(unreported=True)

    def lapsed(self) -> None:
        """Notes that the lease has ended: the member has to join again."""
        if self.local.joined:
            self.reason = "its lease has ended"
        self.note(joined=False)
        self._wake_up()

    def close(self) -> None:
        """Ends every wait for the others."""
        self._closed = True
        self._wake_up()

    def _wake_up(self) -> None:
        self._news = math.inf
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
