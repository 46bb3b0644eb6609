"""Sessions in Redis, so that any worker and any replica takes any step.

    <prefix>record:{policy}/{id}     hash: token, run_id, retained, client, data; Redis drops it when idle for too long
    <prefix>open                     sorted set: every session, by the time at which it will be forgotten
    <prefix>retained:{policy}           set: the digests that sessions keep
    <prefix>retained:{policy}/{digest}  sorted set: the sessions that keep it, by the same time
    <prefix>client:{client}          sorted set: the sessions that it has started, by the same time

Nothing is counted up and down: what a server that was killed has left there goes with its time.

Each method is one script, which Redis runs as one step. `token` differs for all records of an id.
"""

from __future__ import annotations

from typing import Any

import msgspec
from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import RedisError, ResponseError

from app.errors import NotReady, Overloaded
from app.sessions.record import Record
from app.sessions.store import Key, Limits, Unusable, no_room, too_many_of, too_many_retained

PREFIX = "policy-server:sessions:"
# What a server with nothing else to do answers within a millisecond.
_PATIENCE_S = 5.0
# Of each worker; requests beyond them wait for one.
_CONNECTIONS = 64

# KEYS: record, open, retained, and with what the names of clients' sets start. ARGV[1]: key of the session,
# [2]: milliseconds until it is forgotten.
_COMMON = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local gone = now + ARGV[2]
local function prune(digest)
  local name = KEYS[3] .. '/' .. digest
  redis.call('ZREMRANGEBYSCORE', name, '-inf', now)
  if redis.call('ZCARD', name) == 0 then redis.call('SREM', KEYS[3], digest) end
end
local function touch(retained, client)
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  redis.call('ZADD', KEYS[2], gone, ARGV[1])
  if retained and retained ~= '' then
    redis.call('SADD', KEYS[3], retained)
    redis.call('ZADD', KEYS[3] .. '/' .. retained, gone, ARGV[1])
  end
  if client and client ~= '' then
    redis.call('ZADD', KEYS[4] .. client, gone, ARGV[1])
    redis.call('PEXPIRE', KEYS[4] .. client, ARGV[2])
  end
end
local function let_go()
  local retained = redis.pcall('HGET', KEYS[1], 'retained')
  if type(retained) == 'string' and retained ~= '' then
    redis.call('ZREM', KEYS[3] .. '/' .. retained, ARGV[1])
    prune(retained)
  end
  local client = redis.pcall('HGET', KEYS[1], 'client')
  if type(client) == 'string' and client ~= '' then redis.call('ZREM', KEYS[4] .. client, ARGV[1]) end
end
local function drop()
  let_go()
  redis.call('DEL', KEYS[1])
  redis.call('ZREM', KEYS[2], ARGV[1])
end
"""
# ARGV[3]: most bytes. Anything that no server has written there is dropped: no session could start in its place.
_GET = """
if redis.call('TYPE', KEYS[1]).ok == 'none' then return {} end
local size = redis.pcall('HSTRLEN', KEYS[1], 'data')
if type(size) ~= 'number' then drop(); return {'', 'it is no hash'} end
if size == 0 or size > tonumber(ARGV[3]) then drop(); return {'', 'it has ' .. size .. ' bytes'} end
local found = redis.call('HMGET', KEYS[1], 'data', 'retained', 'token', 'client')
touch(found[2], found[4])
return {found[1], found[3] or ''}
"""
# ARGV[3]: the data that cannot be used; what has come in its place stays.
_DROP = """
if redis.call('HGET', KEYS[1], 'data') == ARGV[3] then drop() end
"""
# ARGV[3]: token of the record before, [4]: token, [5]: run, [6]: retained, [7]: data, or none to ask only whether
# there is room, [8]: most sessions, [9]: most retained versions, [10]: the client, [11]: most sessions of it.
_BEGIN = """
if ARGV[7] ~= '' and (redis.call('HGET', KEYS[1], 'token') or '') ~= ARGV[3] then return 'another' end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
if not redis.call('ZSCORE', KEYS[2], ARGV[1]) and redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[8]) then
  return 'sessions'
end
if ARGV[10] ~= '' then
  local begun = KEYS[4] .. ARGV[10]
  redis.call('ZREMRANGEBYSCORE', begun, '-inf', now)
  if not redis.call('ZSCORE', begun, ARGV[1]) and redis.call('ZCARD', begun) >= tonumber(ARGV[11]) then
    return 'client'
  end
end
if ARGV[6] ~= '' then
  for _, digest in ipairs(redis.call('SMEMBERS', KEYS[3])) do prune(digest) end
  local count = redis.call('SCARD', KEYS[3])
  local own = redis.call('HGET', KEYS[1], 'retained')
  if own and own ~= '' and own ~= ARGV[6] and redis.call('ZCARD', KEYS[3] .. '/' .. own) == 1 then count = count - 1 end
  if redis.call('SISMEMBER', KEYS[3], ARGV[6]) == 0 and count >= tonumber(ARGV[9]) then return 'retained' end
end
if ARGV[7] ~= '' then
  let_go()
  redis.call('HSET', KEYS[1], 'token', ARGV[4], 'run_id', ARGV[5],
    'retained', ARGV[6], 'data', ARGV[7], 'client', ARGV[10])
  touch(ARGV[6], ARGV[10])
