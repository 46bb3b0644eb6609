"""What the connections of a worker may take: bytes held for them, and time."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import Protocol

from app.memory import FreedMemory

_LOOK_S, _LEAST_LOOK_S = 0.1, 0.02
# A client that has read nothing for so long is one of those that go first where unread answers take too much.
_STALLED_S = 0.2
# They may take so much more than the bound until then; beyond it those go that have read nothing for longest.
_MOST_EXCESS = 1.1


@dataclass(frozen=True)
class HttpLimits:
    """Bounds of a worker's connections.

    `keep_alive_s`: how long a connection may be idle. `client_timeout_s`: how long a client may take for the head of a
    request, for each 16 KiB of its body, and for reading anything of an answer. `buffered_bytes`: what all unfinished
    requests may hold together, and what all unread answers may.
    """

    keep_alive_s: float = 75
    client_timeout_s: float = 10
    buffered_bytes: int = 96 * 2**20


class Holder(Protocol):
    """A connection, as far as its memory goes."""

    def evict(self) -> None:
        """Gives up the unfinished request, for want of memory."""

    def unread_bytes(self) -> int:
        """What is written and not yet sent."""

    def abort(self) -> None:
        """Closes at once; what is unsent is lost."""


class UnfinishedRequests:
    """Bytes held for requests that are not complete or not answered. Beyond the bound the largest is given up."""

    def __init__(self, bound_bytes: int, memory: FreedMemory) -> None:
        self._bound = bound_bytes
        self._memory = memory
        self._sizes: dict[Holder, int] = {}
        self._total = 0

    def hold(self, holder: Holder, size: int) -> None:
        """Notes how much `holder` holds now."""
        self._total += size - self._sizes.get(holder, 0)
        self._sizes[holder] = size
        while self._total > self._bound:
            largest = max(self._sizes, key=self._sizes.__getitem__)
            self.release(largest)
            largest.evict()

    def release(self, holder: Holder) -> None:
        """Notes that `holder` holds nothing any more."""
        size = self._sizes.pop(holder, 0)
        self._total -= size
        self._memory.freed(size)


class UnreadAnswers:
    """Connections whose clients read more slowly than they are answered, looked at while there are any."""

    def __init__(self, bound_bytes: int, timeout_s: float, memory: FreedMemory) -> None:
        self._bound = bound_bytes
        self._timeout_s = timeout_s
        self._memory = memory
        self._watched: dict[Holder, _Unread] = {}
        self._total = 0
        self._looked = -math.inf
        self._timer: asyncio.TimerHandle | None = None

    def add(self, holder: Holder, size: int) -> None:
        """Watches a connection from now on. An answer of `size` bytes is in memory until the last of it is sent."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        before = self._watched.get(holder)
        self._total += size - (before.size if before is not None else 0)
        self._watched[holder] = _Unread(size, holder.unread_bytes(), now)
        if self._total > self._bound and now - self._looked >= _LEAST_LOOK_S:  # answers come faster than it is looked
            self._look_at_all(now)
        if self._timer is None:
            self._timer = loop.call_later(_LOOK_S, self._look)

    def discard(self, holder: Holder) -> None:
        """Watches it no more."""
        unread = self._watched.pop(holder, None)
        if unread is not None:
            self._total -= unread.size
            self._memory.freed(unread.size)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._look_at_all(loop.time())
        self._timer = loop.call_later(_LOOK_S, self._look) if self._watched else None

    def _look_at_all(self, now: float) -> None:
        self._looked = now
        for holder, unread in self._watched.items():
            unread.look(holder.unread_bytes(), now)
        for holder, unread in sorted(self._watched.items(), key=lambda item: -item[1].size):
            stalled_s = now - unread.since
            if stalled_s >= self._timeout_s or (self._total > self._bound and stalled_s >= _STALLED_S):
                self._give_up(holder)
        if self._total > self._bound * _MOST_EXCESS:
            for holder, unread in sorted(self._watched.items(), key=lambda item: item[1].since):
                if self._total > self._bound and unread.since < now:  # not the one that was just written
                    self._give_up(holder)

    def _give_up(self, holder: Holder) -> None:
        self.discard(holder)
        holder.abort()


@dataclass
class _Unread:
    """Bytes of an answer, how many are not sent, and since when they have not become fewer."""

    size: int
    unsent: int
    since: float

    def look(self, unsent: int, now: float) -> None:
        if unsent < self.unsent:
            self.unsent, self.since = unsent, now


class SharedLimits:
    """`HttpLimits`, and what the connections of a worker share to keep to them."""

    def __init__(self, limits: HttpLimits, memory: FreedMemory) -> None:
        self.keep_alive_s = limits.keep_alive_s
        self.client_timeout_s = limits.client_timeout_s
        self.unfinished = UnfinishedRequests(limits.buffered_bytes, memory)
        self.unread = UnreadAnswers(limits.buffered_bytes, limits.client_timeout_s, memory)
