"""The load generator against small servers whose faults are known."""

import asyncio
import itertools
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from bench import BenchError
from bench.harness.load import HTTP2_PREFACE, Generator, generator, grpc_frames, request_bytes

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
Answer = Callable[[int], tuple[float, bytes]]
Start = Callable[..., int]


def http(status: str, body: bytes = b'{"version":"a"}', head: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{head}\r\n".encode() + body


class Toy(asyncio.Protocol):
    """Answers request number n as `answer` says: after so many seconds, in which nothing else happens, and what."""

    def __init__(self, answer: Answer, numbers: Iterator[int]) -> None:
        self.answer, self.numbers = answer, numbers

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert data.endswith(b'\r\n\r\n{"a": 1}')
        stall_s, answer = self.answer(next(self.numbers))
        threading.Event().wait(stall_s)
        if answer:
            self.transport.write(answer)
        else:
            self.transport.close()


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Generator:
    return generator(tmp_path_factory.mktemp("load"), "/action", b'{"a": 1}')


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a server that answers so in a thread, and returns its port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    servers = []

    async def listen(answer: Answer, kind: type[Toy]) -> int:
        numbers = iter(range(10**9))
        server = await loop.create_server(lambda: kind(answer, numbers), "127.0.0.1", 0, backlog=1024)
        servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def close() -> None:
        for server in servers:
            server.close()
        await asyncio.sleep(0.1)  # the connections of a run that has ended are closed by now

    yield lambda answer, kind=Toy: asyncio.run_coroutine_threadsafe(listen(answer, kind), loop).result()
    asyncio.run_coroutine_threadsafe(close(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.mark.parametrize(("most", "used"), [(4, range(4, 5)), (512, range(50, 513))])
def test_latency_counts_from_when_a_request_was_due(load: Generator, start: Start, most: int, used: range) -> None:
    """A stall of 0.4 s in 2 s delays a fifth of all requests: the longest by 0.4 s, the slowest tenth by 0.2 s.

    What is due meanwhile goes out on connections of its own, or waits where there may be no more of them.
    """
    port = start(lambda n: (0.4 if n == 150 else 0, http("200 OK")))
    found = load.run(port, 2, 4, rate=300, most=most)
    assert found.requests == 600
    assert found.failures == 0
    assert found.max_ms > 380
    assert found.p90_ms > 150
    assert found.connections in used


def test_other_statuses_and_lost_connections_are_failures(load: Generator, start: Start) -> None:
    bad = {
        10: http("500 Internal Server Error"),
        20: http("429 Too Many Requests"),
        30: b"",
        40: b"HTTP/1.1 200\r\n\r\n",
    }
    port = start(lambda n: (0, bad.get(n, http("200 OK"))))
    found = load.run(port, 0.5, 4, rate=200)
    assert found.requests == 100
    assert found.failures == 4
    assert found.statuses == {"200": 96, "429": 1, "500": 1}


def test_latencies_of_what_is_turned_away_are_kept_apart(load: Generator, start: Start) -> None:
    port = start(lambda n: (0.1, http("200 OK")) if n % 2 else (0, http("429 Too Many Requests")))
    found = load.run(port, 2, 1)
    assert found.statuses["429"] == found.failures > 1
    assert 0 < found.refused_p50_ms < found.p50_ms
    assert found.p50_ms >= 100
    assert load.run(start(lambda n: (0, http("200 OK"))), 0.2, 1).refused_p99_ms == -1


def test_several_requests_take_turns(load: Generator, start: Start, tmp_path: Path) -> None:
    """And a request may be larger than what a socket takes at once."""
    sizes = []

    class Counting(Toy):
        """Each request has its own size in its head."""

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.seen = b""

        def data_received(self, data: bytes) -> None:
            self.seen += data
            head, separator, body = self.seen.partition(b"\r\n\r\n")
            if separator and len(body) == int(head.rpartition(b" ")[2]):
                sizes.append(len(body))
                self.seen = b""
                self.transport.write(http("200 OK"))

    files = []
    for size in (3, 5_000_000, 7):
        files.append(tmp_path / str(size))
        files[-1].write_bytes(request_bytes("/action", b"x" * size))
    found = Generator(load.program, tuple(files)).run(start(lambda n: (0, b""), Counting), 3, 1)
    assert found.failures == 0
    assert len(sizes) > 3
    assert sizes == ([3, 5_000_000, 7] * len(sizes))[: len(sizes)]


def test_a_rate_that_is_not_reached_is_reported(load: Generator, start: Start) -> None:
    port = start(lambda n: (0.01, http("200 OK")))
    found = load.run(port, 1, 4, rate=300)
    assert not found.reached
    assert found.rate < 120
    assert found.requests == 300
    assert found.failures == 0  # they were answered, late


def test_a_closed_loop_finds_the_largest_load(load: Generator, start: Start) -> None:
    port = start(lambda n: (0.005, http("200 OK")))
    found = load.run(port, 1, 4)
    assert found.rate < 205
    assert found.p50_ms > 15  # four take turns
    assert found.connections == 4


def test_versions_are_reported_in_their_order_and_connections_that_the_server_closes_are_no_failure(
    load: Generator, start: Start
) -> None:
    def answer(n: int) -> tuple[float, bytes]:
        body = b'{"action":1,"version":"%03d"}' % (n // 10)
        return 0, http("200 OK", body, "Connection: close\r\n" if n % 7 == 0 else "")

    found = load.run(start(answer), 0.5, 4, rate=100)
    assert found.versions == ["000", "001", "002", "003", "004"]
    assert found.failures == 0


def test_nobody_listening_is_reported(load: Generator) -> None:
    with pytest.raises(BenchError, match="refused"):
        load.run(9, 1, 1)


def test_a_missing_compiler_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchError, match="no C compiler"):
        generator(tmp_path, "/", b"")


def test_calls_of_grpc_are_made_one_after_the_other_and_refused_ones_are_failures(
    load: Generator, tmp_path: Path
) -> None:
    """More of them on one connection than its window of bytes has room for: 64 KiB."""
    numbers, seen = itertools.count(), set()

    def answer(message: bytes, context: Any) -> bytes:
        seen.add(message)
        if next(numbers) % 10 == 9:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no room")
        return b"y" * 1000

    calls = {"Ask": grpc.unary_unary_rpc_method_handler(answer)}
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("toy.Toy", calls),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    request, preface = tmp_path / "request", tmp_path / "preface"
    request.write_bytes(grpc_frames("/toy.Toy/Ask", b"x" * 1000))
    preface.write_bytes(HTTP2_PREFACE)
    found = Generator(load.program, (request,), preface=preface).run(port, 3, 2)
    server.stop(None).wait()
    assert seen == {b"x" * 1000}
    assert found.requests > 200
    assert found.statuses == {"200": found.requests - found.requests // 10, "500": found.requests // 10}
    assert found.failures == found.requests // 10
