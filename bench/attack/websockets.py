"""What hurts on a connection that has become a WebSocket: frames and messages of OpenPI's clients."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator

import msgspec

from bench.attack.connections import Wire, connect, send_all
from bench.harness.load import websocket_handshake

_PATH = "/v1/policies/small/openpi"
_TEXT, _BINARY, _CONT, _PING = 0x01, 0x02, 0x00, 0x09
_LAST, _MASKED = 0x80, 0x80
_BURST = 4000
_REST_S = 2.0


def _frame(payload: bytes, opcode: int, claims: int = -1) -> bytes:
    """One whose mask changes nothing. `claims`: the length that it says it has."""
    size = len(payload) if claims < 0 else claims
    if size < 126:
        head = bytes((opcode, _MASKED | size))
    elif size < 1 << 16:
        head = bytes((opcode, _MASKED | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((opcode, _MASKED | 127)) + size.to_bytes(8, "big")
    return head + bytes(4) + payload


@contextlib.contextmanager
def _opened(port: int, timeout: float) -> Iterator[socket.socket]:
    with connect(port, timeout) as connection:
        send_all(connection, websocket_handshake(_PATH))
        if not connection.recv(1 << 16).startswith(b"HTTP/1.1 101 "):
            raise OSError("no WebSocket")
        yield connection


def _rest(connection: socket.socket) -> str:
    """What becomes of the connection."""
    connection.settimeout(0.5)
    until = time.monotonic() + _REST_S
    try:
        while connection.recv(1 << 16):
            if time.monotonic() > until:
                return "open"
    except TimeoutError:
        return "open"
    except OSError:
        pass
    return "closed"


def _flood(first: bytes, more: bytes) -> Callable[[int, float], str]:
    def run(port: int, seconds: float) -> str:
        until = time.monotonic() + seconds / 2
        with _opened(port, seconds) as connection:
            sent = send_all(connection, first)
            while sent and time.monotonic() < until:
                sent = send_all(connection, more * _BURST)
            return _rest(connection)

    return run


def _message(make: Callable[[], bytes]) -> Callable[[int, float], str]:
    def run(port: int, seconds: float) -> str:
        with _opened(port, seconds) as connection:
            send_all(connection, _frame(make(), _LAST | _BINARY))
            return _rest(connection)

    return run


def _unfinished(connections: int, size: int) -> Callable[[int, float], str]:
    def run(port: int, seconds: float) -> str:  # noqa: ARG001
        with contextlib.ExitStack() as stack:
            for _ in range(connections):
                connection = stack.enter_context(_opened(port, 2.0))
                send_all(connection, _frame(b"\0" * (size - 1), _LAST | _BINARY, claims=size))
            time.sleep(1.0)
            return f"{connections} held"

    return run


def _many_names() -> bytes:
    return msgspec.msgpack.encode({f"name {number}": [0] * 20 for number in range(100_000)})


KINDS = [
    Wire("WebSocket: pings without end", _flood(b"", _frame(b"here", _LAST | _PING))),
    Wire("WebSocket: fragments of one byte without end", _flood(_frame(b"", _BINARY), _frame(b"x", _CONT))),
    Wire("WebSocket: empty fragments without end", _flood(_frame(b"", _BINARY), _frame(b"", _CONT))),
    Wire("WebSocket: messages that are none, without end", _flood(b"", _frame(b"\xc1", _LAST | _BINARY))),
    Wire("WebSocket: texts without end", _flood(b"", _frame(b"up", _LAST | _TEXT))),
    Wire("WebSocket: a message of 100,000 names", _message(_many_names)),
    Wire("WebSocket: 5,000,000 levels of lists", _message(lambda: b"\x91" * 5_000_000)),
    Wire("WebSocket: 40 messages that do not end", _unfinished(40, 5_000_000)),
]
