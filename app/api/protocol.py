"""Requests of a connection → each to the fast path or to the framework, one at a time.

So every request is read, done and answered in its order, whichever path it takes. An upgrade to another protocol is
refused by answering in this one.

A client's requests have the same header fields each time, but for their length. A head like the one before it on its
connection is not parsed again, nor is one that asks for something else that was asked with these fields before, nor the
first of a connection where another one had the same.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any

import uvicorn
from uvicorn.protocols.utils import get_local_addr, get_remote_addr
from uvicorn.server import ServerState

from app.api.asgi_cycle import TRANSPORT, AsgiCycle, scope_of
from app.api.connection_limits import SharedLimits
from app.api.fast_path import FastPath
from app.api.http_parser import RequestHead
from app.api.known_head import Head, KnownHeads
from app.api.problems import problem_response
from app.api.reader import SWALLOWED_BYTES, RequestReader
from app.api.request_cycle import FastPathCycle
from app.api.timeouts import CHECK_AFTER_S, Timeouts
from app.api.websocket import Upgrade
from app.api.writer import CLOSED
from app.batching.cork import Cork
from app.errors import Overloaded, RequestTimeout, Unsupported
from app.sockets import unread_bytes
from app.wire.limits import SMALL_BYTES

# A client that still sends when its connection is closed has so long to read its answer.
_LINGER_S = 2.0
# After so long without another byte a connection of a server that stops is closed.
_STOPPING_S = 0.1


class FastPathProtocol(RequestReader):
    """One connection. `fast_path`, `shared`, `cork` and `heads` are set by `protocol_with`."""

    fast_path: FastPath
    heads: KnownHeads

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],  # noqa: ARG002
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(server_state, _loop or asyncio.get_running_loop())
        self._app, self._root_path = config.loaded_app, config.root_path
        self._head: Head | None = None
        self._ready: Head | None = None  # `_head` where a request may be taken by it
        self._head_alone = b""  # a known one, whose body is to come
        self._is_new = True  # nothing has come yet
        self._stops = False
        self._idle_since = self._reading_since
        self._timeouts = Timeouts(self)

    # What the event loop calls.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes the connection over."""
        self.transport = transport
        self.server_state.connections.add(self)  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        """Handles received bytes. The parser never sees a request with a head that is known."""
        head = self._ready
        if self._is_new:
            self._is_new, self._head = False, self.heads.find(data)
            head = self._ready = self._head
            if head is not None:
                self.stays = head.stays
        if head is not None and not self.write_paused:
            known = head.read(data)
            if known is not None and len(known[1]) <= self.fast_path.body_limit:
                self._ready, route = None, known[0]
                self.cycle = cycle = route.cycle(route, self)
                cycle.alone = True
                cycle.ask(self.fast_path.service, known[1], self.loop.time())
                return
            if 0 < head.announces(data) <= SMALL_BYTES:  # many clients send the body by itself
                self._ready, self._head_alone, self._reading_since = None, data, self.loop.time()
                return
        if self.closing:
            return
        if self._head_alone:
            data, self._head_alone, self._ready = self._head_alone + data, b"", self._head
            self.data_received(data)
            return
        self.odd, self._ready = True, None
        if self._ahead or self.is_waiting():
            self.stash(self._ahead + data)
        else:
            self.consume(data)

    def eof_received(self) -> bool:
        """Answers what a client that sends no more, and may have gone, has sent completely."""
        if self.closing or self._head_alone or not (self._ahead or self.is_waiting()):
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
        self._half_close.cancel()
        self._timeouts.cancel()
        self.shared.unfinished.release(self)
        self.resume_writing()
        self._parser.close()
        self._ready = self._head = self._last = None
        self._ahead = self._head_alone = b""
        self.transport = CLOSED

    def shutdown(self) -> None:
        """Answers what was sent by now, and closes the connection: the server stops."""
        self._stops = self.odd = True
        self._ready, self._is_new = None, False
        self._parse_head_alone()
        if not self.is_waiting():
            self.loop.call_later(_STOPPING_S, self.settle)

    # Requests.

    def _parse_head_alone(self) -> None:
        """Parses a known head whose body has not come in one piece."""
        data, self._head_alone = self._head_alone, b""
        if data:
            self.odd = True
            self.consume(data)

    def read_alone(self, request: bytes) -> None:
        """Learns the head of a request that the fast path took: see `data_received`."""
        if self._last is not None:
            self._head = self.heads.learn(request, *self._last)

    def start_request(self, head: RequestHead) -> None:
        """Chooses the path of a request whose head is complete."""
        if head.length is None and any(n == b"transfer-encoding" and v.lower() != b"chunked" for n, v in head.headers):
            raise Unsupported("the only transfer coding that is read is chunked")
        self.stays = head.keep_alive and head.version == "1.1"
        if head.upgrade is not None and (websockets := self.fast_path.websockets) and websockets.takes(head):
            self.cycle = Upgrade(websockets.accept(head, self))
            return
        if head.method == b"POST" and head.version == "1.1":
            route = self.fast_path.route(head.target, head.headers)
            if route is not None:
                self._last = route, self.stays
                self.cycle = route.cycle(route, self)
                return
        scope = scope_of(head, self._root_path, get_remote_addr(self.transport), get_local_addr(self.transport))
        scope["extensions"] = {TRANSPORT: self.transport}
        cycle = self.cycle = AsgiCycle(self, head, scope)
        task = self.loop.create_task(cycle.run(self._app))
        task.add_done_callback(self.server_state.tasks.discard)
        self.server_state.tasks.add(task)

    def request_complete(self) -> None:
        """Asks for the answer of the request under way."""
        cycle = self.cycle
        if isinstance(cycle, FastPathCycle):
            body = cycle.body()
            self.shared.unfinished.release(self)
            cycle.ask(self.fast_path.service, body, self.loop.time())
        elif isinstance(cycle, Upgrade):
            self.loop.call_soon(self._hand_over, cycle)
        elif cycle is not None:
            cycle.complete()

    def _hand_over(self, upgrade: Upgrade) -> None:
        """Gives the connection to the WebSocket that it becomes, with what was sent ahead."""
        if self.closing or self.transport.is_closing():
            return
        transport, ahead, stops = self.transport, self._ahead, self._stops
        if self.is_paused:
            transport.resume_reading()
        self.server_state.connections.add(upgrade.becomes)  # type: ignore[arg-type]
        self.connection_lost(None)
        upgrade.becomes.start(transport, ahead, stops)

    def end_seen(self) -> None:
        """Notes that the client has ended its side."""
        self.has_ended = self.odd = True
        self._half_close.check_after(CHECK_AFTER_S)

    def settle(self) -> None:
        """Continues with what is next: after an answer, or when something that was waited for has come."""
        if self._consuming or self.closing or self.must_wait():
            return
        if self._ahead:
            self.continue_soon()
        elif self._stops and not self._parser.fed and unread_bytes(self.transport):
            self.loop.call_later(_STOPPING_S, self.settle)  # its process had no time to read
        elif self.has_ended or (self._stops and not self._parser.fed):
            self.close()
        elif self._parser.fed:
            return
        else:
            self.odd, self._ready, self._idle_since = False, self._head, self.loop.time()

    # Answers.

    def answered(self) -> None:
        """Called after each response: starts the next request that was sent ahead, or waits for one."""
        self.cycle = None
        if not self.stays:
            self.close(lingers=not self._stops)
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
            # A client that waits to be asked for the body may send it after the answer, or not.
            expects = type(self.cycle) is AsgiCycle and self.cycle.expects
            return not (rest is not None and rest > SWALLOWED_BYTES) and not expects
        return not self._stops or bool(self._ahead) or unread_bytes(self.transport) > 0

    def refuse(self, error: Exception) -> None:
        """Answers the request whose bytes are parsed, if it has no answer yet, and closes."""
        self.stays = False
        if self.cycle is not None:
            self.cycle.refuse(error)
        elif not self._has_head:
            self.write_response(problem_response(error))
        self.close(lingers=True)

    def evict(self) -> None:
        """See `Holder`."""
        if self._parser.fed and self.cycle is not None:
            self.refuse(Overloaded("the unfinished requests of all clients take too much memory together"))
        else:
            self.abort()

    def due(self) -> float:
        """See `Watched`."""
        if self._head_alone:
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
        self._parse_head_alone()
        if self._parser.fed:
            part = "body" if self._has_head else "head"
            seconds = f"{self.shared.client_timeout_s:g} s"
            self.refuse(RequestTimeout(f"the {part} of the request has stopped coming for {seconds}"))
        elif self.unread_bytes():
            self.abort()
        else:
            self.close()

    def close(self, lingers: bool = False) -> None:
        """Closes behind what was written. A client that still sends would lose that, so that it may for a while."""
        if self.closing or self.transport.is_closing():
            return
        self.closing = self.odd = True
        lingers = (lingers or bool(self._ahead or self._parser.fed)) and not self.has_ended
        self._ready, self._is_new, self._ahead = None, False, b""
        self.shared.unfinished.release(self)
        self.regulate()
        if lingers and self.transport.can_write_eof():
            self.transport.write_eof()
            self._timeouts.check_after(_LINGER_S)
        else:
            self.transport.close()
            self._timeouts.check_after(self.shared.client_timeout_s)


def protocol_with(fast_path: FastPath, shared: SharedLimits, cork: Cork) -> type[asyncio.Protocol]:
    """Makes the protocol of a server."""
    common = {"fast_path": fast_path, "shared": shared, "cork": cork, "heads": KnownHeads()}
    return type("FastPathProtocol", (FastPathProtocol,), common)
