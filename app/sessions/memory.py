"""Sessions in the memory of the one process that answers.

The methods that do not wait are for the fast path; the others do the same for `SessionStore`.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from itertools import islice

from app.errors import Overloaded
from app.rpc.messages import Spread
from app.sessions.record import Record
from app.sessions.store import Key, Limits, Unusable, no_room, too_many_of, too_many_retained

# A walk over more of them would be felt by who asks just then.
_MOST_LOOKED_AT = 10_000


class _Kept:
    """A record, its size, the client that started the session, and when it was used last."""

    __slots__ = ("client", "record", "size", "used_at")

    def __init__(self, record: Record, used_at: float, client: str) -> None:
        self.client = client
        self.record = record
        self.size = record.size
        self.used_at = used_at


class MemoryStore:
    """See `SessionStore`. `clock`: seconds; what is idle is dropped when something is asked, and by `sweep`."""

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._kept: OrderedDict[Key, _Kept] = OrderedDict()  # the one that was used last is the last one
        self._retained: dict[str, Counter[str]] = {}
        self._of_client: Counter[str] = Counter()
        self._bytes = 0

    @property
    def size_bytes(self) -> int:
        """The memory that all records take."""
        return self._bytes

    def sweep(self) -> None:
        """Drops what is idle for too long."""
        latest = self._clock() - self._limits.idle_s
        while self._kept:
            key, kept = next(iter(self._kept.items()))
            if kept.used_at > latest:
                return
            self._drop(key)

    def find(self, key: Key) -> Record | None:
        """See `SessionStore.get`."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        now = self._clock()
        if kept.used_at <= now - self._limits.idle_s:
            self._drop(key)
            return None
        kept.used_at = now
        self._kept.move_to_end(key)
        return kept.record

    def put(self, key: Key, before: Record, after: Record) -> bool:
        """See `SessionStore.follow`."""
        kept = self._kept.get(key)
        if kept is None or kept.record is not before:
            return False
        size = after.size
        self._bytes += size - kept.size
        kept.record, kept.size = after, size
        return True

    def check_by(self, unusable: Unusable) -> None:
        """See `SessionStore`. Nobody else can write here."""

    async def get(self, key: Key) -> Record | None:
        """See `SessionStore`."""
        return self.find(key)

    async def check_room(self, key: Key, retained: str | None, client: str = "") -> None:
        """See `SessionStore`."""
        self._check(key, retained, 0, client)

    async def begin(self, key: Key, before: Record | None, record: Record, client: str = "") -> bool:
        """See `SessionStore`."""
        if self.find(key) is not before:
            return False
        kept = _Kept(record, self._clock(), client)
        self._check(key, record.run.retained, kept.size, client)
        self._drop(key)
        self._kept[key] = kept
        self._of_client[client] += 1
        self._bytes += kept.size
        if record.run.retained is not None:
            self._retained.setdefault(key.policy, Counter())[record.run.retained] += 1
        return True

    async def follow(self, key: Key, before: Record, after: Record) -> bool:
        """See `SessionStore`."""
        return self.put(key, before, after)

    async def end(self, key: Key, run_id: str | None) -> Record | None:
        """See `SessionStore`."""
        record = self.find(key)
        if record is not None and run_id in (None, record.run.run_id):
            self._drop(key)
        return record

    async def retained(self, policy: str) -> set[str]:
        """See `SessionStore`."""
        self.sweep()
        return set(self._retained.get(policy, ()))

    def retains(self, policy: str, digest: str) -> bool:
        """Returns whether a session keeps this version."""
        return digest in self._retained.get(policy, ())

    async def count(self) -> int:
        """See `SessionStore`."""
        self.sweep()
        return len(self._kept)

    def spread(self) -> Spread:
        """Returns how the sessions are spread, for a person."""
        every = -(-len(self._kept) // _MOST_LOOKED_AT) or 1
        now, some = self._clock(), list(islice(self._kept.values(), 0, None, every))
        return Spread(
            dict(Counter(key.policy for key in self._kept)),
            _points(sorted(kept.record.step for kept in some)),
            _points(sorted(now - kept.used_at for kept in some)),
        )

    async def close(self) -> None:
        """See `SessionStore`."""

    def _check(self, key: Key, retained: str | None, size: int, client: str) -> None:
        self.sweep()
        old = self._kept.get(key)
        if old is None and len(self._kept) >= self._limits.sessions:
            raise no_room(self._limits.sessions)
        is_mine = old is not None and old.client == client
        if client and not is_mine and self._of_client[client] >= self._limits.per_client:
            raise too_many_of(client, self._limits.per_client)
        left = self._limits.size_bytes - self._bytes + (0 if old is None else old.size)
        if size > left or left <= 0:
            raise Overloaded(f"open sessions take {self._bytes} bytes of {self._limits.size_bytes}; try again")
        if retained is not None:
            counts = self._retained.get(key.policy, Counter())
            own = None if old is None else old.record.run.retained
            versions = {digest for digest, count in counts.items() if digest != own or count > 1} | {retained}
            if len(versions) > self._limits.retained_versions:
                raise too_many_retained(self._limits.retained_versions)

    def _drop(self, key: Key) -> None:
        kept = self._kept.pop(key, None)
        if kept is None:
            return
        self._bytes -= kept.size
        self._of_client[kept.client] -= 1
        if not self._of_client[kept.client]:
            del self._of_client[kept.client]
        retained = kept.record.run.retained
        if retained is not None:
            counts = self._retained[key.policy]
            counts[retained] -= 1
            if not counts[retained]:
                del counts[retained]


def _points(ascending: Sequence[float]) -> dict[str, float]:
    if not ascending:
        return {}
    last = len(ascending) - 1
    return {"p50": ascending[last // 2], "p90": ascending[last * 9 // 10], "max": ascending[last]}
