# ruff: noqa: S603
"""A server's port and a request → how it answers under load. `load.c` does it; here it is compiled, run and read."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import BenchError

SOURCE = Path(__file__).with_name("load.c")
# Opening the connections takes 5 s at most, what is unanswered in the end is waited for 15 s (both in load.c).
_EXTRA_S = 30
# Half of what a server's queue holds by default: a stall makes requests wait, not fail.
MOST_CONNECTIONS = 512


@dataclass(frozen=True)
class Answers:
    """What load.c reports of one run. Rates are per second; `rate_asked` is 0 for a closed loop."""

    seconds: float
    requests: int
    failures: int
    statuses: dict[str, int]
    rate_asked: float
    rate: float
    reached: bool  # whether 98 % of the rate asked for were answered in time
    sent_late: int  # requests sent more than 1 ms after they were due
    connections: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p99_9_ms: float
    max_ms: float
    refused_p50_ms: float  # of answers 429; -1 where there are none
    refused_p99_ms: float
    versions: list[str]  # in the order in which answers first named them


@dataclass(frozen=True)
class Generator:
    """The compiled program, and the files with the requests that it sends to 127.0.0.1, by turns."""

    program: Path
    requests: tuple[Path, ...]
    handshake: Path | None = None  # of a WebSocket, whose frames the requests are
    preface: Path | None = None  # of HTTP/2, whose frames the requests are: calls of gRPC

    @contextlib.contextmanager
    def running(
        self, port: int, seconds: float, connections: int, rate: float = 0, most: int = MOST_CONNECTIONS
    ) -> Iterator[subprocess.Popen[str]]:
        """A run that goes on while the block runs; `answers` waits for its end. It is ended with the block.

        Args:
          port: the server's.
          seconds: for how long requests are due.
          connections: how many there are, at the beginning if the loop is open.
          rate: requests per second of an open loop; 0 is a closed loop.
          most: how many connections an open loop may have.
        """
        words = ["-p", port, "-s", seconds, "-c", connections, "-r", rate, "-m", most]
        for request in self.requests:
            words += ["-f", request]
        if self.handshake is not None:
            words += ["-w", self.handshake]
        if self.preface is not None:
            words += ["-g", self.preface]
        with subprocess.Popen(
            [self.program, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def run(
        self, port: int, seconds: float, connections: int, rate: float = 0, most: int = MOST_CONNECTIONS
    ) -> Answers:
        """As `running`, and waits for the end."""
        with self.running(port, seconds, connections, rate, most) as process:
            return answers(process, seconds)


def answers(process: subprocess.Popen[str], seconds: float) -> Answers:
    """What the program reports at its end; `seconds` is what it was started with."""
    try:
        output, error = process.communicate(timeout=seconds + _EXTRA_S)
    except subprocess.TimeoutExpired:
        raise BenchError("the load generator did not end") from None
    if process.returncode:
        raise BenchError(error.strip() or f"the load generator ended with status {process.returncode}")
    known: dict[str, Any] = json.loads(output)
    return Answers(**{name: known[name] for name in Answers.__dataclass_fields__})


def generator(folder: Path, path: str, body: bytes) -> Generator:
    """Compiles load.c into `folder`, to send `body` as JSON to `path`."""
    request = folder / "request"
    request.write_bytes(request_bytes(path, body))
    return Generator(compiled(folder), (request,))


def websocket_handshake(path: str) -> bytes:
    """The request that makes a connection a WebSocket."""
    fields = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13"
    key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{fields}\r\n{key}\r\n\r\n".encode()


def masked_frame(message: bytes) -> bytes:
    """A binary frame of a client."""
    size, mask = len(message), b"\x37\xfa\x21\x3d"
    head = bytes((0x82, 0x80 | size)) if size < 126 else b"\x82\xfe" + size.to_bytes(2, "big")
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(message))


# What a client of HTTP/2 begins with: its settings are the defaults, and its window is as large as may be, so that it
# never has to be widened (RFC 9113, 3.4 and 6.9).
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04" + bytes(5) + b"\0\0\4\x08" + bytes(5)
HTTP2_PREFACE += (2**31 - 1 - 65535).to_bytes(4, "big")


def grpc_frames(path: str, message: bytes) -> bytes:
    """The frames of HTTP/2 of a call to `path` (RFC 9113, 6.1 and 6.2); load.c sets their stream.

    No header goes into the table of HPACK, so that all calls have the same bytes.
    """
    head = b"\x83\x86" + b"\x04" + _short(path) + b"\x01" + _short("127.0.0.1")
    head += b"\0" + _short("content-type") + _short("application/grpc") + b"\0" + _short("te") + _short("trailers")
    data = b"\0" + len(message).to_bytes(4, "big") + message
    frames = ((1, 0x4, head), (0, 0x1, data))  # the end of the head; the end of the call
    return b"".join(
        len(body).to_bytes(3, "big") + bytes((kind, flags, 0, 0, 0, 0)) + body for kind, flags, body in frames
    )


def _short(text: str) -> bytes:
    return bytes((len(text),)) + text.encode()


def compiled(folder: Path, source: Path = SOURCE) -> Path:
    """The program, made in `folder`; it has the name of its `source`."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise BenchError(f"there is no C compiler (cc, gcc or clang), which the load generator {source.name} needs")
    program = folder / source.stem
    done = subprocess.run([compiler, "-O2", "-o", program, source], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{compiler} cannot compile {source}: {done.stderr.strip()}")
    return program


def request_bytes(
    path: str, body: bytes, media_type: str = "application/json", fields: Sequence[tuple[str, str]] = ()
) -> bytes:
    """A POST on a connection that is kept. `fields`: more of its head."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {media_type}\r\nContent-Length: {len(body)}"
    more = "".join(f"\r\n{name}: {value}" for name, value in fields)
    return f"{head}{more}\r\n\r\n".encode() + body
