"""Changes that other members coordinate, as this server follows them; and its way back after it was left behind."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Protocol

from app.artifacts.records import Pin, VersionRecord
from app.errors import FleetLost, SwapRefused
from app.fleet import protocol
from app.fleet.commit import CommitProtocol
from app.fleet.member import PolicyMember
from app.fleet.protocol import Busy, Committed, Fenced, PolicyState, Task
from app.fleet.store import LEASE_S, Snapshot
from app.logs import about

log = logging.getLogger("policy_server.fleet")

# What could not be served is tried again after so long.
_AGAIN_S = 2.0
# Where nobody takes part for so long, nobody has what was committed: the last one may have gone with its disk.
_NOBODY_S = 3 * LEASE_S


class PolicyHost(Protocol):
    """The policy on this server, as its fleet drives it."""

    def serving(self) -> tuple[tuple[VersionRecord, ...], Pin | None]:
        """Returns the versions that have served, the active one last, and the pin."""

    async def serve(self, committed: Committed) -> None:
        """Returns when what was committed is served, with its pin and its pause; SwapRefused where it cannot be."""

    async def follow(self, record: VersionRecord, following: Following) -> None:
        """Makes a swap that another member coordinates, and adopts what it commits; SwapRefused where it cannot be."""


class Following(CommitProtocol):
    """The part of one swap that waits for its coordinator, who sees to everything else."""

    alone = False

    def __init__(self, member: PolicyMember, epoch: int, coordinator: str) -> None:
        self.epoch = epoch
        self.coordinator = coordinator
        self.is_prepared = False
        self.committed: Committed
        self._member = member
        self._hold: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._commit: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()

    def hold(self) -> None:
        """Has the swap hold requests."""
        if not self._hold.done():
            self._hold.set_result(None)

    def commit(self, committed: Committed) -> None:
        """Has the swap switch."""
        self.hold()
        if not self._commit.done():
            self._commit.set_result(committed)

    def give_up(self) -> None:
        """Ends the swap, which changes nothing."""
        for waiting in (self._hold, self._commit):
            if not waiting.done():
                waiting.cancel()

    async def prepared(self, record: VersionRecord) -> None:  # noqa: ARG002
        """See `CommitProtocol`."""
        self.is_prepared = True
        self._member.note(prepared=self.epoch)
        await self._member.report(self.coordinator, prepared=self.epoch)
        await self._awaited(self._hold)

    async def held(self) -> None:
        """See `CommitProtocol`."""
        self._member.note(held=self.epoch)
        await self._member.report(self.coordinator, held=self.epoch)
        self.committed = await self._awaited(self._commit)

    async def _awaited(self, waiting: asyncio.Future[protocol.Committed] | asyncio.Future[None]) -> Committed:
        await asyncio.wait({waiting})
        if waiting.cancelled():
            raise SwapRefused("the member that had the fleet prepare it gave it up", for_now=True)
        return waiting.result()  # type: ignore[return-value]


class Follower:
    """Keeps one policy of this server at what its fleet agrees on. Event loop only."""

    def __init__(self, member: PolicyMember, host: PolicyHost) -> None:
        self._member = member
        self._host = host
        self._following: Following | None = None
        self._swap: asyncio.Task[None] | None = None
        self._lost = ""
        self._nobody_since = 0.0
        self._revision = -1

    async def run(self) -> None:
        """Follows until it is cancelled."""
        member = self._member
        try:
            while True:
                event = member.changed.next()
                pause_s = 0.0
                try:
                    while not member.local.coordinates and await self._advance(await self._latest()):
                        pass
                    self._lost = ""
                except (FleetLost, Busy, Fenced) as error:
                    self._log_lost(error)
                except SwapRefused as refusal:
                    member.reason, pause_s = str(refusal), _AGAIN_S
                    log.warning(
                        "%s: cannot serve what the fleet has committed: %s",
                        member.policy,
                        refusal,
                        extra=about(member.policy),
                    )
                    await self._found_anew()
                except Exception:  # a bug of ours: the next round may succeed
                    log.exception("%s: cannot follow the fleet", member.policy, extra=about(member.policy))
                    pause_s = _AGAIN_S
                await asyncio.sleep(pause_s)
                await member.wait(event)
        finally:
            await self._give_up()

    async def _latest(self) -> Snapshot:
        """What is agreed on: as Redis has sent it, where that is later than what was seen last."""
        seen = self._member.take_pushed()
        if seen is None or seen.state is None or seen.state.revision <= self._revision:
            seen = await self._member.read()
        self._revision = -1 if seen.state is None else seen.state.revision
        return seen

    async def _found_anew(self) -> None:
        """Has the fleet begin with what this server serves, where nobody has had what was committed for long."""
        member = self._member
        try:
            seen = await member.read()
            if seen.state is None or protocol.taking_part(seen.state, seen.live):
                self._nobody_since = 0.0
                return
            self._nobody_since = self._nobody_since or time.monotonic()
            if time.monotonic() - self._nobody_since < _NOBODY_S:
                return
            served, pin = self._host.serving()
            await member.step(lambda state, seen: protocol.founded_anew(state, served, pin, seen.live))
        except FleetLost as error:
            self._log_lost(error)
            return
        self._nobody_since = 0.0
        log.warning(
            "%s: nobody has what the fleet has committed; it begins anew with %s",
            member.policy,
            served[-1],
            extra=about(member.policy),
        )

    def _log_lost(self, error: Exception) -> None:
        if isinstance(error, FleetLost) and str(error) != self._lost:
            self._lost = str(error)
            log.warning(
                "%s: everything serves on, and nothing is swapped: %s",
                self._member.policy,
                error,
                extra=about(self._member.policy),
            )

    async def _advance(self, seen: Snapshot) -> bool:
        """Does what is next; returns whether there may be more to do."""
        member = self._member
        task = protocol.next_task(seen.state, member.id, member.local, seen.live)
        if task is Task.NOTHING:
            return False
        if task is Task.RECOVER:
            await self._recover()
            return True
        state = seen.state
        assert state is not None
        if task is Task.CATCH_UP:
            await self._give_up()
            await self._catch_up(state)
        elif task is Task.ABANDON:
            await member.step(lambda state, seen: protocol.abandoned(state, member.id, member.local, seen.live))
        elif task is Task.GIVE_UP:
            await self._give_up()
        elif task is Task.REPORT:
            await member.deliver()
        else:
            return await self._take_part(task, state)
        return True

    async def _take_part(self, task: Task, state: PolicyState) -> bool:
        following, swap = self._following, self._swap
        if task is Task.APPLY:
            assert swap is not None, "it is prepared"
            assert following is not None
            following.commit(state.committed)
            await asyncio.wait({swap})
            self._following = self._swap = None
            if self._member.local.applied < state.epoch:  # the swap has failed after all
                self._member.note(prepared=0, held=0)
            return True
        assert state.change is not None
        assert state.change.target is not None
        if task is Task.HOLD and following is not None:
            following.hold()
        elif task is Task.PREPARE and (following is None or following.epoch != state.change.epoch):
            await self._give_up()
            self._member.prepares_for = state.change.coordinator
            self._following = Following(self._member, state.change.epoch, state.change.coordinator)
            self._swap = asyncio.create_task(self._follow(state.change.target, self._following))
        return False

    async def _follow(self, record: VersionRecord, following: Following) -> None:
        member, to = self._member, following.coordinator
        try:
            await self._host.follow(record, following)
        except (SwapRefused, FleetLost) as refusal:
            if not following.is_prepared:
                member.note(refused=following.epoch)
                reason, for_now = str(refusal), isinstance(refusal, FleetLost) or refusal.for_now
                await member.report(to, refused=following.epoch, reason=reason, for_now=for_now)
        except Exception:  # a bug of ours: to the others it is a refusal
            log.exception("%s: a swap of the fleet cannot be followed", member.policy, extra=about(member.policy))
            member.note(refused=following.epoch)
            why = "it has failed, and its log says why"
            await member.report(to, refused=following.epoch, reason=why, for_now=True)
        else:
            member.serves(following.committed)
            await member.report(to, applied=following.committed.epoch)

    async def _give_up(self) -> None:
        if self._following is not None and self._swap is not None:
            self._following.give_up()
            await asyncio.wait({self._swap})
        self._following = self._swap = None
        self._member.note(prepared=0, held=0)

    async def _recover(self) -> None:
        member = self._member
        if member.known is not None:
            known = member.known
            log.warning(
                "%s: Redis has lost what the fleet agreed on; it is written anew",
                member.policy,
                extra=about(member.policy),
            )
            settles_s = LEASE_S
            await member.store.step(
                member.policy,
                lambda seen: protocol.recovered(seen.state, known, seen.now_ms + int(settles_s * 1000)),
            )
            return
        served, pin = self._host.serving()
        await member.store.step(
            member.policy, lambda seen: protocol.founded(served, pin) if seen.state is None else None
        )

    async def _catch_up(self, state: PolicyState) -> None:
        member = self._member
        if member.id not in state.members:
            member.note(joined=False)
        if state.epoch > member.local.applied:
            try:
                await self._host.serve(state.committed)
            except SwapRefused:
                member.note(joined=False)  # it answers from older weights, and is not ready while it does
                await member.step(lambda state, _: protocol.left(state, member.id))
                raise
            member.serves(state.committed)
            await member.report(state.change.coordinator if state.change is not None else "", applied=state.epoch)
        if member.local.joined and member.id in state.members:
            return
        applied = member.local.applied
        await member.step(lambda state, seen: protocol.joined(state, member.id, applied, seen.live, seen.now_ms))
        member.note(joined=True)
