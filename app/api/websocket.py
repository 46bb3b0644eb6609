"""A connection that has become a WebSocket: its bytes → messages, one answered after the other, and back.

The frames are read by `websockets`, without its I/O. Bounds are those of other connections: a message has as many bytes
as a body may, one that stops coming is given up, nothing more is read while much waits, and a client that does not read
its answers is dropped. One that is silent is asked whether it is there (ping).
"""

from __future__ import annotations

import asyncio
import math
from time import perf_counter
from typing import Protocol

from fastapi import Response
from uvicorn.server import ServerState
from websockets.frames import Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from app.api.connection_limits import SharedLimits
from app.api.http_parser import RequestHead
from app.api.timeouts import Timeouts
from app.api.websocket_frames import framed, whole_message
from app.api.websocket_messages import MOST_EMPTY, ReceivedMessages
from app.api.writer import CLOSED, AnswerWriter
from app.sockets import unread_bytes
from app.wire.limits import SMALL_BYTES

# So many messages are answered, and for so long frames are read, before other connections have their turn.
_MOST_MESSAGES, _TURN_S = 16, 0.001
# A client has so long to read why it was closed.
_LINGER_S = 2.0
# After so long without another byte a connection of a server that stops is closed.
_STOPPING_S = 0.1
# Codes of a close (RFC 6455, 7.4.1).
GOING_AWAY, POLICY, BUG, AGAIN = 1001, 1008, 1011, 1013


class MessageCycle(Protocol):
    """One message and its answer."""

    def give_up(self) -> None:
        """Abandons the message: the connection is closed."""


class Talk(Protocol):
    """What is said on a WebSocket. `idle_s`: how long it may be silent."""

    idle_s: float

    def greeting(self) -> bytes:
        """Returns the first message of the server."""

    def answer(self, message: bytes, is_text: bool, to: WebSocket) -> None:
        """Answers a message, now or later, by one of the methods of `to`, whose `cycle` it sets."""

    def close(self) -> None:
        """Lets go of what it holds: the connection is gone."""


class WebSockets(Protocol):
    """Which requests become WebSockets."""

    def takes(self, head: RequestHead) -> bool:
        """Returns whether the wish of a request is granted, or refused by an error, rather than ignored."""

    def accept(self, head: RequestHead, connection: AnswerWriter) -> WebSocket:
        """Returns what the connection becomes; raises a `Refusal`."""


class Upgrade:
    """A request that its connection answers by becoming a WebSocket. There is nothing to give up."""

    over = True
    expects = False
    takes_interim = False
    buffered_bytes = unread_body_bytes = 0

    def __init__(self, becomes: WebSocket) -> None:
        self.becomes = becomes

    def receive(self, piece: bytes) -> None:
        """Drops a piece of a body: the head has announced none."""

    def refuse(self, error: Exception) -> None:
        """Does nothing: the connection closes."""

    def give_up(self) -> None:
        """Does nothing."""

    def complete(self) -> None:
        """Does nothing."""


