"""Closes connections that make no progress: idle, stalled, or left by their client.

A timer for each request would cost more than one for each connection, which checks how long nothing has come.
"""

from __future__ import annotations

import asyncio
import math
import socket
from abc import ABC, abstractmethod
from typing import Generic, Protocol, TypeVar

from app.api.connection_limits import SharedLimits

_PROCESSING = b"HTTP/1.1 102 Processing\r\n\r\n"
# A client that has ended its side, or has gone: the answer of a usual request is there by then.
CHECK_AFTER_S = 1.0
_REFUSED_AFTER_S = 0.1
# States of a socket in Linux (include/net/tcp_states.h).
_TCP_CLOSE, _TCP_CLOSE_WAIT = 7, 8


class UnderWay(Protocol):
    """A request under way."""

    @property
    def takes_interim(self) -> bool:
        """Whether the client may be sent an interim response (1xx) before its answer."""


class Checked(Protocol):
    """A connection, as far as both checks see it."""

    loop: asyncio.AbstractEventLoop
    shared: SharedLimits
    transport: asyncio.Transport
    closing: bool
    has_ended: bool
    is_paused: bool

    @property
    def cycle(self) -> UnderWay | None:
        """The request under way."""

    def unread_bytes(self) -> int:
        """Returns how many written bytes are not sent yet."""

    def write(self, data: bytes) -> None:
        """Writes."""

    def abort(self) -> None:
        """Closes at once."""


class Watched(Checked, Protocol):
    """A connection that times out."""

    def due(self) -> float:
        """Returns when it has to be closed if nothing happens, on the event loop's clock."""

    def time_out(self) -> None:
        """Closes it: nothing has happened until then."""


C = TypeVar("C", bound=Checked)


class _Check(ABC, Generic[C]):
    """Checks a connection after a while, with one timer."""

    def __init__(self, connection: C) -> None:
        self._connection = connection
        self._timer: asyncio.TimerHandle | None = None

    def check_after(self, seconds: float) -> None:
        """Checks then, in the place of any check that was to come."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._connection.loop.call_later(seconds, self._check)

    def cancel(self) -> None:
        """Checks no more, and lets go of the connection."""
        if self._timer is not None:
            self._timer.cancel()
        del self._connection

    @abstractmethod
    def _check(self) -> None:
        """Acts on the state of the connection, and says when to check again."""


class Timeouts(_Check[Watched]):
    """Closes a connection that is idle for too long, that stops in the middle of a request, or that cannot be closed.

    `period_s`: the longest time between two checks.
    """

    def __init__(self, connection: Watched) -> None:
        super().__init__(connection)
        self._period_s = min(connection.shared.keep_alive_s, connection.shared.client_timeout_s)
        self._unsent = math.inf
        self.check_after(self._period_s)

    def _check(self) -> None:
        connection = self._connection
        if connection.closing:
            self._check_closing()
            return
        due = connection.due()
        left_s = due - connection.loop.time()
        if left_s > 0:
            self.check_after(min(left_s, self._period_s))
        else:
            self.check_after(self._period_s)
            connection.time_out()

    def _check_closing(self) -> None:
        """Closes at once where the client has read nothing more of its last answer."""
        unsent = self._connection.unread_bytes()
        if 0 < unsent < self._unsent:
            self._unsent = unsent
            self.check_after(self._connection.shared.client_timeout_s)
        else:
            self._connection.abort()


class HalfCloseCheck(_Check[Checked]):
    """Checks whether a client that has ended its side of the connection is still there, or has closed it.

    The two look alike until something is sent: only a connection that was closed refuses that. The same holds where
    reading is paused, and there the end itself is seen by asking the system. A request that waits is given up with its
    client, and the connection closed.
    """

    def __init__(self, connection: Checked) -> None:
        super().__init__(connection)
        self._asked_at = -math.inf
        self._ended_at = math.inf

    def check_after(self, seconds: float) -> None:
        """Checks then, or when a check is to come already."""
        if self._timer is None:
            super().check_after(seconds)

    def _check(self) -> None:
        self._timer = None
        connection = self._connection
        if connection.cycle is None or not (connection.has_ended or connection.is_paused):
            return
        state = _state_of(connection.transport)
        if state == _TCP_CLOSE:
            connection.abort()
        elif connection.loop.time() - self._asked_at >= connection.shared.client_timeout_s:
            self._ask(connection.cycle.takes_interim, connection.has_ended or state == _TCP_CLOSE_WAIT)
        else:
            self.check_after(CHECK_AFTER_S)

    def _ask(self, takes_interim: bool, has_ended: bool) -> None:
        """Sends something that a client overreads: only HTTP/1.0 has nothing of the kind."""
        now = self._connection.loop.time()
        if takes_interim:
            self._asked_at = now
            self._connection.write(_PROCESSING)
            self.check_after(_REFUSED_AFTER_S)
            return
        self._ended_at = min(self._ended_at, now) if has_ended else math.inf
        if now - self._ended_at > self._connection.shared.client_timeout_s:
            self._connection.abort()
        else:
            self.check_after(CHECK_AFTER_S)


def _state_of(transport: asyncio.BaseTransport) -> int:
    """Returns the state of the connection's socket; 0 where it has none."""
    end = transport.get_extra_info("socket")
    if end is None or end.family not in (socket.AF_INET, socket.AF_INET6):
        return 0
    return int(end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0])
