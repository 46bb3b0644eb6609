"""A change that this server makes for its whole fleet: see `app.fleet.commit.CommitProtocol`.

Once it is committed it counts, whatever becomes of this server: every member finds it in Redis. Until then nothing has
changed, and the others give up a change whose coordinator is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection
from typing import Any

import msgspec

from app.artifacts.records import Pin, VersionRecord
from app.errors import FleetLost, SwapRefused
from app.fleet import protocol
from app.fleet.commit import CommitProtocol
from app.fleet.member import PolicyMember, same, served_after
from app.fleet.notice import Notice
from app.fleet.protocol import Busy, Fenced, PolicyState, Refused, Reports
from app.fleet.store import Snapshot

# A change that an operator wants waits so long for Redis.
_PATIENCE_S = 5.0
# The members hold their requests while they wait for each other. One whose batch takes longer is not waited for: a
# client that it then answers may see the older version after the newer one.
_HELD_WITHIN_S = 1.0
_AGAIN_S = 0.2
# Another server's change that has come no further for so long is not waited for any more; each step of one is far
# shorter, but for the building of a huge version.
_NO_STEP_S = 300.0
# A state, this member, reports, and the members that hold a lease → those that are waited for.
Missing = Callable[[PolicyState, str, Reports, Collection[str]], set[str]]


class Coordinator(CommitProtocol):
    """The changes of one policy that this server coordinates. Event loop only; one at a time, the caller sees to that.

    `most_records`: how many versions that served are kept to roll back to.
    """

    alone = False

    def __init__(self, member: PolicyMember, most_records: int) -> None:
        self._member = member
        self._most_records = most_records
        self._seen: Snapshot | None = None  # what its change has come to, where no more than reports may be new

    async def begin(self) -> None:
        """See `CommitProtocol`."""
        member = self._member
        if member.local.coordinates:
            return
        until = time.monotonic() + _PATIENCE_S
        while True:
            member.take_news()  # what has come by now is in what is read next
            member.take_reports()
            try:
                self._seen = seen = await self._claim()
                break
            except (Fenced, FleetLost) as error:
                if time.monotonic() >= until:
                    reason = member.reason if isinstance(error, Fenced) else str(error)
                    raise FleetLost(f"nothing can be changed in this fleet now: {reason}") from None
                await asyncio.sleep(_AGAIN_S)
        if _state(seen).epoch != member.local.applied:
            await self.end()
            raise Busy("another version was committed, and is served first")

    async def _claim(self) -> Snapshot:
        member = self._member
        member.note(coordinates=True)  # before Redis has it: what is claimed and not coordinated is given up
        try:
            return await member.step(lambda state, seen: protocol.claimed(state, member.id, seen.live))
        except BaseException:
            member.note(coordinates=False)
            member.changed.give()  # what others did meanwhile is still to be followed
            raise

    async def announce(self, record: VersionRecord) -> None:
        """See `CommitProtocol`."""
        member = self._member
        try:
            self._seen = await member.step(lambda state, _: protocol.preparing(state, member.id, record), self._seen)
        except (Fenced, FleetLost) as error:
            raise SwapRefused(f"the fleet cannot change now: {error}", for_now=True) from None

    async def prepared(self, record: VersionRecord) -> None:  # noqa: ARG002
        """See `CommitProtocol`."""
        member = self._member
        try:
            while True:
                seen = await self._until_none(protocol.unprepared)
                try:
                    self._seen = await member.step(
                        lambda state, seen: protocol.holding(state, member.id, seen.reports, seen.live), seen
                    )
                    return
                except Busy:  # somebody has joined meanwhile
                    self._seen = None
        except Refused as refusal:
            raise SwapRefused(f"member {refusal}", refusal.for_now) from None
        except (Fenced, FleetLost) as error:
            raise SwapRefused(f"the fleet cannot change now: {error}", for_now=True) from None

    async def held(self) -> None:
        """See `CommitProtocol`."""
        member, seen = self._member, None
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_HELD_WITHIN_S):
                    seen = await self._until_none(protocol.unheld)

            def commit(state: PolicyState, seen: Snapshot) -> PolicyState:
                target = state.change.target if state.change is not None else None
                if target is None:
                    raise Fenced("the fleet went on without this server")
                served = served_after(state.committed.served, target, self._most_records)
                new = msgspec.structs.replace(state.committed, served=served)
                return protocol.committed(state, member.id, new, seen.live)

            self._seen = await member.step(commit, seen)
        except (Fenced, FleetLost) as error:
            # Perhaps it was committed all the same: then this server serves it as soon as it can read that.
            raise SwapRefused(f"the fleet could not commit it: {error}", for_now=True) from None

    async def switched(self) -> None:
        """See `CommitProtocol`."""
        member, seen = self._member, self._seen
        assert seen is not None, "it was committed"
        member.serves(_state(seen).committed)
        try:
            await member.report("", applied=member.local.applied)
            self._seen = await self._until_none(protocol.unapplied)
        except (Fenced, FleetLost) as error:
            raise FleetLost(f"it is committed, but not all servers are known to follow: {error}", True) from None

    async def agree(self, served: tuple[VersionRecord, ...], pin: Pin | None, traffic: str) -> None:
        """See `CommitProtocol`."""
        if not same(self._member.known, served, pin, traffic):
            await self._agree(served=served, pin=pin, traffic=traffic)

    async def pause(self, mode: str | None) -> None:
        """Returns when the others know of a pause that is to be in force, or that none is."""
        await self._agree(paused=mode)

    async def _agree(self, **changes: Any) -> None:
        """Commits what was committed with these changes, which need nothing to be prepared."""
        member = self._member
        await self.begin()

        def commit(state: PolicyState, seen: Snapshot) -> PolicyState:
            return protocol.committed(state, member.id, msgspec.structs.replace(state.committed, **changes), seen.live)

        try:
            self._seen = await member.step(commit)
        except Fenced as error:
            raise FleetLost(f"the fleet cannot change now: {error}") from None
        await self.switched()

    async def end(self) -> None:
        """See `CommitProtocol`."""
        member = self._member
        if not member.local.coordinates:
            return
        try:
            await member.step(lambda state, _: protocol.released(state, member.id), self._seen)
        except FleetLost:
            pass  # it is ended as soon as Redis takes that: see `protocol.abandoned`
        finally:
            member.note(coordinates=False)
            member.changed.give()

    async def free(self) -> None:
        """See `CommitProtocol`."""
        member, revision, since = self._member, -1, 0.0
        while True:
            event = member.changed.next()
            try:
                seen = await member.read()
            except FleetLost:
                return  # `begin` says it
            if seen.state is None:
                return
            change = seen.state.change
            busy = change is not None and change.coordinator in seen.live and change.coordinator != member.id
            if not busy and seen.state.epoch <= member.local.applied:
                return
            if seen.state.revision != revision:
                revision, since = seen.state.revision, time.monotonic()
            elif time.monotonic() - since > _NO_STEP_S:
                what = f"member {change.coordinator} changes it" if busy and change else member.reason
                raise FleetLost(f"nothing has happened in the fleet for {_NO_STEP_S:g} s: {what or 'it cannot follow'}")
            await Notice.wait(event, _AGAIN_S)

    async def _until_none(self, missing: Missing) -> Snapshot:
        """Returns what is agreed on when no member is missing.

        It begins with what this member has made itself, and reads again where more than reports have come, or nothing.

        Raises:
          Fenced: the fleet went on without this server.
          FleetLost: Redis has been lost for some seconds.
        """
        member, seen = self._member, self._seen
        lost_at = 0.0
        while True:
            event = member.changed.next()
            is_news, reports = member.take_news(), member.take_reports()
            try:
                if seen is not None and not is_news:
                    seen = msgspec.structs.replace(seen, reports={**seen.reports, **reports})
                else:
                    seen = await member.read()
                lost_at = 0.0
            except FleetLost:
                lost_at = lost_at or time.monotonic()
                if time.monotonic() - lost_at > _PATIENCE_S:
                    raise
                seen = None
                await asyncio.sleep(_AGAIN_S)
                continue
            if seen.state is None:
                raise Fenced("what the fleet agreed on is gone from Redis, and is written anew")
            if not missing(seen.state, member.id, seen.reports, seen.live):
                return seen
            await member.wait(event)
            if not event.is_set():
                seen = None


def _state(seen: Snapshot) -> PolicyState:
    assert seen.state is not None, "a step was made from it"
    return seen.state
