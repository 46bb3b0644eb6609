"""Bytes of a connection → the parts of its requests, one request at a time and each in its order.

Requests that are sent ahead (pipelining) stay as they came until those before them are answered. Nothing more is read
from a client while much of what it sent waits.
"""

from __future__ import annotations

import asyncio

from uvicorn.server import ServerState

from app.api.asgi_cycle import AsgiCycle
from app.api.http_parser import HttpParser, RequestHead
from app.api.request_cycle import FastPathCycle, Route
from app.api.timeouts import CHECK_AFTER_S, HalfCloseCheck
from app.api.websocket import Upgrade
from app.api.writer import AnswerWriter
from app.errors import Refusal
from app.wire.limits import SMALL_BYTES

# So much of a body has to come within the time that a client has.
_STEP_BYTES = 16 * 1024
# The rest of a body that was answered before its end is read where it is no longer than this.
SWALLOWED_BYTES = 256 * 1024
# Requests done in one go, and parts of them parsed: the event loop has others to serve.
_MOST_AT_ONCE = 16
_MOST_STEPS = 128


class RequestReader(AnswerWriter):
    """The half of a connection that reads.

    `cycle`: the request under way. `has_ended`: the client has ended its side. `is_paused`: nothing is read for now.
    """

    def __init__(self, server_state: ServerState, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(server_state)
        self.loop = loop
        self.cycle: FastPathCycle | AsgiCycle | Upgrade | None = None
        self.has_ended = self.is_paused = False
        self._parser = HttpParser()
        self._ahead = b""
        self._consuming = self._continuing = False
        self._has_head = False  # the request whose bytes are parsed
        # Of what is consumed, where the fast path takes it: its route, and whether its client stays.
        self._last: tuple[Route, bool] | None = None
        self._reading_since = loop.time()
        self._step = self._swallowed = 0
        self._half_close = HalfCloseCheck(self)

    def start_request(self, head: RequestHead) -> None:
        """Makes the cycle of a request whose head is complete."""
        raise NotImplementedError

    def request_complete(self) -> None:
        """Called when the body of the request under way is complete."""
        raise NotImplementedError

    def read_alone(self, request: bytes) -> None:
        """Called with the bytes of a request that came whole, with nothing beside it, and was not refused."""
        raise NotImplementedError

    def refuse(self, error: Exception) -> None:
        """Answers the request whose bytes are parsed, if it has no answer yet, and closes."""
        raise NotImplementedError

    def close(self, lingers: bool = False) -> None:
        """Closes behind what was written."""
        raise NotImplementedError

    def is_waiting(self) -> bool:
        """Returns whether a whole request has no answer yet."""
        return self.cycle is not None and not self._parser.fed

    def must_wait(self) -> bool:
        """Returns whether the next request has to wait: for an answer, or for the client to read those that it has."""
        return not self._parser.fed and (self.cycle is not None or self.write_paused)

    def consume(self, data: bytes) -> None:
        """Parses, and starts the requests that can be started; keeps the rest."""
        alone = not self._parser.fed
        done = steps = start = 0
        self._consuming, self._last = True, None
        try:
            while start < len(data) and not self.closing and not self.transport.is_closing():
                if done == _MOST_AT_ONCE or steps == _MOST_STEPS or self.must_wait():
                    self.stash(data[start:])
                    break
                start = self._feed(data, start)
                steps += 1
                done += not self._parser.fed
        except Refusal as error:
            alone = False
            self.refuse(error)
        finally:
            self._consuming = False
        if alone and done == 1 and not self._ahead:
            self.read_alone(data)
        self.settle()

    def _feed(self, data: bytes, start: int) -> int:
        parser = self._parser
        fresh = not parser.fed
        if fresh:
            self._has_head = False
        start = parser.feed(data, start)
        if parser.head is None:
            if fresh:
                self._reading_since = self.loop.time()
            return start
        if not self._has_head:
            self.start_request(parser.head)
            self._has_head, self._reading_since, self._step, self._swallowed = True, self.loop.time(), 0, 0
        if parser.pieces:
            pieces, parser.pieces = parser.pieces, []
            self._take(pieces)
        if parser.complete:
            parser.next()
            self.request_complete()
        return start

    def _take(self, pieces: list[bytes]) -> None:
        """Passes received pieces of a body on."""
        piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)  # chunks may be of one byte each
        cycle, size = self.cycle, len(piece)
        self._step += size
        if self._step >= _STEP_BYTES:
            self._reading_since, self._step = self.loop.time(), 0
        if cycle is None:  # answered already
            self._swallowed += size
            if self._swallowed > SWALLOWED_BYTES:
                self.close(lingers=True)
            return
        cycle.receive(piece)
        if cycle.buffered_bytes > SMALL_BYTES:
            self._count_buffered()
            self.regulate()

    def stash(self, data: bytes) -> None:
        """Keeps bytes that were sent ahead."""
        self._ahead = data
        self._count_buffered()
        self.regulate()

    def _count_buffered(self) -> None:
        size = len(self._ahead) + (self.cycle.buffered_bytes if self.cycle is not None else 0)
        if size > SMALL_BYTES:
            self.shared.unfinished.count(self, size)

    def regulate(self) -> None:
        """Pauses or resumes reading, by how many bytes wait."""
        waiting = len(self._ahead) + (self.cycle.unread_body_bytes if self.cycle is not None else 0)
        pause = waiting > SMALL_BYTES and not self.closing
        if pause is self.is_paused:
            return
        self.is_paused = pause
        if pause:
            self.transport.pause_reading()
            self._half_close.check_after(CHECK_AFTER_S)
        else:
            self.transport.resume_reading()

    def continue_soon(self) -> None:
        """Has the event loop consume what was sent ahead, behind what else it has to do."""
        if not self._continuing:
            self._continuing = True
            self.loop.call_soon(self._continue)

    def _continue(self) -> None:
        self._continuing = False
        if self.closing or self.must_wait():
            return
        data, self._ahead = self._ahead, b""
        self.shared.unfinished.release(self)
        self.consume(data)
        self.regulate()
