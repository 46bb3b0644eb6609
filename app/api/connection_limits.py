"""Bounds of what the connections of a worker may take: memory, and time."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import Protocol

from app.memory import FreedMemory
from app.settings import Settings

_CHECK_S, _LEAST_CHECK_S = 0.1, 0.02
# A client that has read nothing for so long is one of those that go first where unread answers take too much.
_STALLED_S = 0.2
# They may take so much more than the bound until then; beyond it those go that have read nothing for longest.
_MOST_EXCESS = 1.1


@dataclass(frozen=True)
class HttpLimits:
    """Bounds of a worker's connections.

    `keep_alive_s`: how long a connection may be idle. `client_timeout_s`: how long a client may take for the head of a
    request, for each 16 KiB of its body, and for reading anything of an answer. `buffered_bytes`: what all unfinished
    requests may take together, and what all unread answers may.
    """

    keep_alive_s: float = 75
    client_timeout_s: float = 10
    buffered_bytes: int = 96 * 2**20

    @classmethod
    def of(cls, settings: Settings) -> HttpLimits:
        """Returns those of a server: the largest allowed body is not given up for a small one beside it."""
        buffered_bytes = max(settings.buffered_limit_bytes, settings.body_limit_bytes * 3 // 2)
        return cls(settings.keep_alive_s, settings.client_timeout_s, buffered_bytes)


class Owner(Protocol):
    """A connection, for which bytes are kept."""

    def evict(self) -> None:
        """Gives up the unfinished request, for want of memory."""

    def unread_bytes(self) -> int:
        """Returns how many written bytes are not sent yet."""

    def abort(self) -> None:
        """Closes at once; what is unsent is lost."""


class UnfinishedRequests:
    """Bytes of requests that are not complete or not answered. Beyond the bound the largest request is given up."""

    def __init__(self, bound_bytes: int, memory: FreedMemory) -> None:
        self._bound = bound_bytes
        self._memory = memory
        self._sizes: dict[Owner, int] = {}
        self._total = 0

    def count(self, owner: Owner, size: int) -> None:
        """Records how many bytes are kept for `owner` now."""
        self._total += size - self._sizes.get(owner, 0)
        self._sizes[owner] = size
        while self._total > self._bound:
            largest = max(self._sizes, key=self._sizes.__getitem__)
            self.release(largest)
            largest.evict()

    @property
    def total_bytes(self) -> int:
        """The bytes of all of them."""
        return self._total

    def release(self, owner: Owner) -> None:
        """Records that nothing is kept for `owner` any more."""
        size = self._sizes.pop(owner, 0)
        self._total -= size
        self._memory.freed(size)


class UnreadAnswers:
    """Connections whose clients read more slowly than they are answered, checked while there are any."""

    def __init__(self, bound_bytes: int, timeout_s: float, memory: FreedMemory) -> None:
        self._bound = bound_bytes
        self._timeout_s = timeout_s
        self._memory = memory
        self._watched: dict[Owner, _Unread] = {}
        self._total = 0
        self._checked_at = -math.inf
        self._timer: asyncio.TimerHandle | None = None

    def add(self, owner: Owner, size: int) -> None:
        """Watches a connection from now on. An answer of `size` bytes is in memory until the last of it is sent."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        before = self._watched.get(owner)
        self._total += size - (before.size if before is not None else 0)
        self._watched[owner] = _Unread(size, owner.unread_bytes(), now)
        if self._total > self._bound and now - self._checked_at >= _LEAST_CHECK_S:  # answers come faster than checks
            self._check_all(now)
        if self._timer is None:
            self._timer = loop.call_later(_CHECK_S, self._check)

    @property
    def total_bytes(self) -> int:
        """The bytes of the answers to all of them."""
        return self._total

    def discard(self, owner: Owner) -> None:
        """Stops watching a connection."""
        unread = self._watched.pop(owner, None)
        if unread is not None:
            self._total -= unread.size
            self._memory.freed(unread.size)

    def _check(self) -> None:
        loop = asyncio.get_running_loop()
        self._check_all(loop.time())
        self._timer = loop.call_later(_CHECK_S, self._check) if self._watched else None

    def _check_all(self, now: float) -> None:
        self._checked_at = now
        for owner, unread in self._watched.items():
            unread.update(owner.unread_bytes(), now)
        for owner, unread in sorted(self._watched.items(), key=lambda item: -item[1].size):
            stalled_s = now - unread.since
            if stalled_s >= self._timeout_s or (self._total > self._bound and stalled_s >= _STALLED_S):
                self._give_up(owner)
        if self._total > self._bound * _MOST_EXCESS:
            for owner, unread in sorted(self._watched.items(), key=lambda item: item[1].since):
                if self._total > self._bound and unread.since < now:  # not the one that was just written
                    self._give_up(owner)

    def _give_up(self, owner: Owner) -> None:
        self.discard(owner)
        owner.abort()


@dataclass
class _Unread:
    """Bytes of an answer, how many are not sent, and since when they have not become fewer."""

    size: int
    unsent: int
    since: float

    def update(self, unsent: int, now: float) -> None:
        if unsent < self.unsent:
            self.unsent, self.since = unsent, now


class SharedLimits:
    """`HttpLimits`, and what the connections of a worker share to keep to them."""

    def __init__(self, limits: HttpLimits, memory: FreedMemory) -> None:
        self.buffered_bytes = limits.buffered_bytes
        self.keep_alive_s = limits.keep_alive_s
        self.client_timeout_s = limits.client_timeout_s
        self.unfinished = UnfinishedRequests(limits.buffered_bytes, memory)
        self.unread = UnreadAnswers(limits.buffered_bytes, limits.client_timeout_s, memory)
