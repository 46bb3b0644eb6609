"""One request and its answer on its connection, by an ASGI application."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import unquote

from uvicorn.protocols.http.httptools_impl import HEADER_RE, HEADER_VALUE_RE, STATUS_LINE

from app.api.http_parser import RequestHead
from app.api.problems import problem_response
from app.api.request_cycle import Receiver

log = logging.getLogger("policy_server.http")

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
# The extension of a scope with the request's transport, for what has to be asked of the system.
TRANSPORT = "policy_server.transport"
_DISCONNECT = {"type": "http.disconnect"}


class Connection(Receiver, Protocol):
    """A connection, as far as the cycles see it."""

    def write_head(self, status: bytes, fields: bytes, body: bytes) -> None:
        """Writes status, header fields (those that every answer has are added), and what there is of the body."""

    def write(self, data: bytes) -> None:
        """Writes more."""

    async def drain(self) -> None:
        """Returns once the client has read most of what was written."""

    def close_after_answer(self) -> None:
        """Closes the connection with this answer."""

    def regulate(self) -> None:
        """Reads on, or not, by how much is waiting."""

    def abort(self) -> None:
        """Closes at once."""

    def answered(self) -> None:
        """Continues with the next request."""


class AsgiCycle:
    """A request that an ASGI application answers. Its task runs from the end of the head on."""

    def __init__(self, connection: Connection, head: RequestHead, scope: dict[str, Any]) -> None:
        self._connection = connection
        self._scope = scope
        self._headless = head.method == b"HEAD"
        self._old = head.version == "1.0"
        # Uploads go to the disk as they come; all other bodies are in memory until they are answered.
        self._is_streamed = head.method == b"PUT"
        self._expects = not self._old and (b"expect", b"100-continue") in [(n, v.lower()) for n, v in head.headers]
        self._body = bytearray()
        self._more_body = True
        self._body_delivered = False
        self._news = asyncio.Event()
        self._start: dict[str, Any] | None = None
        self._chunked = False
        self._counted = False
        self._unsent = 0  # of what its head has announced
        self.received = 0
        self.started = False
        self.over = False
        self.gone = False

    @property
    def buffered_bytes(self) -> int:
        """Bytes of the body that are in memory."""
        return len(self._body) if self._is_streamed else self.received

    @property
    def unread_body_bytes(self) -> int:
        """Bytes of the body that the application has not asked for yet."""
        return len(self._body)

    @property
    def takes_interim(self) -> bool:
        """Whether the client may be sent an interim response (1xx) before its answer."""
        return not (self._old or self.started)

    @property
    def expects(self) -> bool:
        """Whether the client waits for 100 Continue before it sends the body."""
        return self._expects

    def receive(self, piece: bytes) -> None:
        """Keeps a piece of the body."""
        self.received += len(piece)
        self._expects = False
        self._body += piece
        self._news.set()

    def complete(self) -> None:
        """Ends the body."""
        self._more_body = False
        self._news.set()

    def give_up(self) -> None:
        """Gives up the request: the connection is closed."""
        self.gone = True
        self._body = bytearray()
        self._news.set()

    def refuse(self, error: Exception) -> None:
        """Answers with an error of the connection's, in the place of the application."""
        had_started, self.started, self.over = self.started, True, True
        self.give_up()
        if not had_started:
            self._connection.write_response(problem_response(error))

    async def run(self, app: Callable[..., Any]) -> None:
        """Runs the application, which answers."""
        try:
            await app(self._scope, self._receive, self._send)
            if not (self.over or self.gone):
                raise RuntimeError("the application has not finished its answer")
        except Exception as error:
            log.error("the application failed", exc_info=error)
            self._fail(error)
        except BaseException:  # the server stops, and has waited long enough
            self._connection.abort()
            raise

    def _fail(self, error: Exception) -> None:
        if self.over or self.gone:
            return
        if self.started:
            self._connection.abort()  # or the client would take what came for the whole
        else:
            self.refuse(error)

    async def _receive(self) -> dict[str, Any]:
        if self._expects and not (self.gone or self.started):
            self._expects = False
            self._connection.write(_CONTINUE)
        while not (self.gone or self.over):
            if self._body or not (self._more_body or self._body_delivered):
                body, self._body = bytes(self._body), bytearray()
                self._body_delivered = not self._more_body
                self._connection.regulate()
                return {"type": "http.request", "body": body, "more_body": self._more_body}
            self._news.clear()
            await self._news.wait()
        return _DISCONNECT

    async def _send(self, message: dict[str, Any]) -> None:
        if self.gone or self.over:
            return
        if message["type"] == "http.response.start":
            self._start = message
            return
        if message["type"] != "http.response.body" or (self._start is None and not self.started):
            raise RuntimeError(f"the application sent {message['type']!r} out of order")
        body, more = message.get("body", b""), message.get("more_body", False)
        if self._start is not None:
            start, self._start = self._start, None
            status, fields = self._fields_of(start, more, len(body))
            self.started = True
            self._connection.write_head(status, fields, self._framed(body, more))
        else:
            self._connection.write(self._framed(body, more))
        if more:
            await self._connection.drain()
        elif self._unsent and not self._headless:
            raise RuntimeError("the application's answer is shorter than its Content-Length")
        else:
            self.over = True
            self._news.set()
            self._connection.answered()

    def _fields_of(self, start: dict[str, Any], more: bool, size: int) -> tuple[bytes, bytes]:
        """Returns the status line and the header fields of an answer whose first `size` bytes are there."""
        status = start["status"]
        fields, has_length = [], False
        for name, value in start.get("headers", []):
            if HEADER_RE.search(name) or HEADER_VALUE_RE.search(value):
                raise RuntimeError(f"the application sent a header field that is none: {name!r}: {value!r}")
            name = name.lower()
            if name == b"content-length":
                has_length, self._unsent = True, int(value)
            if name == b"connection" and b"close" in value.lower():
                self._connection.close_after_answer()
            elif name != b"transfer-encoding":
                fields.append(b"%b: %b\r\n" % (name, value))
        if not has_length and status >= 200 and status not in (204, 304):
            if not more:
                self._unsent = size
                fields.append(b"content-length: %d\r\n" % size)
            elif self._old:
                self._unsent = 0
                self._connection.close_after_answer()
            else:
                self._chunked = True
                fields.append(b"transfer-encoding: chunked\r\n")
        self._counted = has_length or not more
        return STATUS_LINE[status], b"".join(fields)

    def _framed(self, body: bytes, more: bool) -> bytes:
        if self._headless:
            return b""
        if self._chunked:
            return (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (b"" if more else b"0\r\n\r\n")
        if self._counted:
            self._unsent -= len(body)
            if self._unsent < 0:
                raise RuntimeError("the application's answer is longer than its Content-Length")
        return body


def scope_of(
    head: RequestHead, root_path: str, client: tuple[str, int] | None, server: tuple[str, int | None] | None
) -> dict[str, Any]:
    """Makes the ASGI scope of a request. A target in absolute form counts by its path."""
    target = head.target
    if target[:1] != b"/" and b"://" in target:
        _, _, rest = target.partition(b"://")
        slash = rest.find(b"/")
        query_start = rest.find(b"?")
        if slash < 0 or 0 <= query_start < slash:
            target = b"/" + (rest[query_start:] if query_start >= 0 else b"")
        else:
            target = rest[slash:]
    raw_path, _, query = target.partition(b"?")
    raw_path = raw_path.partition(b"#")[0]
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": head.version,
        "method": head.method.decode("ascii"),
        "scheme": "http",
        "path": root_path + unquote(raw_path.decode("latin-1")),
        "raw_path": root_path.encode("ascii") + raw_path,
        "query_string": query.partition(b"#")[0],
        "root_path": root_path,
        "headers": head.headers,
        "client": client,
        "server": server,
        "state": {},
    }
