"""The kinds of requests whose way is measured: what is asked, and of which policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.harness.load import request_bytes
from bench.serving import payloads
from bench.serving.exports import RECURRENT, SMALL

_SESSION = "stations"


@dataclass(frozen=True)
class Kind:
    """`request`: the bytes of request number 1, 2, …; `begin`: the path and body of what has to be asked before."""

    name: str
    request: Callable[[int], bytes]
    begin: tuple[str, bytes] | None = None


def kinds() -> list[Kind]:
    """All of them."""
    action = f"/v1/policies/{SMALL}/action"
    row, rows = payloads.payload(payloads.ROW), payloads.payload(payloads.ROWS)
    path, binary = payloads.in_protocol(row, payloads.MSGPACK, SMALL)
    return [
        _constant("JSON, one row", request_bytes(action, row.body)),
        _constant("msgpack, one row", request_bytes(path, binary.body, binary.media_type)),
        _steps("LSTM, step of a session"),
        _constant("JSON, 64 rows", request_bytes(action, rows.body)),
    ]


def _constant(name: str, request: bytes) -> Kind:
    return Kind(name, lambda _: request)


def _steps(name: str) -> Kind:
    sessions = f"/v1/policies/{RECURRENT}/sessions"
    observation = b'"observation":[0.1,-0.2,0.3,-0.4]}'
    path = f"{sessions}/{_SESSION}/action"
    begin = b'{"id":"%b",%b' % (_SESSION.encode(), observation)
    return Kind(name, lambda k: request_bytes(path, b'{"step":%d,%b' % (k, observation)), (sessions, begin))
