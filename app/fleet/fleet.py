"""A server as a member of a fleet: its lease, its policies, and what its workers have to know of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

from app.errors import FleetLost, SwapRefused
from app.fleet.coordinator import Coordinator
from app.fleet.follower import Follower, PolicyHost
from app.fleet.member import PolicyMember
from app.fleet.notice import Notice
from app.fleet.peers import ask_peers, find_newest, post_to_all, redis_is_gone, reload_at
from app.fleet.protocol import Phase, Report
from app.fleet.store import LEASE_S, FleetStore, Member, Snapshot
from app.logs import about
from app.rpc.messages import FleetStatus, now_s

log = logging.getLogger("policy_server.fleet")

_RENEW_S = LEASE_S / 5
# A member takes its lease for ended before Redis does, by more than a load balancer needs to see that it is not ready:
# until then it sends requests, and the others may already have gone on without this member.
_MARGIN_S = 2.0
# How long a server that starts waits for its fleet before it listens; it is not ready before it takes part.
_JOIN_S = 10.0
_AGAIN_S = 0.2
# Sends the workers of the server what they have to know; the second is the count of members.
Publish = Callable[[FleetStatus, int], Awaitable[None]]


class Fleet:
    """The membership of one server. Event loop only.

    Args:
      store: where the fleet agrees.
      url: at which the other members reach this server.
      publish: sends the workers what they have to know.
    """

    def __init__(self, store: FleetStore, name: str, url: str, publish: Publish) -> None:
        self.id = secrets.token_hex(8)
        self.name = name
        self.secret = ""
        self.peers: list[Member] = []
        self.members: dict[str, PolicyMember] = {}
        self._store = store
        self._url = url
        self._since = time.time()
        self._publish = publish
        self._active: dict[str, Callable[[], str]] = {}
        self._until = 0.0
        self._reaches = False
        self._serves_on = False
        self._changed = Notice()
        self._running: list[asyncio.Task[Any]] = []
        self._closed = False

    def start(self) -> None:
        """Starts to hold a lease, and to listen for changes."""
        self._running += [asyncio.create_task(self._renew()), asyncio.create_task(self._listen())]

    def member(self, policy: str, active: Callable[[], str], most_records: int) -> tuple[PolicyMember, Coordinator]:
        """Returns this server's part in the agreement about a policy. `active`: returns the name of what it serves."""
        member = PolicyMember(policy, self.id, self._store, self._changed.give)
        self._active[policy] = active
        return member, Coordinator(member, most_records)

    async def join(self, member: PolicyMember, host: PolicyHost) -> None:
        """Follows the fleet with one policy from now on; returns when it takes part, or that takes long."""
        self.members[member.policy] = member
        self._running.append(asyncio.create_task(Follower(member, host).run()))
        until = time.monotonic() + _JOIN_S
        while not member.local.joined and time.monotonic() < until:
            event = self._changed.next()
            if not member.local.joined:
                await Notice.wait(event, _AGAIN_S)
        if not member.local.joined:
            log.warning(
                "%s: this server is not ready, because it does not take part: %s",
                member.policy,
                member.reason,
                extra=about(member.policy),
            )

    async def close(self) -> None:
        """Leaves the fleet: no other member waits for this one any more."""
        self._closed = True
        for member in self.members.values():
            member.close()
        running = {*self._running, *(read for member in self.members.values() for read in member.reads)}
        while running:  # a cancellation that comes just when Redis answers is lost in its client
            for task in running:
                task.cancel()
            _, running = await asyncio.wait(running, timeout=_AGAIN_S)
        with contextlib.suppress(FleetLost):
            await self._store.end(self.id)
        await self._store.close()

    def status(self) -> FleetStatus:
        """Returns what the workers have to know."""
        joined = bool(self.members) and all(member.local.joined for member in self.members.values())
        applied = {name: member.local.applied for name, member in self.members.items()}
        return FleetStatus(self.id, self._until if joined else 0.0, self._serves_on, self._reaches, applied)

    def seen(self) -> dict[str, Any]:
        """Returns what this server knows of the fleet without asking anyone, for the console."""
        status, members = self.status(), []
        for member in sorted([self._described(), *self.peers], key=lambda member: member.since):
            policies = {policy: str(known.get("version", "")) for policy, known in member.policies.items()}
            members.append({"id": member.id, "url": member.url, "since": member.since, "policies": policies})
        known = {"name": self.name, "member": self.id, "leased": status.leased, "reaches": status.reaches}
        return {**known, "members": members}

    @property
    def decides(self) -> bool:
        """True for one of the members that hold a lease: the one with the least id."""
        return self.status().leased and all(self.id < peer.id for peer in self.peers)

    async def exchange(self, policy: str, seen: bytes) -> dict[str, bytes]:
        """See `FleetStore.exchange`."""
        return await self._store.exchange(policy, self.id, seen)

    async def describe(self) -> dict[str, Any]:
        """Returns what `GET /admin/fleet` answers; raises FleetLost."""
        seen = {policy: await self._store.read(policy) for policy in self.members}
        members = []
        for member in await self._store.members():
            policies = {
                policy: {"version": known.get("version", ""), "state": _state_of(member.id, seen[policy])}
                for policy, known in member.policies.items()
                if policy in seen
            }
            members.append({"id": member.id, "url": member.url, "since": member.since, "policies": policies})
        return {"fleet": self.name, "members": members}

    def givers(self, policy: str) -> list[str]:
        """Returns the URLs of the members that may give files, one that has what is prepared now first; any thread.

        Raises:
          SwapRefused: this server stops, and whoever fetches need not go on.
        """
        if self._closed:
            raise SwapRefused("the server is stopping", for_now=True)
        member = self.members.get(policy)
        peers = list(self.peers)
        random.shuffle(peers)
        peers.sort(key=lambda peer: member is None or peer.id != member.prepares_for)
        return [peer.url for peer in peers]

    async def read_secret(self) -> None:
        """Reads what members show each other; a Redis that forgets has another one afterwards. Raises FleetLost."""
        self.secret = await self._store.secret()

    async def ask_all(self, path: str, body: dict[str, str]) -> None:
        """Has every other member do something; one that has gone meanwhile is left out.

        Raises:
          SwapRefused: one cannot.
        """
        live = {member.url for member in await self._store.members() if member.id != self.id}
        failed = await post_to_all(live, path, body, self.secret)
        if failed:
            live = {member.url for member in await self._store.members()}
        for url, reason in failed.items():
            if url in live:
                raise SwapRefused(f"member {url}: {reason}", for_now=True)

    async def ask_for_newest(self, path: str, name: str | None) -> tuple[str, int | None]:
        """Returns the URL of the member that has the newest checkpoint in its folder, and its train step."""
        return await find_newest([member.url for member in self.peers], path, name, self.secret)

    async def ask_one(self, url: str, path: str, name: str | None) -> dict[str, Any] | None:
        """Has one member reload: see `peers.reload_at`."""
        asked = asyncio.create_task(reload_at(url + path, name, self.secret))
        try:
            # However long it takes, as long as the member is there: one whose machine is gone never answers.
            while not asked.done() and any(peer.url == url for peer in self.peers):
                await asyncio.wait({asked}, timeout=_RENEW_S)
            return asked.result() if asked.done() else None
        finally:
            asked.cancel()

    def _described(self) -> Member:
        policies = {policy: {"version": active()} for policy, active in self._active.items() if policy in self.members}
        return Member(self.id, self._url, self._since, policies)

    async def _renew(self) -> None:
        while True:
            event = self._changed.next()
            try:
                await self._renew_or_lose()
            except Exception:  # a bug of ours: the next round may succeed
                log.exception("the lease cannot be renewed")
            with contextlib.suppress(Exception):
                await self._publish(self.status(), len(self.peers) + (self._until > 0))
            await Notice.wait(event, _RENEW_S)

    async def _renew_or_lose(self) -> None:
        try:
            await self._renew_once()
        except FleetLost as error:
            await self._lost(error)

    async def _renew_once(self) -> None:
        asked = now_s()
        described = self._described()
        if asked > self._until or not await self._store.renew(described, begins=False):
            self._lapse()
            asked = now_s()
            await self._store.renew(described, begins=True)
            for member in self.members.values():
                member.leased()
        await self.read_secret()
        self._until = asked + LEASE_S - _MARGIN_S
        if not self._reaches:
            log.info("member %s of fleet %s holds a lease", self.id, self.name)
        self._reaches, self._serves_on = True, False
        self.peers = [member for member in await self._store.members() if member.id != self.id]

    async def _lost(self, error: FleetLost) -> None:
        if self._reaches:
            log.warning("everything serves on, and nothing is swapped: %s", error)
        self._reaches = False
        if now_s() > self._until:
            self._lapse()
        answers = await ask_peers(self.peers)
        self._serves_on = any(member.known for member in self.members.values()) and redis_is_gone(
            len(self.peers), answers, self.status().applied
        )

    def _lapse(self) -> None:
        self._until = 0.0
        for member in self.members.values():
            member.lapsed()

    async def _listen(self) -> None:
        while True:
            try:
                async for notification in self._store.notifications(self.id):
                    for name, member in self.members.items():
                        if notification.policy in ("", name):
                            member.notified(notification)
            except FleetLost:
                pass
            except Exception:  # a bug of ours: the next ones may be understood
                log.exception("what Redis notifies of is not understood")
            await asyncio.sleep(_RENEW_S / 2)


def _state_of(member: str, seen: Snapshot) -> str:
    """How far a member is with one policy."""
    state, report = seen.state, seen.reports.get(member, Report())
    if state is None or member not in state.members:
        return "joining"
    change = state.change
    if change is not None and change.coordinator != member and change.phase is not Phase.CLAIMED:
        if report.refused == change.epoch:
            return "refused"
        if report.held == change.epoch:
            return "holding"
        return "ready" if report.prepared == change.epoch else "preparing"
    if change is not None and change.coordinator == member:
        return "coordinating"
    return "active" if report.applied >= state.epoch else "switching"
