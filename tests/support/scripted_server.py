"""An HTTP server on loopback that does what a script says, request by request, and records what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec

from tests.support.ports import port_below_outgoing


@dataclass(frozen=True)
class Answer:
    """A response with this status and body."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Drop:
    """The connection is closed without an answer, or in the middle of one."""

    half: bytes = b""


@dataclass(frozen=True)
class Late:
    """The answer comes when the client has hung up."""

    answer: Answer


Act = Answer | Drop | Late


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def fields(self) -> Any:
        return msgspec.msgpack.decode(self.body)


def said(**fields: Any) -> Answer:
    """An answer of the policy in msgpack, with a version unless there is one."""
    fields = {"version": "export", "train_step": 11} | fields
    return Answer(200, msgspec.msgpack.encode(fields), {"Content-Type": "application/msgpack"})


def problem(status: int, title: str, detail: str, retry_after: str = "", **more: Any) -> Answer:
    body = json.dumps({"type": "urn:x", "title": title, "status": status, "detail": detail, **more}).encode()
    headers = {"Content-Type": "application/problem+json"} | ({"Retry-After": retry_after} if retry_after else {})
    return Answer(status, body, headers)


class Scripted:
    """`asked` fills up; what is asked beyond the script gets 500."""

    def __init__(self, *acts: Act) -> None:
        self.acts = list(acts)
        self.asked: list[Asked] = []
        self.clients: set[Any] = set()
        self.url = ""

    def next(self, asked: Asked) -> Act:
        self.asked.append(asked)
        return self.acts.pop(0) if self.acts else problem(500, "Script", "the script has ended")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    script: Scripted

    def _do(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.script.clients.add(self.client_address)
        act = self.script.next(Asked(self.command, self.path, headers, body))
        if isinstance(act, Drop):
            self.wfile.write(act.half)
            self.close_connection = True
            return
        if isinstance(act, Late):
            self.rfile.read(1)  # comes back when the client closes the connection
            self.close_connection = True
            act = act.answer
        self._write(act)

    def _write(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)

    do_GET = do_POST = do_DELETE = _do

    def log_message(self, *_: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has hung up is part of the script."""


@contextmanager
def scripted(*acts: Act) -> Iterator[Scripted]:
    """Runs until the block ends."""
    script = Scripted(*acts)
    handler = type("Handler", (_Handler,), {"script": script})
    with _Server(("127.0.0.1", 0), handler) as server:
        script.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield script
        finally:
            server.shutdown()
            thread.join()


def nobody() -> str:
    """The address of a server that does not run."""
    return f"http://127.0.0.1:{port_below_outgoing()}"
