"""The agreement of a fleet in Redis: leases, one state for each policy, and what each member reports.

    policy-server:fleet:{NAME}:leases            sorted set: members by the time at which their leases end
    policy-server:fleet:{NAME}:members           hash: member → what it says of itself
    policy-server:fleet:{NAME}:policy:POLICY     the state: app/fleet/protocol.py as JSON
    policy-server:fleet:{NAME}:reports:POLICY    hash: member → its report
    policy-server:fleet:{NAME}:traffic:POLICY    hash: member → what it has seen of what is tried
    policy-server:fleet:{NAME}:secret            what members show each other when they ask for files
    policy-server:fleet:{NAME}:changes           channel: a policy's name, and its new state but for claims; "": leases
    policy-server:fleet:{NAME}:reported:MEMBER   channel: the name of a policy, who reports to this member, and what

Times are of Redis's clock alone. Each method is one script, which Redis runs as one step.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.errors import FleetLost
from app.fleet.protocol import FORMAT, PolicyState, Report, is_awaited

# How long a member takes part after it was last heard of.
LEASE_S = 5.0
# What a server with nothing else to do answers within a millisecond.
_PATIENCE_S = 1.5
# What is known of a member that is gone is kept so long.
_FORGET_MS = 60_000
# What was seen of a trial is kept so long after nobody has added to it.
_FORGET_TRAFFIC_S = 7 * 24 * 3600

_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""
# Where there are more reports than leases, those of members that are forgotten are deleted.
# KEYS: leases, members, reports of each policy. ARGV: member, milliseconds, its description, channel, and whether it
# may begin a lease.
_RENEW = (
    _NOW
    + f"local forgotten = now - {_FORGET_MS}"
    + """
local ends = redis.call('ZSCORE', KEYS[1], ARGV[1])
if ARGV[5] == '' and not (ends and tonumber(ends) > now) then return 0 end
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', forgotten)) do
  redis.call('ZREM', KEYS[1], gone)
  redis.call('HDEL', KEYS[2], gone)
end
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
for i = 3, #KEYS do
  if redis.call('HLEN', KEYS[i]) > redis.call('ZCARD', KEYS[1]) then
    for _, member in ipairs(redis.call('HKEYS', KEYS[i])) do
      if not redis.call('ZSCORE', KEYS[1], member) then redis.call('HDEL', KEYS[i], member) end
    end
  end
end
if ARGV[5] ~= '' then redis.call('PUBLISH', ARGV[4], '') end
return 1
"""
)
# KEYS: leases, members. ARGV: member, channel.
_END = """
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('PUBLISH', ARGV[2], '')
"""
# KEYS: state, reports, leases.
_READ = (
    _NOW
    + """
local live = redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. now, '+inf')
local reports = {}
for i, member in ipairs(live) do reports[i] = redis.call('HGET', KEYS[2], member) or '' end
return {redis.call('GET', KEYS[1]) or '', reports, live, now}
"""
)
# The parts of a message are separated by line ends, which are in no name.
# KEYS: state. ARGV: what it was, what it shall be, channel or '', policy.
_SWAP = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
if ARGV[3] ~= '' then redis.call('PUBLISH', ARGV[3], ARGV[4] .. '\\n' .. ARGV[2]) end
return 1
"""
# KEYS: reports. ARGV: member, report, channel or '', policy.
_REPORT = """
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
if ARGV[3] ~= '' then redis.call('PUBLISH', ARGV[3], ARGV[4] .. '\\n' .. ARGV[1] .. '\\n' .. ARGV[2]) end
"""
# KEYS: traffic. ARGV: member, what it has seen, and for how many seconds it is kept.
_EXCHANGE = """
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return redis.call('HGETALL', KEYS[1])
"""
# KEYS: leases, members.
_MEMBERS = (
    _NOW
    + """
local live = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')
local found = {}
for i, member in ipairs(live) do found[i] = redis.call('HGET', KEYS[2], member) or '' end
return {live, found}
"""
)


class Member(msgspec.Struct, frozen=True):
    """Description of a member, by itself. `since`: Unix time, in seconds; `policies`: name → version and state."""

    id: str
    url: str
    since: float
    policies: dict[str, dict[str, str]] = {}


class _Format(msgspec.Struct, frozen=True):
    """All that is read of an agreement before it is known to be of a form that this server knows."""

    format: int = FORMAT


class Snapshot(msgspec.Struct, frozen=True):
    """What is agreed on about one policy at one moment; `state`: None where there is nothing that can be read.

    `reports`: of members that hold a lease, `live`.
    """

    raw: bytes
    state: PolicyState | None
    reports: dict[str, Report]
    live: frozenset[str]
    now_ms: int


class Notification(msgspec.Struct, frozen=True):
    """What Redis says has happened; where it names no policy, leases have changed, or anything may have happened.

    Of a policy: a new state, as it is kept and decoded; or the report of a member to this one. What cannot be decoded
    is left out.
    """

    policy: str = ""
    raw: bytes = b""
    state: PolicyState | None = None
    member: str = ""
    report: Report | None = None


