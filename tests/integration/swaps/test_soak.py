"""Good, bad, split and hostile requests, sessions and swaps, for long: no good request fails, and memory stays."""

import contextlib
import gzip
import itertools
import json
import random
import socket
import statistics
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.swaps.test_many_swaps import open_things, resident_kib
from tests.support.policies import NumberTrainer
from tests.support.server import RunningServer, serving
from tests.support.steady import threads_running, until

PAUSE_S = 0.01
FULL_S, WARM_S, WINDOW_S, SWAP_EVERY_S = 3600.0, 300.0, 60.0, 3.0
TOO_LONG_S = 60.0
GOOD = b'{"observation": [7, 0, 0, 0]}'
# Bodies that are no request of this policy, with the statuses that say so.
BAD: list[tuple[bytes, set[int]]] = [
    (b"", {400, 422}),
    (b"{", {400}),
    (b"\xff\xfe\x00", {400}),
    (b"[" * 5000, {400}),
    (b'{"observation": ' + b"[" * 200 + b"]" * 200 + b"}", {400, 422}),
    (b'{"observation": [1, 2, 3]}', {422}),
    (b'{"observation": [1, 2, 3, "x"]}', {422}),
    (b'{"observation": [1, 2, 3, 1e999]}', {400, 422}),
    (b'{"observation": [1, 2, 3, NaN]}', {400, 422}),
    (b'{"observation": [[1, 2, 3, 4], [1]]}', {422}),
    (b'{"observation": [1, 2, 3, 4], "options": {"seed": -1}}', {422}),
    (b'{"observation": [1, 2, 3, 4], "options": {"min_train_step": 9e99, "timeout_ms": 5}}', {422}),
    (b'{"observation": [1, 2, 3, 4], "options": {"min_train_step": 999999999, "timeout_ms": 5}}', {409, 504}),
    (b'{"observation": ' + b"[1, 2, 3, 4]" * 100 + b"}", {400}),
    (b'{"observation": [' + b"1, " * 50_000 + b"1]}", {422}),
    (b'{"' + b"x" * 30_000 + b'": 1, "observation": [1, 2, 3, 4]}', {422}),
    (b"{" + b", ".join(b'"k%d": 1' % number for number in range(2000)) + b"}", {422}),
]


class Soak:
    """What is done and counted. `good` has the train step of every version that may answer, by name."""

    def __init__(self, server: RunningServer) -> None:
        self.server, self.port = server, int(server.url.rpartition(":")[2])
        self.good = {"export": 0}
        self.done: Counter[str] = Counter()
        self.failures: list[str] = []
        self.over = threading.Event()

    @contextlib.contextmanager
    def running(self, *kinds: Callable[["Soak", random.Random], Iterator[None]]) -> Iterator[None]:
        threads = [threading.Thread(target=self._run, args=(kind, number)) for number, kind in enumerate(kinds)]
        with threads_running(threads, self.over):
            yield

    def _run(self, kind: Callable[["Soak", random.Random], Iterator[None]], number: int) -> None:
        try:
            for _ in kind(self, random.Random(number)):
                self.done[kind.__name__] += 1
                if self.over.wait(PAUSE_S):
                    return
        except Exception as error:
            self.failures.append(f"{kind.__name__}: {error!r}")

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), TOO_LONG_S)

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.server.url, trust_env=False, timeout=TOO_LONG_S)

    def check(self, answer: dict[str, Any], marks: list[int], single: bool) -> None:
        step = answer["train_step"]
        assert "version" not in answer or self.good[answer["version"]] == step
        wanted = [[1000 * step + mark] * 2 for mark in marks]
        assert answer["action"] == (wanted[0] if single else wanted), answer


def statuses_of(connection: socket.socket, count: int) -> list[int]:
    """Of so many answers, each read to its end."""
    statuses = []
    with connection.makefile("rb") as stream:
        for _ in range(count):
            # A client that has ended its side, and waits long, is asked by a 102 whether it is still there.
            while (status := int(stream.readline().split(b" ")[1])) < 200:
                assert stream.readline() == b"\r\n"
            statuses.append(status)
            lengths = [
                line.partition(b":")[2]
                for line in iter(stream.readline, b"\r\n")
                if line[:15].lower() == b"content-length:"
            ]
            json.loads(stream.read(int(lengths[0])))
    return statuses


