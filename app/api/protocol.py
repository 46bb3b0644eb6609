"""Bytes of a connection → requests, each to the fast path or to the framework; answers → bytes.

A connection has one request under way at a time. What is sent ahead of its turn (pipelining) stays as it came until
then, so that every request is read, done and answered in its order, whichever way it takes. An upgrade to another
protocol is not wished for: the request is answered in this one.

A client's requests begin with the same bytes each time, but for their length. A head like the one before it on its
connection is not parsed again.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any

import uvicorn
from uvicorn.protocols.utils import get_local_addr, get_remote_addr
from uvicorn.server import ServerState

from app.api.connection_limits import SharedLimits
from app.api.cycle import AsgiCycle, FastPathCycle, scope_of
from app.api.fast_path import FastPath, Route
from app.api.known_head import Head
from app.api.parser import HttpParser, RequestHead
from app.api.problems import problem_response
from app.api.timeouts import ASK_AFTER_S, ClientsEnd, Timeouts
from app.api.writer import CLOSED, AnswerWriter
from app.errors import Overloaded, Refusal, RequestTimeout, Unsupported
from app.sockets import unread_bytes
from app.wire.limits import SMALL_BYTES

# So much of a body has to come within the time that a client has.
_STEP_BYTES = 16 * 1024
# The rest of a body that was answered before its end is read where it is no longer than this.
_SWALLOWED_BYTES = 256 * 1024
# Requests done in one go, and parts of them parsed: the event loop has others to serve.
_MOST_AT_ONCE = 16
_MOST_STEPS = 128
_LINGER_S = 2.0
_STOPPING_S = 0.1


class FastPathProtocol(AnswerWriter):
    """One connection. `fast_path` and `shared` are set by `protocol_with`.

    `cycle`: the request under way. `has_ended`: the client has ended its side. `is_paused`: nothing is read for now.
    """

    fast_path: FastPath

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],  # noqa: ARG002
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(server_state)
        self.loop = _loop or asyncio.get_running_loop()
        self._app, self._root_path = config.loaded_app, config.root_path
        self._parser = HttpParser()
        self.cycle: FastPathCycle | AsgiCycle | None = None
        self._head: Head | None = None
        self._ready: Head | None = None  # `_head` where a request may be taken by it
        self._last_route: Route | None = None
        self._ahead = b""
        self._alone = b""  # a head that is known, whose body is to come
        self._consuming = self._going_on = self._stops = False
        self.has_ended = self.is_paused = False
        self._begun = False  # the request whose bytes are parsed: its head is complete
        self._idle_since = self._reading_since = self.loop.time()
        self._step = self._swallowed = 0
        self._timeouts = Timeouts(self)
        self._end = ClientsEnd(self)

    # What the event loop calls.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins."""
        self.transport = transport
        self.server_state.connections.add(self)  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        """Handles received bytes. The parser never sees a request with a head that is known."""
        head = self._ready
        if head is not None:
            body = head.body_in(data)
            if body is not None and len(body) <= self.fast_path.body_limit:
                self._ready = None
                self.cycle = cycle = FastPathCycle(head.route, self)
                cycle.ask(self.fast_path.service, body, self.loop.time())
                return
            if 0 < head.announces(data) <= SMALL_BYTES:  # many clients send the body by itself
                self._ready, self._alone, self._reading_since = None, data, self.loop.time()
                return
        if self.closing:
            return
        if self._alone:
            data, self._alone, self._ready = self._alone + data, b"", self._head
            self.data_received(data)
            return
        self.odd, self._ready = True, None
        if self._ahead or self._is_waiting():
            self._stash(self._ahead + data)
        else:
            self._consume(data)

    def eof_received(self) -> bool:
        """The client sends no more, and may have gone: what it has sent is answered all the same, where it is whole."""
        if self.closing or self._alone or not (self._ahead or self._is_waiting()):
            return False
        self.end_seen()
        return True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Gives up the request under way, and lets go of everything."""
        self.closing = True
        self.server_state.connections.discard(self)
        cycle, self.cycle = self.cycle, None
        if cycle is not None and not cycle.over:
            cycle.give_up()
        self._end.cancel()
        self._timeouts.cancel()
        self.shared.unfinished.release(self)
        self.resume_writing()
        self._parser.close()
        self._ready = self._head = self._last_route = None
        self._ahead = self._alone = b""
        self.transport = CLOSED

    def shutdown(self) -> None:
        """The server stops: what was sent by now is answered, and the connection closed."""
        self._stops = self.odd = True
        self._ready = None
        self._parse_alone()
        if not self._is_waiting():
            self.loop.call_later(_STOPPING_S, self.settle)

    # Requests.

    def _parse_alone(self) -> None:
        """Takes a head whose body has not come the usual way."""
        data, self._alone = self._alone, b""
        if data:
            self.odd = True
            self._consume(data)

    def _is_waiting(self) -> bool:
        """Whether a whole request has no answer yet."""
        return self.cycle is not None and not self._parser.fed

    def _consume(self, data: bytes) -> None:
        """Parses, and begins what can be begun; keeps the rest."""
        alone = not self._parser.fed
        done = steps = start = 0
        self._consuming, self._last_route = True, None
        try:
            while start < len(data) and not self.closing and not self.transport.is_closing():
                if done == _MOST_AT_ONCE or steps == _MOST_STEPS or self._must_wait():
                    self._stash(data[start:])
                    break
                start = self._feed(data, start)
                steps += 1
                done += not self._parser.fed
        except Refusal as error:
            self._refuse(error)
        finally:
            self._consuming = False
        if alone and done == 1 and not self._ahead:
            self._learn(data)
        self.settle()

    def _learn(self, request: bytes) -> None:
        if self._last_route is not None:
            self._head = Head.of(request, self._last_route)

    def _must_wait(self) -> bool:
        """Whether what is sent next has to: for an answer, or for the client to read those that it has."""
        return not self._parser.fed and (self.cycle is not None or self.write_paused)

    def _feed(self, data: bytes, start: int) -> int:
        parser = self._parser
        fresh = not parser.fed
        if fresh:
            self._begun = False
        start = parser.feed(data, start)
        if parser.head is None:
            if fresh:
                self._reading_since = self.loop.time()
            return start
        if not self._begun:
            self._begin(parser.head)
        if parser.pieces:
            pieces, parser.pieces = parser.pieces, []
            self._take(pieces)
        if parser.complete:
            parser.next()
            self._complete()
        return start

    def _begin(self, head: RequestHead) -> None:
        """Chooses the route of a request whose head is complete."""
        if head.length is None and any(n == b"transfer-encoding" and v.lower() != b"chunked" for n, v in head.headers):
            raise Unsupported("the only transfer coding that is read is chunked")
        self._begun, self._reading_since, self._step, self._swallowed = True, self.loop.time(), 0, 0
        self.stays = head.keep_alive and head.version == "1.1"
        if head.method == b"POST" and head.version == "1.1":
            route = self.fast_path.route(head.target, head.headers)
            if route is not None:
                self._last_route = route if self.stays else None
                self.cycle = FastPathCycle(route, self)
                return
        scope = scope_of(head, self._root_path, get_remote_addr(self.transport), get_local_addr(self.transport))
        cycle = self.cycle = AsgiCycle(self, head, scope)
        task = self.loop.create_task(cycle.run(self._app))
        task.add_done_callback(self.server_state.tasks.discard)
        self.server_state.tasks.add(task)

    def _take(self, pieces: list[bytes]) -> None:
        """Hands on what has come of a body."""
        piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)  # chunks may be of one byte each
        cycle, size = self.cycle, len(piece)
        self._step += size
        if self._step >= _STEP_BYTES:
            self._reading_since, self._step = self.loop.time(), 0
        if cycle is None:  # answered already
            self._swallowed += size
            if self._swallowed > _SWALLOWED_BYTES:
                self._close(lingers=True)
            return
        cycle.receive(piece)
        if cycle.held > SMALL_BYTES:
            self._count_held()
            self.regulate()

    def _complete(self) -> None:
        """The request under way is complete."""
        cycle = self.cycle
        if type(cycle) is FastPathCycle:
            body = cycle.body()
            self.shared.unfinished.release(self)
            cycle.ask(self.fast_path.service, body, self.loop.time())
        elif type(cycle) is AsgiCycle:
            cycle.complete()

    def _stash(self, data: bytes) -> None:
        self._ahead = data
        self._count_held()
        self.regulate()

    def _count_held(self) -> None:
        size = len(self._ahead) + (self.cycle.held if self.cycle is not None else 0)
        if size > SMALL_BYTES:
            self.shared.unfinished.hold(self, size)

    def regulate(self) -> None:
        """Reads on, or not, by how much is waiting."""
        waiting = len(self._ahead) + (self.cycle.waiting_body if self.cycle is not None else 0)
        pause = waiting > SMALL_BYTES and not self.closing
        if pause is self.is_paused:
            return
        self.is_paused = pause
        if pause:
            self.transport.pause_reading()
            self._end.look_after(ASK_AFTER_S)
        else:
            self.transport.resume_reading()

    def end_seen(self) -> None:
        """The client has ended its side."""
        self.has_ended = self.odd = True
        self._end.look_after(ASK_AFTER_S)

    def settle(self) -> None:
        """Does what is next, behind an answer, or when something that was waited for has come."""
        if self._consuming or self.closing or self._must_wait():
            return
        if self._ahead:
            if not self._going_on:
                self._going_on = True
                self.loop.call_soon(self._go_on)
        elif self._stops and not self._parser.fed and unread_bytes(self.transport):
            self.loop.call_later(_STOPPING_S, self.settle)  # its process had no time to read
        elif self.has_ended or (self._stops and not self._parser.fed):
            self._close()
        elif self._parser.fed:
            return
        else:
            self.odd, self._ready, self._idle_since = False, self._head, self.loop.time()

    def _go_on(self) -> None:
        """Consumes what was sent ahead of its turn."""
        self._going_on = False
        if self.closing or self._must_wait():
            return
        data, self._ahead = self._ahead, b""
        self.shared.unfinished.release(self)
        self._consume(data)
        self.regulate()

    # Answers.

    def answered(self) -> None:
        """See `Connection`."""
        self.cycle = None
        if not self.stays:
            self._close(lingers=not self._stops)
        elif self.odd:
            self.shared.unfinished.release(self)
            self.regulate()
            self.settle()
        else:
            self._ready, self._idle_since = self._head, self.loop.time()

    def may_stay(self) -> bool:
        """See `AnswerWriter`."""
        if self._parser.fed:  # the answer comes before the end of the body
            rest = self._parser.rest
            return not (rest is not None and rest > _SWALLOWED_BYTES) and not self._expects()
        return not self._stops or bool(self._ahead) or unread_bytes(self.transport) > 0

    def _expects(self) -> bool:
        """Whether the client waits to be asked for the body: it may send it after the answer, or not."""
        return type(self.cycle) is AsgiCycle and self.cycle.expects

    def _refuse(self, error: Exception) -> None:
        """Answers the request whose bytes are parsed, if it has no answer yet, and closes."""
        self.stays = False
        if self.cycle is not None:
            self.cycle.refuse(error)
        elif not self._begun:
            self.write_response(problem_response(error))
        self._close(lingers=True)

    def evict(self) -> None:
        """See `Holder`."""
        if self._parser.fed and self.cycle is not None:
            self._refuse(Overloaded("the unfinished requests of all clients take too much memory together"))
        else:
            self.abort()

    def due(self) -> float:
        """See `Watched`."""
        if self._alone:
            return self._reading_since + self.shared.client_timeout_s
        if self._parser.fed:
            if self.is_paused:
                self._reading_since = self.loop.time()
            return self._reading_since + self.shared.client_timeout_s
        if self.cycle is None and not self._ahead:
            return self._idle_since + self.shared.keep_alive_s
        return math.inf

    def time_out(self) -> None:
        """See `Watched`."""
        self._parse_alone()
        if self._parser.fed:
            part = "body" if self._begun else "head"
            seconds = f"{self.shared.client_timeout_s:g} s"
            self._refuse(RequestTimeout(f"the {part} of the request has stopped coming for {seconds}"))
        elif self.unread_bytes():
            self.abort()
        else:
            self._close()

    def _close(self, lingers: bool = False) -> None:
        """Closes behind what was written. A client that still sends would lose that, so that it may for a while."""
        if self.closing or self.transport.is_closing():
            return
        self.closing = self.odd = True
        lingers = (lingers or bool(self._ahead or self._parser.fed)) and not self.has_ended
        self._ready, self._ahead = None, b""
        self.shared.unfinished.release(self)
        self.regulate()
        if lingers and self.transport.can_write_eof():
            self.transport.write_eof()
            self._timeouts.look_after(_LINGER_S)
        else:
            self.transport.close()
            self._timeouts.look_after(self.shared.client_timeout_s)


def protocol_with(fast_path: FastPath, shared: SharedLimits) -> type[asyncio.Protocol]:
    """The protocol of a server."""
    return type("FastPathProtocol", (FastPathProtocol,), {"fast_path": fast_path, "shared": shared})
