"""Bytes of a connection → requests, each to the direct way or to the framework; answers → bytes.

uvicorn's protocol on httptools, with one more way out of it. The direct way takes a request only while nothing else is
under way on its connection: requests that are sent ahead of their turn (pipelining) queue up as uvicorn has it.

A client's requests begin with the same bytes each time, but for their length. A head like the one before it on its
connection is not parsed again.
"""

from __future__ import annotations

import asyncio
import math
import re
from typing import Any, NamedTuple

from fastapi import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.api.bodies import BodyBuffer
from app.api.direct import Direct, Exchange, Way

Headers = list[tuple[bytes, bytes]]
_OK = STATUS_LINE[200]
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*\r\n", re.IGNORECASE)
_MOST_DIGITS = 9
_END_OF_HEAD = b"\r\n\r\n"


class _Nobody:
    """Where uvicorn's protocol would wake the task that waits for a request's body."""

    def set(self) -> None:
        """There is none."""


_NOBODY = _Nobody()


class DirectCycle(Exchange):
    """An exchange in the place of uvicorn's cycle: the attributes that its protocol looks at."""

    keep_alive = True
    message_event = _NOBODY

    def __init__(self, way: Way, protocol: DirectProtocol) -> None:
        super().__init__(way, protocol)
        self.buffer = BodyBuffer()

    @property
    def response_complete(self) -> bool:
        """Whether the answer was written."""
        return self.over

    @property
    def disconnected(self) -> bool:
        """Whether the client has closed the connection."""
        return self.gone

    @disconnected.setter
    def disconnected(self, _: bool) -> None:
        self.give_up()


class Head(NamedTuple):
    """What stands before and after the length of the body in the head of a request; and what to do with the body."""

    before: bytes
    after: bytes
    way: Way

    @classmethod
    def of(cls, request: bytes, way: Way) -> Head | None:
        """The head of a request that is whole, and the only one; None where it is not."""
        end = request.find(_END_OF_HEAD) + len(_END_OF_HEAD)
        length = _LENGTH.search(request, 0, end)
        if length is None or end + int(length[1]) != len(request):
            return None
        return cls(request[: length.start(1)], request[length.end(1) : end], way)

    def body_in(self, request: bytes) -> bytes | None:
        """The body of a request with this head that is whole, and the only one; None of any other."""
        start = len(self.before)
        end = request.find(b"\r", start, start + _MOST_DIGITS + 1)
        if not request.startswith(self.before) or not request.startswith(self.after, end):
            return None
        length, body = request[start:end], request[end + len(self.after) :]
        return body if length.isdigit() and int(length) == len(body) else None


class DirectProtocol(HttpToolsProtocol):
    """One connection. `direct` is set by `protocol_with`."""

    direct: Direct
    cycle: Any
    _head: Head | None = None
    _between_requests = True
    _with_framework: Any = None
    _idle_since = math.inf
    _common: tuple[Any, bytes] = (None, b"")

    def data_received(self, data: bytes) -> None:
        """What has come. The parser never sees a request with a head that is known: its state is that between two."""
        begins, head = self._between_requests, self._head
        if begins and head is not None and self.cycle.response_complete and not self.flow.write_paused:
            body = head.body_in(data)
            if body is not None and len(body) <= self.direct.body_limit:
                self._unset_keepalive_if_required()
                self.cycle = DirectCycle(head.way, self)
                self.cycle.ask(self.direct.service, body, self.loop.time())
                return
        before = self.cycle
        super().data_received(data)
        if begins and self._between_requests and self.cycle is not before and type(self.cycle) is DirectCycle:
            self._head = Head.of(data, self.cycle.way)

    def on_message_begin(self) -> None:
        """As uvicorn's, but for the scope, which only the framework needs."""
        self._between_requests = False
        self.url = b""
        self.headers: Headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """As uvicorn's, but for what only the framework needs."""
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Chooses the way."""
        before = self.cycle
        if (before is None or before.response_complete) and self._is_plain():
            way = self.direct.way(self.url, self.headers)
            if way is not None:
                self.cycle = DirectCycle(way, self)
                return
        self._to_framework()

    def _is_plain(self) -> bool:
        parser = self.parser
        return (
            parser.get_method() == b"POST"
            and parser.get_http_version() == "1.1"
            and parser.should_keep_alive()
            and not self.flow.write_paused
        )

    def _to_framework(self) -> None:
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        for name, value in headers:
            super().on_header(name, value)
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._with_framework = cycle
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        """As uvicorn's, which tells it only to the request that came last."""
        for cycle in (self._with_framework, *(queued for queued, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        super().connection_lost(exc)

    def on_body(self, body: bytes) -> None:
        """Keeps a piece; there are no more than the length that was allowed."""
        if type(self.cycle) is DirectCycle:
            self.cycle.buffer.add(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._between_requests = True
        cycle = self.cycle
        if type(cycle) is DirectCycle:
            cycle.ask(self.direct.service, cycle.buffer.take(), self.loop.time())
        else:
            super().on_message_complete()

    def write_answer(self, media_type: bytes, body: bytes) -> None:
        """See `Wire`."""
        self._write(_OK, b"content-length: %d\r\ncontent-type: %b\r\n" % (len(body), media_type), body)

    def write_response(self, response: Response) -> None:
        """See `Wire`."""
        head = b"".join([b"%s: %s\r\n" % header for header in response.raw_headers])
        self._write(STATUS_LINE[response.status_code], head, bytes(response.body))

    # The timer that closes idle connections: uvicorn sets one anew with each answer. This one looks, when it fires, for
    # how long nothing has come.

    def on_response_complete(self) -> None:
        """What follows an answer."""
        if self.timeout_keep_alive_task is None or self.pipeline or self.transport.is_closing():
            super().on_response_complete()
        else:
            self.server_state.total_requests += 1
            self.flow.resume_reading()
        if self.cycle.response_complete:  # or another request waits its turn
            self._idle_since = self.loop.time()

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since = math.inf  # something has come

    def timeout_keep_alive_handler(self) -> None:
        """Closes a connection that is idle for too long."""
        self.timeout_keep_alive_task = None
        rest_s = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if rest_s <= 0:
            super().timeout_keep_alive_handler()
        elif rest_s < math.inf:
            self.timeout_keep_alive_task = self.loop.call_later(rest_s, self.timeout_keep_alive_handler)

    def _write(self, status: bytes, head: bytes, body: bytes) -> None:
        if self.transport.is_closing():
            return
        stays = self.cycle.keep_alive
        end = b"\r\n" if stays else b"connection: close\r\n\r\n"
        self.transport.write(b"".join((status, self._common_head(), head, end, body)))
        if not stays:
            self.transport.close()
        self.on_response_complete()

    def _common_head(self) -> bytes:
        """Date, and what else every answer has: uvicorn makes the list anew each second."""
        headers = self.server_state.default_headers
        known, text = self._common
        if known is not headers:
            text = b"".join([b"%s: %s\r\n" % header for header in headers])
            type(self)._common = headers, text
        return text


def protocol_with(direct: Direct) -> type[asyncio.Protocol]:
    """The protocol of a server."""
    return type("DirectProtocol", (DirectProtocol,), {"direct": direct})