def post(body: bytes, *fields: str, path: str = "/action") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *fields, "", ""]
    return "\r\n".join(lines).encode() + body


def rows(soak: Soak, draw: random.Random) -> Iterator[None]:
    """Good requests of one row and of many, by the fast path and the framework's, on one connection."""
    with soak.client() as client:
        while True:
            marks = [draw.randrange(1000) for _ in range(draw.choice((1, 1, 3, 40)))]
            observations = [[mark, 0, 0, 0] for mark in marks]
            single = len(marks) == 1
            path = draw.choice(("/action", "/action?", "/v1/policies/p/action"))
            answer = client.post(path, json={"observation": observations[0] if single else observations})
            soak.check(answer.raise_for_status().json(), marks, single)
            yield


def sessions(soak: Soak, draw: random.Random) -> Iterator[None]:
    """Episodes of a few steps; some are never ended, and begun again by the next run."""
    with soak.client() as client:
        for run in itertools.count():
            path, mark = f"/sessions/one-{run % 50}", draw.randrange(1000)
            begun = {"id": f"one-{run % 50}", "run_id": str(run), "observation": [mark, 0, 0, 0]}
            if run % 3 == 0:
                begun["weights"] = "episode"
            answer = client.post("/sessions", json=begun)
            assert answer.status_code == 201, answer.text
            soak.check(answer.json(), [mark], True)
            for step in range(1, 4):
                answer = client.post(f"{path}/action", json={"step": step, "observation": [mark, 0, 0, 0]})
                soak.check(answer.raise_for_status().json(), [mark], True)
                yield
            assert client.post(f"{path}/action", json={"step": 9, "observation": [0] * 4}).status_code == 409
            if run % 2 or run % 3 == 0:  # one that keeps its weights keeps them from being let go
                assert client.delete(path).status_code == 204


def bad_bodies(soak: Soak, draw: random.Random) -> Iterator[None]:
    """Each is refused by its status, and the connection goes on."""
    with soak.client() as client:
        while True:
            body, statuses = draw.choice(BAD)
            answer = client.post(draw.choice(("/action", "/action?")), content=body)
            assert answer.status_code in statuses, f"{answer.status_code} for {body[:80]!r}: {answer.text[:200]}"
            assert client.get(draw.choice(("/nothing", "/v1/policies/nobody"))).status_code == 404
            yield


def split(soak: Soak, draw: random.Random) -> Iterator[None]:
    """Good requests in pieces, ahead of their turn, in chunks, compressed, with an upgrade, half-closed."""
    chunked = b"POST /action HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunked += b"".join(b"1\r\n%c\r\n" % byte for byte in GOOD) + b"0\r\n\r\n"
    kinds = (
        (post(GOOD), 1),
        (post(GOOD) * 30, 30),
        (post(GOOD) + post(BAD[1][0]) + post(GOOD, path="/action?"), 3),
        (chunked, 1),
        (post(gzip.compress(GOOD + b" " * 100_000), "Content-Encoding: gzip"), 1),
        (post(GOOD, "Connection: Upgrade", "Upgrade: websocket"), 1),
        (post(GOOD + b" " * 200_000), 1),
    )
    while True:
        data, count = draw.choice(kinds)
        cuts = sorted(draw.randrange(len(data)) for _ in range(draw.randrange(4)))
        with soak.connect() as connection:
            for start, end in itertools.pairwise((0, *cuts, len(data))):
                connection.sendall(data[start:end])
            if draw.random() < 0.3:
                connection.shutdown(socket.SHUT_WR)
            statuses = statuses_of(connection, count)
        assert statuses in ([200] * count, [200, 400, 200]), statuses
        yield