class WebSocket(AnswerWriter):
    """One connection after the handshake.

    `cycle`: the message under way. `has_ended`, `is_paused`: see `Checked`.
    """

    has_ended = False
    is_paused = False

    def __init__(
        self,
        server_state: ServerState,
        loop: asyncio.AbstractEventLoop,
        shared: SharedLimits,
        talk: Talk,
        frames: ServerProtocol,
        accepted: bytes,
    ) -> None:
        super().__init__(server_state)
        self.loop, self.shared = loop, shared
        self.cycle: MessageCycle | None = None
        self._most = frames.max_message_size or 0
        self._talk, self._frames, self._accepted = talk, frames, accepted
        self._heard = self._asked = now = loop.time()
        self._received = ReceivedMessages(frames, now)
        self._stops = self._pinged = self._busy = self._is_due = False

    def start(self, transport: asyncio.Transport, ahead: bytes, stops: bool) -> None:
        """Takes the connection over, with what the client has sent ahead."""
        self.transport = transport
        transport.set_protocol(self)
        self._timeouts = Timeouts(self)  # type: ignore[arg-type] # no check of it asks what is under way
        self.write(self._accepted)
        self.send(self._talk.greeting())
        if ahead:
            self.data_received(ahead)
        if stops:
            self.shutdown()

    # What the event loop and the server call.

    def data_received(self, data: bytes) -> None:
        """Reads frames; keeps what comes while much waits."""
        if self.closing:
            return
        self._heard, self._pinged = now, _ = self.loop.time(), False
        if self.cycle is None and not self._received and not self.write_paused:
            message = whole_message(data, self._most)
            if message is not None:
                self._asked = now
                self._talk.answer(message, False, self)
                return
        self._received.add(data)
        self.settle()

    def eof_received(self) -> bool:
        """Closes: a client that ends its side without a closing frame is gone."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Gives up the message under way, and lets go of everything."""
        self.closing = True
        self.server_state.connections.discard(self)
        self._drop()
        self._timeouts.cancel()
        self.resume_writing()
        self._talk.close()
        del self._talk
        self.transport = CLOSED

    def shutdown(self) -> None:
        """Answers what was sent by now, and closes the connection: the server stops."""
        self._stops = True
        self.loop.call_later(_STOPPING_S, self.settle)

    # Messages.

    def settle(self) -> None:
        """Reads on, answers the next message, or closes: whatever is next."""
        if self._busy or self.closing:
            return
        self._busy = True
        try:
            for _ in range(_MOST_MESSAGES):
                self._read()
                if self.cycle is not None or self.write_paused or not self._received.messages or self.closing:
                    break
                message, is_text = self._received.take()
                self._asked = self.loop.time()
                self._talk.answer(message, is_text, self)
        finally:
            self._busy = False
        self._regulate()
        if self.cycle is None and not self.write_paused and not self.transport.is_closing():
            if self._received.messages or self._received.ahead:
                self._settle_soon()
            elif self._stops and not self.closing:
                self._close_if_read()

    def _settle_soon(self) -> None:
        """Goes on once others have had their turn."""

        def settle() -> None:
            self._is_due = False
            self.settle()

        if not self._is_due:
            self._is_due = True
            self.loop.call_soon(settle)

    def _close_if_read(self) -> None:
        if unread_bytes(self.transport) and not self._received.partial:
            self.loop.call_later(_STOPPING_S, self.settle)
        else:
            self.close(GOING_AWAY, "the server stops")

    def _read(self) -> None:
        """Parses what has come, as long as little waits, and it is this connection's turn."""
        until = perf_counter() + _TURN_S
        received = self._received
        while received.takes_more and not self.write_paused and not self.closing:
            if reply := received.parse(self.loop.time()):
                self.write(reply)
            if self._frames.state is not State.OPEN:
                self._end()
            elif received.empty > MOST_EMPTY:
                self.close(POLICY, f"more than {MOST_EMPTY} frames within a second bring nothing")
            if perf_counter() > until:
                return

    def _regulate(self) -> None:
        if self.closing:
            return
        waiting = self._received.size
        if waiting > SMALL_BYTES:
            self.shared.unfinished.count(self, waiting)
        else:
            self.shared.unfinished.release(self)
        pause = len(self._received.ahead) > SMALL_BYTES
        if pause is not self.is_paused:
            self.is_paused = pause
            (self.transport.pause_reading if pause else self.transport.resume_reading)()

    # Answers.

    def send(self, body: bytes, opcode: Opcode = Opcode.BINARY) -> None:
        """Sends a message."""
        if not self.closing:
            self.write(framed(body, opcode))

    def write(self, data: bytes) -> None:
        """See `Connection`. Messages are sent at once."""
        self.write_now(data)

    def write_answer(self, media_type: bytes, body: bytes) -> None:  # noqa: ARG002
        """See `Receiver`: the message under way is answered."""
        self.cycle = None
        self.send(body)
        if self._received or self._stops or self.is_paused:
            self._received.since = self.loop.time()
            self.settle()

    def write_response(self, response: Response) -> None:
        """See `Receiver`: the message under way is refused, by a text; a bug of ours ends the connection."""
        self.cycle = None
        self.send(bytes(response.body), Opcode.TEXT)
        if response.status_code == 500:
            self.close(BUG, "a bug of the server")
        else:
            self.settle()

    # Closing.

    def close(self, code: int, why: str) -> None:
        """Closes behind what was written."""
        if self.closing or self.transport.is_closing():
            return
        if self._frames.state is State.OPEN:
            self._frames.send_close(code, why)
            for data in self._frames.data_to_send():
                self.write(data)
        self._end()

    def _end(self) -> None:
        """Ends our side behind the closing frame: a client that still sends would lose that by a reset."""
        self.closing = True
        self._drop()
        if self.is_paused:
            self.is_paused = False
            self.transport.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._timeouts.check_after(_LINGER_S)

    def _drop(self) -> None:
        cycle, self.cycle = self.cycle, None
        if cycle is not None:
            cycle.give_up()
        self._received.drop()
        self.shared.unfinished.release(self)

    def evict(self) -> None:
        """See `Holder`."""
        self.close(AGAIN, "the unfinished messages of all clients take too much memory together")

    def due(self) -> float:
        """See `Watched`."""
        if self.cycle is not None or self.is_paused or self.write_paused:
            return math.inf
        silent = self._heard + self.shared.keep_alive_s * (1 if self._pinged else 0.5)
        if self._received.partial:
            return min(silent, self._received.since + self.shared.client_timeout_s)
        return min(silent, self._asked + self._talk.idle_s)

    def time_out(self) -> None:
        """See `Watched`."""
        now = self.loop.time()
        if self._received.partial and now >= self._received.since + self.shared.client_timeout_s:
            self.close(POLICY, f"the message has stopped coming for {self.shared.client_timeout_s:g} s")
        elif now >= self._asked + self._talk.idle_s:
            self.close(GOING_AWAY, f"no message for {self._talk.idle_s:g} s")
        elif self._pinged:
            self.abort()
        else:
            self._pinged = True
            self.send(b"", Opcode.PING)