class FleetStore:
    """One fleet in one Redis. Each method raises FleetLost where that cannot be used."""

    def __init__(self, url: str, fleet: str) -> None:
        self._redis: Redis = Redis.from_url(
            url, socket_timeout=_PATIENCE_S, socket_connect_timeout=_PATIENCE_S, health_check_interval=0
        )
        prefix = f"policy-server:fleet:{{{fleet}}}:"
        self._prefix = prefix
        self._leases, self._members = prefix + "leases", prefix + "members"
        self._channel, self._reported = prefix + "changes", prefix + "reported:"
        scripts = {"renew": _RENEW, "end": _END, "read": _READ, "swap": _SWAP, "report": _REPORT, "members": _MEMBERS}
        scripts["exchange"] = _EXCHANGE
        self._scripts = {name: self._redis.register_script(text) for name, text in scripts.items()}

    async def close(self) -> None:
        """Closes the connections."""
        await self._redis.aclose()

    async def renew(self, member: Member, begins: bool) -> bool:
        """Renews a member's lease, or begins one; returns False where it has ended and is not to begin."""
        described = msgspec.json.encode(member)
        arguments = [member.id, int(LEASE_S * 1000), described, self._channel, "1" if begins else ""]
        reports = [self._keys(policy)[1] for policy in member.policies]
        return bool(await self._run("renew", [self._leases, self._members, *reports], arguments))

    async def end(self, member: str) -> None:
        """Ends a member's lease."""
        await self._run("end", [self._leases, self._members], [member, self._channel])

    async def members(self) -> list[Member]:
        """Returns the members that hold a lease, by their ids."""
        _, texts = await self._run("members", [self._leases, self._members], [])
        found = [_decoded(text, Member) for text in texts]
        return sorted((member for member in found if member is not None), key=lambda member: member.id)

    async def secret(self) -> str:
        """Returns what the members of the fleet show each other."""
        key = self._prefix + "secret"
        try:
            found = await self._redis.get(key)
            if not found:
                await self._redis.set(key, secrets.token_hex(32), nx=True)
                found = await self._redis.get(key)
        except (RedisError, OSError, TimeoutError) as error:
            raise _lost(error) from None
        if not found:
            raise FleetLost("the fleet's secret is gone from Redis again")
        return found.decode("latin-1") if isinstance(found, bytes) else found

    async def read(self, policy: str) -> Snapshot:
        """Returns what is agreed on about a policy."""
        raw, reports, live, now_ms = await self._run("read", [*self._keys(policy), self._leases], [])
        form = _decoded(raw, _Format)
        if form is not None and form.format != FORMAT:
            raise FleetLost(f"the fleet's agreement has format {form.format}, and this server knows {FORMAT}")
        state = _decoded(raw, PolicyState)
        found = {_text(member): _decoded(text, Report) for member, text in zip(live, reports, strict=True)}
        known = {member: report for member, report in found.items() if report is not None}
        return Snapshot(bytes(raw), state, known, frozenset(map(_text, live)), int(now_ms))

    async def step(
        self, policy: str, step: Callable[[Snapshot], PolicyState | None], seen: Snapshot | None = None
    ) -> Snapshot:
        """Makes a step from what is agreed on; None, or the same state, changes nothing.

        `seen`: what was read before, which is not read again where it is still agreed on.

        Returns:
          What is agreed on then.

        Raises:
          Exception: what `step` raises.
        """
        while True:
            if seen is None:
                seen = await self.read(policy)
            new = step(seen)
            if new is None or new is seen.state:
                return seen
            raw = msgspec.json.encode(new)
            channel = self._channel if is_awaited(seen.state, new) else ""
            if await self._run("swap", self._keys(policy)[:1], [seen.raw, raw, channel, policy]):
                return msgspec.structs.replace(seen, raw=raw, state=new)
            seen = None

    async def report(self, policy: str, member: str, report: Report, to: str) -> None:
        """Writes what a member has done. `to`: the member that waits for it; "" where none does."""
        channel = self._reported + to if to else ""
        await self._run("report", self._keys(policy)[1:], [member, msgspec.json.encode(report), channel, policy])

    async def exchange(self, policy: str, member: str, seen: bytes) -> dict[str, bytes]:
        """Writes what a member has seen of what is tried; returns what the others have, by their ids."""
        found = await self._run("exchange", [f"{self._prefix}traffic:{policy}"], [member, seen, _FORGET_TRAFFIC_S])
        pairs = zip(found[::2], found[1::2], strict=True)
        return {_text(other): bytes(text) for other, text in pairs if _text(other) != member}

    async def notifications(self, member: str) -> AsyncIterator[Notification]:
        """Yields what happens, and the reports to this member; first that anything may have happened."""
        reported = self._reported + member
        try:
            async with self._redis.pubsub(ignore_subscribe_messages=True) as channel:
                await channel.subscribe(self._channel, reported)
                yield Notification()
                while True:
                    message = await channel.get_message(timeout=LEASE_S)
                    if message is not None:
                        yield _notification(bytes(message["data"]), _text(message["channel"]) == reported)
        except (RedisError, OSError, TimeoutError) as error:
            raise _lost(error) from None

    def _keys(self, policy: str) -> list[str]:
        return [f"{self._prefix}policy:{policy}", f"{self._prefix}reports:{policy}"]

    async def _run(self, script: str, keys: list[str], arguments: list[Any]) -> Any:
        try:
            return await self._scripts[script](keys=keys, args=arguments)
        except (RedisError, OSError, TimeoutError) as error:
            raise _lost(error) from None


def _notification(message: bytes, is_report: bool) -> Notification:
    policy, _, rest = message.partition(b"\n")
    if is_report:
        member, _, text = rest.partition(b"\n")
        return Notification(_text(policy), member=_text(member), report=_decoded(text, Report))
    state = _decoded(rest, PolicyState)
    return Notification(_text(policy), rest, state if state is not None and state.format == FORMAT else None)


def _text(member: bytes) -> str:
    """The id of a member, or the name of a policy, whatever somebody has written there."""
    return bytes(member).decode("utf-8", "replace")


def _lost(error: Exception) -> FleetLost:
    return FleetLost(f"the fleet's Redis cannot be used: {str(error)[:200] or type(error).__name__}")


def _decoded(text: Any, kind: Any) -> Any:
    try:
        return msgspec.json.decode(text, type=kind) if text else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