end
return 'begun'
"""
# ARGV[3]: token before, [4]: token, [5]: data.
_FOLLOW = """
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[3] then return 0 end
redis.call('HSET', KEYS[1], 'token', ARGV[4], 'data', ARGV[5])
local kept = redis.call('HMGET', KEYS[1], 'retained', 'client')
touch(kept[1], kept[2])
return 1
"""
# ARGV[3]: 'any', or 'run' where only the run ARGV[4] is to end.
_END = """
local found = redis.call('HMGET', KEYS[1], 'data', 'run_id')
if found[1] and (ARGV[3] == 'any' or found[2] == ARGV[4]) then
  drop()
end
return found[1]
"""
_COUNT = """
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
return redis.call('ZCARD', KEYS[2])
"""
_RETAINED = """
for _, digest in ipairs(redis.call('SMEMBERS', KEYS[3])) do prune(digest) end
return redis.call('SMEMBERS', KEYS[3])
"""


class RedisStore:
    """See `SessionStore`.

    Raises:
      ValueError: `url` is none that Redis has.
    """

    def __init__(self, url: str, limits: Limits) -> None:
        self._limits = limits
        pool: Any = BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=_PATIENCE_S,
            socket_timeout=_PATIENCE_S,
            socket_connect_timeout=_PATIENCE_S,
        )
        self._redis: Any = Redis.from_pool(pool)
        self._unusable: Unusable = _unread
        scripts = {
            "get": _GET,
            "drop": _DROP,
            "begin": _BEGIN,
            "follow": _FOLLOW,
            "end": _END,
            "retained": _RETAINED,
            "count": _COUNT,
        }
        self._scripts = {name: self._redis.register_script(_COMMON + text) for name, text in scripts.items()}

    def check_by(self, unusable: Unusable) -> None:
        """See `SessionStore`."""
        self._unusable = unusable

    async def get(self, key: Key) -> Record | None:
        """See `SessionStore`."""
        found = await self._run("get", key, self._limits.size_bytes)
        if not found:
            return None
        data, token = found
        record, reason = _record(data) if data else (None, token.decode(errors="replace"))
        if record is not None and _token(record) != token.decode(errors="replace"):
            record, reason = None, "its token is another record's"
        if self._unusable(key, record, reason):
            await self._run("drop", key, data)
            return None
        return record

    async def check_room(self, key: Key, retained: str | None, client: str = "") -> None:
        """See `SessionStore`."""
        await self._begin(key, client, "", "", "", retained or "", b"")

    async def begin(self, key: Key, before: Record | None, record: Record, client: str = "") -> bool:
        """See `SessionStore`."""
        old, run, data = "" if before is None else _token(before), record.run, self._bytes(record)
        return await self._begin(key, client, old, _token(record), run.run_id, run.retained or "", data)

    async def follow(self, key: Key, before: Record, after: Record) -> bool:
        """See `SessionStore`."""
        return bool(await self._run("follow", key, _token(before), _token(after), self._bytes(after)))

    async def end(self, key: Key, run_id: str | None) -> Record | None:
        """See `SessionStore`."""
        which = ["any"] if run_id is None else ["run", run_id]
        if await self.get(key) is None:  # what cannot be used is nobody's session
            return None
        data = await self._run("end", key, *which)
        return None if data is None else _record(data)[0]

    async def retained(self, policy: str) -> set[str]:
        """See `SessionStore`."""
        return {digest.decode() for digest in await self._run("retained", Key(policy, ""))}

    async def count(self) -> int:
        """See `SessionStore`."""
        return int(await self._run("count", Key("", "")))

    async def close(self) -> None:
        """See `SessionStore`."""
        await self._redis.aclose()

    async def _begin(self, key: Key, client: str, *record: str | bytes) -> bool:
        """`record`: the token of the one before, its own, its run, the weights that it retains, and its data."""
        limits = self._limits
        most = (limits.sessions, limits.retained_versions, client, limits.per_client)
        said = await self._run("begin", key, *record, *most)
        if said == b"sessions":
            raise no_room(limits.sessions)
        if said == b"client":
            raise too_many_of(client, limits.per_client)
        if said == b"retained":
            raise too_many_retained(limits.retained_versions)
        return bool(said == b"begun")

    def _bytes(self, record: Record) -> bytes:
        data, most = record.to_bytes(), self._limits.size_bytes
        if len(data) > most:
            raise Overloaded(f"the session takes {len(data)} bytes; the most for all of them is {most}")
        return data

    async def _run(self, script: str, key: Key, *args: Any) -> Any:
        name = f"{key.policy}/{key.id}"
        keys = [f"{PREFIX}record:{name}", f"{PREFIX}open", f"{PREFIX}retained:{key.policy}", f"{PREFIX}client:"]
        try:
            return await self._scripts[script](keys, [name, int(self._limits.idle_s * 1000), *args])
        except ResponseError as error:  # it is full, say
            raise NotReady(f"the store of sessions refuses: {str(error)[:200]}") from error
        except (RedisError, OSError, TimeoutError) as error:
            raise NotReady(f"the store of sessions cannot be reached: {type(error).__name__}") from error


def _token(record: Record) -> str:
    return f"{record.run.incarnation}:{record.step}"


def _record(data: bytes) -> tuple[Record | None, str]:
    """None, and why, where it cannot be read: a server of another version has written it, say."""
    try:
        return Record.from_bytes(data), ""
    except msgspec.DecodeError as error:
        return None, str(error)[:200]


def _unread(_: Key, record: Record | None, reason: str) -> str:
    """The check of a store that was given no other: whether it can be read at all."""
    return reason if record is None else ""