def hostile(soak: Soak, draw: random.Random) -> Iterator[None]:
    """Whatever comes of it, nobody else may notice."""
    waits = b'{"observation": [7, 0, 0, 0], "options": {"min_train_step": 999999999, "timeout_ms": 600000}}'
    kinds = (
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /action HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /action HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST /action HTTP/1.1\r\n" + b"X-A: " + b"y" * 70_000,
        b"POST /action HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n",
        b"\r\n" * 2000,
        post(gzip.compress(b" " * 40_000_000), "Content-Encoding: gzip"),
        post(b" " * 500_000)[:-1],
        post(GOOD)[:-3],
        post(waits) + post(GOOD),
        post(GOOD) * 200,
        post(b'{"batch_size": 1000}', path="/get_initial_state") * 5,
        b"PUT /admin/policies/p/checkpoints/x HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + b"\0" * 50_000,
    )
    while True:
        with contextlib.suppress(OSError), soak.connect() as connection:
            connection.sendall(draw.choice(kinds))
            if draw.random() < 0.5:
                connection.settimeout(0.05)
                connection.recv(100)
            if draw.random() < 0.5:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        yield


def idle(soak: Soak, draw: random.Random) -> Iterator[None]:
    """Connections that are open for a while, and ask for nothing, or for half of something."""
    held: list[socket.socket] = []
    try:
        while True:
            held.append(soak.connect())
            held[-1].sendall(draw.choice((b"", b"POST /act", post(GOOD)[:-1])))
            if len(held) > 100:
                held.pop(0).close()
            yield
    finally:
        for connection in held:
            connection.close()


KINDS = (rows, rows, rows, sessions, bad_bodies, split, hostile, idle)


class Memory:
    """Samples of what all processes of a server have resident, in KiB, with their times."""

    def __init__(self, server: RunningServer) -> None:
        self._server = server
        self.samples: list[tuple[float, int]] = []

    def sample(self) -> None:
        self.samples.append((time.monotonic(), resident_kib(self._server)))

    def median(self, since: float) -> float:
        return statistics.median(kib for at, kib in self.samples if at >= since)


def swap(soak: Soak, trainer: NumberTrainer, step: int) -> None:
    name = f"{step:010d}"
    trainer.policy.set_number(step)
    trainer._train_step.assign(step)
    soak.good[name] = step
    trainer.saver.save_checkpoint(trainer.folder / "checkpoints" / name, keep_last=3)
    answer = soak.server.reload("p", checkpoint=name)
    assert (answer.status_code, answer.json().get("train_step")) == (200, step), answer.text


@pytest.mark.timeout(7200)
def test_soak_fails_no_good_request_and_takes_no_more_memory(tmp_path: Path, full: bool) -> None:
    """Counts where it is short, and minutes where it is long: from the fifth on memory stays within 5 %."""
    trainer = NumberTrainer(tmp_path / "p", filler=50_000)
    options = ("--no-watch", "--state-dir", str(tmp_path / "state"), "--log-level", "warning")
    with serving({"p": trainer.folder}, *options, prepared=True) as server:
        soak, memory, swaps = Soak(server), Memory(server), itertools.count(1)
        with soak.running(*KINDS):
            began = time.monotonic()
            if not full:
                for step in itertools.islice(swaps, 3):
                    swap(soak, trainer, step)
                until(lambda: soak.failures or all(soak.done[kind.__name__] >= 40 for kind in KINDS), "all kinds")
            before, things = 0.0, (0, 0, 0)
            while full and time.monotonic() < began + FULL_S and not soak.failures:
                swap(soak, trainer, next(swaps))
                memory.sample()
                if not before and time.monotonic() > began + WARM_S:
                    before, things = memory.median(time.monotonic() - WINDOW_S), open_things(server)
                soak.over.wait(SWAP_EVERY_S)
            lasted = time.monotonic() - began
        assert soak.failures == []
        assert server.http.post("/action", content=GOOD).status_code == 200
        assert not any("Traceback" in line for line in server.lines)
        print(f"{lasted / 60:.1f} minutes, {next(swaps) - 1} swaps, done: {dict(soak.done)}, 0 failed")
        if full:
            after, in_the_end = memory.median(time.monotonic() - WINDOW_S), open_things(server)
            print(
                f"{before / 1024:.0f} MiB after {WARM_S / 60:.0f} minutes, {after / 1024:.0f} MiB in the end; most "
                f"{max(kib for _, kib in memory.samples) / 1024:.0f}; (processes, descriptors, threads) {things} → "
                f"{in_the_end}"
            )
            assert after <= before * 1.05
            assert in_the_end[0] == things[0]
