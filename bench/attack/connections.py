"""What hurts before there is a body: heads, connections, answers that nobody reads."""

from __future__ import annotations

import contextlib
import gzip
import os
import socket
import time
from collections.abc import Callable
from typing import NamedTuple

from bench.harness.server import TOKEN

_TIMEOUT_S = 60.0
_CHUNK = 64 * 1024
_SMALL = b'{"observation": [0.1, 0.2, 0.3, 0.4]}'
_STATES = b'{"batch_size": 16384}'


class Wire(NamedTuple):
    """One kind: `run` does it to a port, within `seconds`, and says what came of it.

    `known`: why a neighbour may be hurt all the same, which is documented.
    """

    name: str
    run: Callable[[int, float], str]
    known: str = ""


def head(path: str, length: int, *headers: str) -> bytes:
    """The head of a POST."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {length}", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def connect(port: int, timeout: float = _TIMEOUT_S) -> socket.socket:
    """To the server."""
    return socket.create_connection(("127.0.0.1", port), timeout)


def status_of(connection: socket.socket) -> str:
    """The status of the next answer; "closed" where there is none, "none" where it does not come in time."""
    try:
        answer = connection.recv(1 << 16)
    except TimeoutError:
        return "none"
    except OSError:
        return "closed"
    return answer.split(b" ", 2)[1].decode("latin-1") if answer.startswith(b"HTTP/") else "closed"


def read_all(connection: socket.socket) -> str:
    """The status of the next answer, once all of it is read, by its length; words as `status_of`."""
    try:
        with connection.makefile("rb") as stream:
            line, length = stream.readline(), 0
            while (field := stream.readline()).strip():
                name, _, value = field.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            while length > 0 and (piece := stream.read(min(length, 1 << 20))):
                length -= len(piece)
    except TimeoutError:
        return "none"
    except OSError:
        return "closed"
    return line.split(b" ", 2)[1].decode("latin-1") if line.startswith(b"HTTP/") and not length else "closed"


def send_all(connection: socket.socket, data: bytes) -> bool:
    """Whether the server took it all."""
    try:
        connection.sendall(data)
    except OSError:
        return False
    return True


def _endless(first: bytes, more: bytes, most_bytes: int) -> Callable[[int, float], str]:
    def run(port: int, seconds: float) -> str:
        until = time.monotonic() + seconds
        with connect(port, seconds) as connection:
            sent = send_all(connection, first)
            rest = most_bytes
            while sent and rest > 0 and time.monotonic() < until:
                sent = send_all(connection, more)
                rest -= len(more)
            connection.settimeout(1.0)
            return status_of(connection)

    return run


def _slowly(data: bytes, connections: int) -> Callable[[int, float], str]:
    """A byte now and then on each of many connections."""

    def run(port: int, seconds: float) -> str:
        until = time.monotonic() + seconds
        with contextlib.ExitStack() as stack:
            held = [stack.enter_context(connect(port)) for _ in range(connections)]
            for byte in data:
                if time.monotonic() > until:
                    break
                for connection in held:
                    send_all(connection, bytes([byte]))
                time.sleep(0.05)
            return f"{connections} open"

    return run


def _unfinished(connections: int, size: int, policy: str = "small") -> Callable[[int, float], str]:
    """Bodies of `size` bytes that stop one byte before their end, together."""

    def run(port: int, seconds: float) -> str:
        until = time.monotonic() + seconds
        body = b" " * (size - 1)
        with contextlib.ExitStack() as stack:
            held = []
            for _ in range(connections):
                connection = stack.enter_context(connect(port, 2.0))
                held.append(connection)
                send_all(connection, head(f"/v1/policies/{policy}/action", size))
                send_all(connection, body)
                if time.monotonic() > until:
                    break
            time.sleep(1.0)
            return f"{len(held)} held"

    return run


def _unread(connections: int, requests: int) -> Callable[[int, float], str]:
    """Answers that nobody reads."""

    def run(port: int, seconds: float) -> str:
        request = head("/v1/policies/recurrent/get_initial_state", len(_STATES)) + _STATES
        until = time.monotonic() + seconds
        with contextlib.ExitStack() as stack:
            for _ in range(connections):
                connection = socket.socket()
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                connection.settimeout(1.0)
                connection.connect(("127.0.0.1", port))
                stack.enter_context(connection)
                send_all(connection, request * requests)
            while time.monotonic() < until - seconds / 2:
                time.sleep(0.1)
            return f"{connections} unread"

    return run


def _closed_in_the_middle(port: int, seconds: float) -> str:
    until, count = time.monotonic() + seconds / 2, 0
    while time.monotonic() < until:
        with connect(port) as connection:
            send_all(connection, head("/v1/policies/small/action", 1_000_000) + b" " * 500_000)
        count += 1
    return f"{count} closed"


def _large_and_closed(port: int, seconds: float) -> str:  # noqa: ARG001
    """Bodies of 63 MiB, each of whose connections is closed one byte before its end."""
    size = 63 * 2**20
    body = b" " * (size - 1)
    for _ in range(20):
        with connect(port) as connection:
            send_all(connection, head("/v1/policies/image/action", size) + body)
    return "20 closed"


def _ghosts(connections: int) -> Callable[[int, float], str]:
    """Requests that wait for weights, one behind each, and nobody who waits for the answer."""
    waits = b'{"observation": [0.1, 0.2, 0.3, 0.4], "options": {"min_train_step": 999999999, "timeout_ms": 600000}}'
    path = "/v1/policies/small/action"
    both = head(path, len(waits)) + waits + head(path, len(_SMALL)) + _SMALL

    def run(port: int, seconds: float) -> str:
        for _ in range(connections):
            with connect(port) as connection:
                send_all(connection, both)
        with connect(port, seconds) as connection:
            send_all(connection, head(path, len(_SMALL)) + _SMALL)
            return f"{connections} closed, then {read_all(connection)}"

    return run


def _half_closed(connections: int) -> Callable[[int, float], str]:
    """Clients that end their side behind a request, by either path, and wait for its answer."""

    def run(port: int, seconds: float) -> str:
        with contextlib.ExitStack() as stack:
            held = [stack.enter_context(connect(port, seconds)) for _ in range(connections)]
            for number, connection in enumerate(held):
                path = "/v1/policies/small/action" + "?" * (number % 2)
                send_all(connection, head(path, len(_SMALL)) + _SMALL)
                connection.shutdown(socket.SHUT_WR)
            return " ".join(sorted({read_all(connection) for connection in held}))

    return run


def _opened_and_closed(port: int, seconds: float) -> str:
    until, count = time.monotonic() + min(2.0, seconds / 2), 0
    while time.monotonic() < until:
        connect(port).close()
        count += 1
    return f"{count} closed"


def _many_at_once(connections: int, first: bytes = b"") -> Callable[[int, float], str]:
    """They are all there for a second, and then close together. `first`: what each sends."""

    def run(port: int, seconds: float) -> str:  # noqa: ARG001
        with contextlib.ExitStack() as stack:
            for _ in range(connections):
                connection = stack.enter_context(connect(port))
                if first:
                    send_all(connection, first)
            time.sleep(1.0)
            return f"{connections} open"

    return run


def _pipelined(body: bytes, count: int) -> Callable[[int, float], str]:
    request = head("/v1/policies/small/action", len(body)) + body

    def run(port: int, seconds: float) -> str:
        with connect(port, seconds) as connection:
            connection.settimeout(2.0)
            send_all(connection, request * count)
            return status_of(connection)

    return run


def _chunked(size: int) -> Callable[[int, float], str]:
    def run(port: int, seconds: float) -> str:
        first = b"POST /v1/policies/small/action HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        piece = b"%x\r\n%b\r\n" % (size, b" " * size)
        return _endless(first, piece * max(1, _CHUNK // len(piece)), 40 * 2**20)(port, seconds)

    return run


def _zipped(make: Callable[[], bytes], policy: str = "small") -> Callable[[int, float], str]:
    """One body of gzip."""

    def run(port: int, seconds: float) -> str:
        body = make()
        with connect(port, seconds) as connection:
            send_all(connection, head(f"/v1/policies/{policy}/action", len(body), "Content-Encoding: gzip") + body)
            return status_of(connection)

    return run


def _json_as_tensors(port: int, seconds: float) -> str:
    """JSON alone, with the header of a request whose tensors are raw."""
    items = b"1," * 999_999 + b"true"
    body = b'{"inputs":[{"name":"0/observation","shape":[250000,4],"datatype":"FP32","data":[%b]}]}' % items
    with connect(port, seconds) as connection:
        length = f"Inference-Header-Content-Length: {len(body)}"
        send_all(connection, head("/v2/models/small/infer", len(body), length) + body)
        return status_of(connection)


def _zipped_beside(connections: int) -> Callable[[int, float], str]:
    """Bodies that fit just when decoded, at once."""

    def run(port: int, seconds: float) -> str:
        body = gzip.compress(b" " * 17_000_000 + _SMALL, 9)
        with contextlib.ExitStack() as stack:
            held = [stack.enter_context(connect(port, seconds)) for _ in range(connections)]
            for connection in held:
                send_all(connection, head("/v1/policies/small/action", len(body), "Content-Encoding: gzip") + body)
            return " ".join(sorted({status_of(connection) for connection in held}))

    return run


def _all_sessions(most: int) -> Callable[[int, float], str]:
    """Begins sessions until no more are given to one client, and ends them again."""

    def run(port: int, seconds: float) -> str:  # noqa: ARG001
        path, begun, status = "/v1/policies/small/sessions", 0, "201"
        with connect(port) as connection:
            while status == "201" and begun < most:
                body = b'{"id": "taken-%d", "observation": [0.1, 0.2, 0.3, 0.4]}' % begun
                send_all(connection, head(path, len(body)) + body)
                status, begun = read_all(connection), begun + 1
            for number in range(begun - 1):
                send_all(connection, b"DELETE %b/taken-%d HTTP/1.1\r\nHost: x\r\n\r\n" % (path.encode(), number))
                read_all(connection)
        return f"{status} after {begun}"

    return run


def _zipped_and_closed(connections: int) -> Callable[[int, float], str]:
    """Small bodies that stand for large ones, of clients that do not wait for the answer."""

    def run(port: int, seconds: float) -> str:  # noqa: ARG001
        body = gzip.compress(b" " * 17_000_000 + _SMALL, 9)
        request = head("/v1/policies/small/action", len(body), "Content-Encoding: gzip") + body
        for _ in range(connections):
            with connect(port) as connection:
                send_all(connection, request)
        return f"{connections} closed"

    return run


def _stopping_upload(port: int, seconds: float) -> str:  # noqa: ARG001
    lines = ["PUT /admin/policies/small/checkpoints/attack HTTP/1.1", "Host: x", "Content-Length: 50000000"]
    lines += [f"Authorization: Bearer {TOKEN}", "Content-Type: application/x-tar", "", ""]
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            connection = stack.enter_context(connect(port, 2.0))
            send_all(connection, "\r\n".join(lines).encode() + b"\0" * 3_000_000)
        time.sleep(1.0)
    return "10 stopped"


def _admin(body: bytes) -> Callable[[int, float], str]:
    def run(port: int, seconds: float) -> str:
        token = f"Authorization: Bearer {TOKEN}"
        with connect(port, seconds) as connection:
            send_all(connection, head("/admin/policies/small/reload", len(body), token) + body)
            return status_of(connection)

    return run


def _upload(port: int, seconds: float) -> str:
    lines = ["PUT /admin/policies/small/checkpoints/attack HTTP/1.1", "Host: x", "Content-Length: 50000000"]
    lines += [f"Authorization: Bearer {TOKEN}", "Content-Type: application/x-tar", "", ""]
    with connect(port, seconds) as connection:
        send_all(connection, "\r\n".join(lines).encode() + b"\x07" * 50_000_000)
        return status_of(connection)


_START = b"POST /v1/policies/small/action HTTP/1.1\r\nHost: localhost\r\n"
_UPGRADE = b"GET /v1/policies HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
_UPGRADE += b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
KINDS = [
    Wire("a head without end", _endless(_START, b"X-Some-Header: " + b"y" * 100 + b"\r\n", 64 * 2**20)),
    Wire("one header without end", _endless(_START + b"X-Long: ", b"y" * _CHUNK, 64 * 2**20)),
    Wire("a path without end", _endless(b"POST /", b"y" * _CHUNK, 64 * 2**20)),
    Wire("a million short headers", _endless(_START, b"a:b\r\n" * 10_000, 16 * 2**20)),
    Wire("slow heads", _slowly(_START, 100)),
    Wire("slow bodies", _slowly(head("/v1/policies/small/action", 1000) + b" " * 100, 100)),
    Wire("40 bodies that do not end", _unfinished(40, 16_000_000)),
    Wire("40 bodies of 60 MB that do not end", _unfinished(40, 60_000_000, "image")),
    Wire("200 small bodies that do not end", _unfinished(200, 800_000)),
    Wire("answers that nobody reads", _unread(20, 4)),
    Wire("answers that nobody reads, on 60 connections", _unread(60, 1)),
    Wire("pipelined answers that nobody reads", _unread(2, 40)),
    Wire("clients that go away in the middle", _closed_in_the_middle),
    Wire("20 bodies of 63 MiB whose clients go away", _large_and_closed),
    Wire("1,100 clients that go away while they wait for weights", _ghosts(1100)),
    Wire("200 half-closed clients", _half_closed(200)),
    Wire("200 idle upgrades to a WebSocket", _many_at_once(200, _UPGRADE)),
    Wire("connections opened and closed", _opened_and_closed),
    Wire("500 connections", _many_at_once(500)),
    Wire("2,000 connections that close together", _many_at_once(2000)),
    Wire("1,100 heads without their end", _many_at_once(1100, _START)),
    Wire("20,000 requests ahead of their turn", _pipelined(_SMALL, 20_000)),
    Wire("large requests ahead of their turn", _pipelined(b" " * 4_000_000 + _SMALL, 20)),
    Wire("a body in chunks of 1 byte", _chunked(1)),
    Wire("a body in chunks without end", _chunked(60_000)),
    Wire("a gzip bomb", _zipped(lambda: gzip.compress(b" " * 200_000_000, 9))),
    Wire("800,000 empty gzip members", _zipped(lambda: gzip.compress(b"") * 800_000)),
    Wire("50 MB of gzip that is as large decoded", _zipped(lambda: gzip.compress(os.urandom(50_000_000), 1), "image")),
    Wire("2 MB of JSON that are called raw tensors", _json_as_tensors),
    Wire("20 gzip bodies near the bound", _zipped_beside(20)),
    Wire("300 gzip bodies whose clients go away", _zipped_and_closed(300)),
    Wire("admin: 500 levels of lists", _admin(b'{"checkpoint":' + b"[" * 500 + b"]" * 500 + b"}")),
    Wire("admin: 30,000 levels of lists", _admin(b'{"checkpoint":' + b"[" * 30_000 + b"]" * 30_000 + b"}")),
    Wire("admin: 10,000 fields", _admin(b"{" + b",".join(b'"k%d":1' % i for i in range(5_000)) + b"}")),
    Wire("one client that takes all sessions", _all_sessions(20_000)),
    Wire("an upload that is no tar", _upload),
    Wire("uploads that stop", _stopping_upload),
]
