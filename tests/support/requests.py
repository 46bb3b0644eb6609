"""Requests of every kind as bytes, and what has to come of them; made by Hypothesis."""

import gzip
import json
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from app.wire import msgpack_body
from tests.support.worker_in_process import TOKEN

FRAMEWORK, FAST = "?", ""  # behind a path: the fast path knows none with a question mark


@dataclass(frozen=True)
class Kind:
    """`body` is made of the request's number. `does`: whether the number is seen by the policy, or by the control."""

    method: str
    path: str
    status: int
    body: Callable[[int], bytes] | None = None
    headers: tuple[str, ...] = ()
    does: str = ""


def _observation(number: int) -> bytes:
    return json.dumps({"observation": [number, 0, 0, 0]}).encode()


def _long_observation(number: int) -> bytes:
    return b" " * 3000 + _observation(number) + b" " * 3000


def _packed(number: int) -> bytes:
    return msgpack_body.encode({"observation": np.array([number, 0, 0, 0], np.float32)})


ADMIN = (f"Authorization: Bearer {TOKEN}",)
PACKED = ("Content-Type: application/msgpack",)
KINDS = {
    "action": Kind("POST", "/action", 200, _observation, does="act"),
    "named": Kind("POST", "/v1/policies/echo/action", 200, _observation, does="act"),
    "long": Kind("POST", "/action", 200, _long_observation, does="act"),
    "packed": Kind("POST", "/action", 200, _packed, PACKED, does="act"),
    "step": Kind("POST", "/v1/policies/echo/sessions/one/action", 200, _observation, does="act"),
    "state": Kind("POST", "/get_initial_state", 200, lambda _: b"{}"),
    "empty": Kind("POST", "/action", 422, lambda _: b""),
    "cut": Kind("POST", "/action", 400, lambda _: b'{"observation": [1'),
    "unfit": Kind("POST", "/action", 422, lambda number: json.dumps({"observation": [number]}).encode()),
    "text": Kind("POST", "/action", 415, _observation, ("Content-Type: text/html",)),
    "unable": Kind("POST", "/distribution", 501, _observation),
    "nowhere": Kind("POST", "/nowhere", 404, _observation),
    "alive": Kind("GET", "/livez", 200),
    "wrong method": Kind("GET", "/action", 405),
    "head": Kind("HEAD", "/livez", 200),
    "reload": Kind(
        "POST",
        "/admin/policies/echo/reload",
        200,
        lambda number: json.dumps({"checkpoint": str(number)}).encode(),
        ADMIN,
        "reload",
    ),
    "resume": Kind("POST", "/admin/policies/echo/resume", 200, lambda _: b"", ADMIN),
    "no token": Kind("POST", "/admin/policies/echo/reload", 401, lambda _: b"{}"),
}
UPGRADES = {
    "h2c": ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAA"),
    "websocket": (
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ),
    "other": ("Upgrade: TLS/1.0, foo", "Connection: keep-alive, upgrade"),
    "only named": ("Upgrade: h2c",),
}


def _raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": lambda data: gzip.compress(data[:7]) + gzip.compress(data[7:]),
    "GZip": gzip.compress,
    "deflate": zlib.compress,
    "Deflate": _raw_deflate,
    "identity": lambda data: data,
    "zstd": lambda data: data,
    "gzip, deflate": lambda data: zlib.compress(gzip.compress(data)),
}
_UNKNOWN = {"zstd", "gzip, deflate"}


@dataclass(frozen=True)
class Request:
    """One request of a sequence, with all that is said around it."""

    kind: str
    number: int
    encoding: str = ""
    chunks: int = 0
    upgrade: str = ""
    closes: bool = False
    version: str = "1.1"
    expects: bool = False
    blank: int = 0
    absolute: bool = False
    decoy: bool = False

    @property
    def what(self) -> Kind:
        return KINDS[self.kind]

    @property
    def is_last(self) -> bool:
        return self.closes or self.version == "1.0"

    @property
    def body(self) -> bytes | None:
        if self.what.body is None:
            return None
        body = self.what.body(self.number)
        if self.decoy and body[-1:] == b"}":  # which looks like a request, and is a part of this one's body
            body += b"\r\n" * 2
        return ENCODINGS[self.encoding](body) if self.encoding and body else body

    @property
    def status(self) -> int:
        refused = (
            self.encoding in _UNKNOWN
            and self.body is not None
            and self.what.status in (200, 400, 422, 501)
            and self.kind != "resume"
        )
        return 415 if refused else self.what.status

    @property
    def does(self) -> str:
        return self.what.does if self.status == 200 else ""

    def bytes(self, way: str) -> bytes:
        path = self.what.path + way
        lines = [
            f"{self.what.method} {'http://here' if self.absolute else ''}{path} HTTP/{self.version}",
            "Host: here",
            *self.what.headers,
            *UPGRADES.get(self.upgrade, ()),
        ]
        if self.closes:
            lines.append("Connection: close")
        if self.expects and self.status in (200, 400, 422) and self.kind != "resume":  # that is, its body is read
            lines.append("Expect: 100-continue")
        body = self.body
        if self.encoding and body is not None:
            lines.append(f"Content-Encoding: {self.encoding}")
        if self.chunks and body is not None and self.version == "1.1":
            lines.append("Transfer-Encoding: chunked")
            body = _chunked(body, self.chunks)
        elif body is not None:
            lines.insert(2, f"Content-Length: {len(body)}")
        return b"\r\n" * self.blank + "\r\n".join([*lines, "", ""]).encode() + (body or b"")


