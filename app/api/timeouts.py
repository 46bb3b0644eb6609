"""When a connection is closed although nothing more comes of it: idle, stalled, or left by its client.

A timer for each request would cost more than one for each connection, which looks how long nothing has come.
"""

from __future__ import annotations

import asyncio
import math
import socket
from typing import Protocol

from app.api.connection_limits import SharedLimits

_PROCESSING = b"HTTP/1.1 102 Processing\r\n\r\n"
# A client that has ended its side, or has gone: the answer of a usual request is there by then.
ASK_AFTER_S = 1.0
_REFUSED_AFTER_S = 0.1
# States of a socket in Linux (include/net/tcp_states.h).
_TCP_CLOSE, _TCP_CLOSE_WAIT = 7, 8


class Told(Protocol):
    """A request under way."""

    @property
    def may_be_told(self) -> bool:
        """Whether the client may be sent a word before its answer."""


class Watched(Protocol):
    """A connection."""

    loop: asyncio.AbstractEventLoop
    shared: SharedLimits
    transport: asyncio.Transport
    closing: bool
    has_ended: bool
    is_paused: bool

    @property
    def cycle(self) -> Told | None:
        """The request under way."""

    def due(self) -> float:
        """When it has to be closed if nothing happens, on the event loop's clock."""

    def time_out(self) -> None:
        """Nothing has happened."""

    def unread_bytes(self) -> int:
        """What is written and not yet sent."""

    def write(self, data: bytes) -> None:
        """Writes."""

    def abort(self) -> None:
        """Closes at once."""


class Timeouts:
    """Closes a connection that is idle for too long, that stops in the middle of a request, or that cannot be closed.

    `period_s`: how long it looks away at most.
    """

    def __init__(self, connection: Watched) -> None:
        self._connection = connection
        self._period_s = min(connection.shared.keep_alive_s, connection.shared.client_timeout_s)
        self._timer: asyncio.TimerHandle | None = None
        self._unsent = math.inf
        self.look_after(self._period_s)

    def look_after(self, seconds: float) -> None:
        """Looks then, and goes on to look."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._connection.loop.call_later(seconds, self._look)

    def cancel(self) -> None:
        """Looks no more, and lets go of the connection."""
        if self._timer is not None:
            self._timer.cancel()
        del self._connection

    def _look(self) -> None:
        connection = self._connection
        if connection.closing:
            self._look_at_closing()
            return
        due = connection.due()
        left_s = due - connection.loop.time()
        if left_s > 0:
            self.look_after(min(left_s, self._period_s))
        else:
            self.look_after(self._period_s)
            connection.time_out()

    def _look_at_closing(self) -> None:
        """A connection is closed when its last answer is read, or when nothing of it is any more."""
        unsent = self._connection.unread_bytes()
        if 0 < unsent < self._unsent:
            self._unsent = unsent
            self.look_after(self._connection.shared.client_timeout_s)
        else:
            self._connection.abort()


class ClientsEnd:
    """Looks whether a client is still there that has ended its side of the connection, or has closed it.

    The two look alike until something is sent: only one that was closed refuses that. So they do where reading is
    paused, and there the end itself is seen by asking the system. A request that waits is given up with its client,
    and the connection closed.
    """

    def __init__(self, connection: Watched) -> None:
        self._connection = connection
        self._timer: asyncio.TimerHandle | None = None
        self._asked_at = -math.inf
        self._ended_at = math.inf

    def look_after(self, seconds: float) -> None:
        """Looks then, and goes on to look."""
        if self._timer is None:
            self._timer = self._connection.loop.call_later(seconds, self._look)

    def cancel(self) -> None:
        """Looks no more, and lets go of the connection."""
        if self._timer is not None:
            self._timer.cancel()
        del self._connection

    def _look(self) -> None:
        self._timer = None
        connection = self._connection
        if connection.cycle is None or not (connection.has_ended or connection.is_paused):
            return
        state = _state_of(connection.transport)
        if state == _TCP_CLOSE:
            connection.abort()
        elif connection.loop.time() - self._asked_at >= connection.shared.client_timeout_s:
            self._ask(connection.cycle.may_be_told, connection.has_ended or state == _TCP_CLOSE_WAIT)
        else:
            self.look_after(ASK_AFTER_S)

    def _ask(self, may_be_told: bool, has_ended: bool) -> None:
        """Sends something that a client overreads: only HTTP/1.0 has nothing of the kind."""
        now = self._connection.loop.time()
        if may_be_told:
            self._asked_at = now
            self._connection.write(_PROCESSING)
            self.look_after(_REFUSED_AFTER_S)
            return
        self._ended_at = min(self._ended_at, now) if has_ended else math.inf
        if now - self._ended_at > self._connection.shared.client_timeout_s:
            self._connection.abort()
        else:
            self.look_after(ASK_AFTER_S)


def _state_of(transport: asyncio.BaseTransport) -> int:
    """The state of the connection's socket; 0 where it has none."""
    end = transport.get_extra_info("socket")
    if end is None or end.family not in (socket.AF_INET, socket.AF_INET6):
        return 0
    return int(end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0])