def _chunked(body: bytes, count: int) -> bytes:
    size = max(1, -(-len(body) // count))
    chunks = [body[i : i + size] for i in range(0, len(body), size)]
    extension = b";name=value" if count % 2 else b""
    trailer = b"Some-Trailer: 1\r\n" if count % 3 == 0 else b""
    return b"".join(b"%x%b\r\n%b\r\n" % (len(c), extension, c) for c in chunks) + b"0\r\n" + trailer + b"\r\n"


# What ends a connection: bytes, and the status of the answer; 0 where there is none.
ENDS: dict[str, tuple[bytes, int]] = {
    "": (b"", 0),
    "garbage": (b"\x16\x03\x01 no HTTP\r\n\r\n", 400),
    "lower case": (b"post /action HTTP/1.1\r\n\r\n", 400),
    "bare line feeds": (b"POST /action HTTP/1.1\nContent-Length: 2\n\n{}", 400),
    "folded": (b"POST /action HTTP/1.1\r\nX: 1\r\n 2\r\n\r\n", 400),
    "two lengths": (b"POST /action HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{} ", 400),
    "the same length twice": (b"POST /action HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}", 400),
    "length and chunks": (
        b"POST /action HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400
    ),
    "no chunk": (b"POST /action HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
    "coded": (b"POST /action HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "tunnel": (b"CONNECT here:80 HTTP/1.1\r\nHost: here:80\r\n\r\n", 501),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "head too large": (b"POST /action HTTP/1.1\r\n" + b"X: " + b"y" * 70_000 + b"\r\n\r\n", 431),
    "too many fields": (b"POST /action HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431),
    "target too long": (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
    "body too large": (b"POST /action HTTP/1.1\r\nContent-Length: 1000000000000\r\n\r\n{", 413),
    "only empty lines": (b"\r\n" * 2000, 400),
    "half a head": (b"POST /action HTTP/1.1\r\nContent-Le", 0),
    "half a body": (b"POST /action HTTP/1.1\r\nContent-Length: 20\r\n\r\n{", 0),
}  # fmt: skip


@dataclass(frozen=True)
class Sequence:
    """What a client sends on one connection. `cuts`: where its bytes are cut, in parts of 256."""

    requests: tuple[Request, ...]
    end: str
    cuts: tuple[int, ...]
    ends_its_side: bool

    @property
    def answered(self) -> tuple[Request, ...]:
        """Those before the connection closes."""
        for i, request in enumerate(self.requests):
            if request.is_last:
                return self.requests[: i + 1]
        return self.requests

    @property
    def ends_at_once(self) -> bool:
        """Whether the client ends its side when it has sent all: in the middle of a body it may have no answer."""
        return self.ends_its_side and self.end != "body too large"

    @property
    def closes(self) -> bool:
        return any(request.is_last for request in self.requests)

    @property
    def statuses(self) -> list[int]:
        last = ENDS[self.end][1]
        return [request.status for request in self.answered] + ([last] if last and not self.closes else [])

    def parts(self, way: str) -> list[bytes]:
        data = b"".join(request.bytes(way) for request in self.requests) + ENDS[self.end][0]
        places = sorted({cut * len(data) // 256 for cut in self.cuts})
        return [data[i:j] for i, j in zip([0, *places], [*places, len(data)], strict=True) if i < j]


def _mostly(usual: Any, *others: Any) -> st.SearchStrategy[Any]:
    return st.one_of(st.just(usual), st.just(usual), st.sampled_from([usual, *others]))


requests = st.builds(
    Request,
    kind=st.one_of(st.just("action"), st.sampled_from(sorted(KINDS))),
    number=st.integers(0, 10**6),
    encoding=_mostly("", *ENCODINGS),
    chunks=_mostly(0, 1, 2, 3, 6, 50),
    upgrade=_mostly("", *UPGRADES),
    closes=st.sampled_from([False] * 9 + [True]),
    version=st.sampled_from(["1.1"] * 11 + ["1.0"]),
    expects=_mostly(False, True),
    blank=_mostly(0, 1, 2),
    absolute=_mostly(False, True),
    decoy=_mostly(False, True),
)
sequences = st.builds(
    Sequence,
    requests=st.lists(requests, min_size=1, max_size=6).map(tuple),
    end=_mostly("", *ENDS),
    cuts=st.lists(st.integers(0, 255), max_size=6).map(tuple),
    ends_its_side=st.booleans(),
)


@dataclass(frozen=True)
class Answer:
    status: int
    fields: tuple[bytes, ...]
    body: bytes


def next_answer(data: bytes, to_head: bool) -> tuple[Answer, bytes] | None:
    """The first whole answer in `data` (those of status 1xx left out), and the rest; None where there is none yet."""
    while True:
        head, found, rest = data.partition(b"\r\n\r\n")
        if not found:
            return None
        status = int(head.split(b" ", 2)[1])
        if status >= 200:
            break
        data = rest
    length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    size = 0 if to_head or length is None else int(length[1])
    if len(rest) < size:
        return None
    fields = tuple(sorted(line for line in head.split(b"\r\n")[1:] if not line.startswith(b"date:")))
    return Answer(status, fields, rest[:size]), rest[size:]
