"""What clients do to connections, over sockets: no request is lost, and no connection costs much for long."""

import asyncio
import contextlib
import gc
import gzip
import json
import socket
import weakref
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from app.memory import resident_bytes
from app.settings import Settings
from tests.support.requests import FAST, FRAMEWORK, UPGRADES, Answer, next_answer
from tests.support.worker_in_process import TOKEN, Running, running

BODY = b'{"observation": [3, 0, 0, 0]}'
WAITS = b'{"observation": [3, 0, 0, 0], "options": {"min_train_step": 1000, "timeout_ms": %d}}'
ADMIN = f"Authorization: Bearer {TOKEN}"
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]
both_ways = pytest.mark.parametrize("way", [FAST, FRAMEWORK], ids=["fast", "framework"])


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The event loop of a worker."""
    return "asyncio", {"use_uvloop": True}


def head(path: str, length: int, *headers: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: here", f"Content-Length: {length}", *headers, "", ""]).encode()


def post(path: str, body: bytes = BODY, *headers: str) -> bytes:
    return head(path, len(body), *headers) + body


class Client:
    """A connection to a worker."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer, self._rest = reader, writer, b""

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    def abort(self) -> None:
        self._writer.transport.abort()

    def end(self) -> None:
        self._writer.write_eof()

    async def answer(self) -> Answer:
        while (found := next_answer(self._rest, False)) is None:
            more = await self._reader.read(1 << 16)
            assert more, "closed"
            self._rest += more
        self._rest = found[1]
        return found[0]

    async def rest(self) -> bytes:
        """All that comes until the connection is closed."""
        return self._rest + await self._reader.read()

    async def close(self) -> None:
        if self._writer.transport.get_write_buffer_size():  # nobody reads it
            self._writer.transport.abort()
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


class Clients:
    """Opens them, and closes all of them at the end."""

    def __init__(self, worker: Running, stack: contextlib.AsyncExitStack) -> None:
        self.worker, self._stack = worker, stack

    async def open(self, **how: Any) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.worker.port, **how))
        self._stack.push_async_callback(client.close)
        return client

    def socket(self) -> socket.socket:
        opened = socket.socket()
        self._stack.callback(opened.close)
        return opened

    async def works(self) -> None:
        """A neighbour is answered."""
        client = await self.open()
        await client.send(post("/action"))
        assert (await client.answer()).status == 200
        await client.close()


@contextlib.asynccontextmanager
async def clients(**settings: Any) -> AsyncIterator[Clients]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        async with running(monkeypatch, **settings) as worker, contextlib.AsyncExitStack() as stack:
            yield Clients(worker, stack)


@pytest.fixture
def no_garbage_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # the test's own limit ends it
        await asyncio.sleep(0.01)


@both_ways
@pytest.mark.parametrize("upgrade", UPGRADES)
async def test_a_wish_for_another_protocol_is_ignored(upgrade: str, way: str) -> None:
    headers = UPGRADES[upgrade]

    async with clients() as there:
        client = await there.open()
        admin = "/admin/policies/echo"
        await client.send(
            post("/action" + way, BODY, *headers)
            + post(f"{admin}/reload{way}", b'{"checkpoint": "seven"}', ADMIN, *headers)
            + post(f"{admin}/pause{way}", b'{"mode": "reject"}', ADMIN, *headers)
            + post("/action" + way)
        )
        answers = [await client.answer() for _ in range(4)]
        assert [answer.status for answer in answers] == [200] * 4
        assert json.loads(answers[0].body)["action"] == json.loads(answers[3].body)["action"] == 3
        assert there.worker.control.calls == [("reload", "echo", "seven"), ("pause", "echo", "reject")]


async def test_a_websocket_gets_an_answer_in_http_and_does_not_hold_the_server() -> None:
    async with clients() as there:
        for path, status in (("/action", 405), ("/livez", 200), ("/nowhere", 404)):
            client = await there.open()
            lines = [f"GET {path} HTTP/1.1", "Host: here", *UPGRADES["websocket"], "", ""]
            await client.send("\r\n".join(lines).encode())
            assert (await client.answer()).status == status
        stopping = asyncio.create_task(there.worker.worker._http.stop())
        assert await client.rest() == b""
        await asyncio.wait_for(stopping, 10)


@pytest.mark.parametrize("first", [FAST, FRAMEWORK], ids=["fast", "framework"])
@pytest.mark.parametrize("second", [FAST, FRAMEWORK], ids=["fast", "framework"])
async def test_a_request_ahead_of_its_turn_that_closes_is_answered_too(first: str, second: str) -> None:
    async with clients() as there:
        client = await there.open()
        other = b'{"observation": [4, 0, 0, 0]}'
        await client.send(
            post("/action" + first) + post("/action" + second, other, "Connection: close") + post("/action")
        )
        assert [json.loads((await client.answer()).body)["action"] for _ in range(2)] == [3, 4]
        assert await client.rest() == b""
        assert there.worker.engine.seen == [3, 4]  # what is sent behind the last one is not done


@both_ways
async def test_a_client_that_ends_its_side_gets_its_answers(way: str) -> None:
    async with clients() as there:
        client = await there.open()
        await client.send(post("/action" + way) * 30)
        client.end()
        assert (await client.rest()).count(b" 200 OK") == 30
        assert len(there.worker.engine.seen) == 30


@both_ways
async def test_a_client_that_ends_its_side_and_waits_long_is_distinguished_from_one_that_has_gone(way: str) -> None:
    async with clients() as there:
        client = await there.open()
        await client.send(post("/action" + way, WAITS % 1500))
        client.end()
        rest = await client.rest()
        assert rest.startswith(b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 409")


@both_ways
async def test_closed_connections_keep_nothing(way: str) -> None:
    """Requests that wait for ten minutes, with one or many behind them, each left by its client."""

    async with clients() as there:
        for behind in (0, 1, 3000):
            for _ in range(60):
                client = await there.open()
                client.write(post("/action" + way, WAITS % 600_000) * (1 + behind))
                if behind < 3000:
                    await client.close()
                else:  # not all of it is read, so that the end of it is not seen
                    await asyncio.sleep(0.01)
                    client.abort()
            await until(lambda: not there.worker.connections)
        assert there.worker.engine.seen == []
        await there.works()


@both_ways
async def test_a_request_that_stops_coming_is_refused_and_closed(way: str) -> None:
    async with clients(client_timeout_s=1) as there:
        halves = {
            b"POST /action": b"head",
            head("/action" + way, 100): b"body",
            head("/action" + way, 100) + b"{": b"body",
            b"POST /action HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n": b"body",
        }
        waiting = [(await there.open(), part) for part in halves.values()]
        for (client, _), half in zip(waiting, halves, strict=True):
            await client.send(half)
        for client, part in waiting:
            answer = await client.answer()
            assert answer.status == 408
            assert b"connection: close" in answer.fields
            assert part in answer.body
            assert await client.rest() == b""


@both_ways
async def test_a_body_that_comes_drop_by_drop_is_not_waited_for(way: str) -> None:
    async with clients(client_timeout_s=1) as there:
        client = await there.open()
        await client.send(head("/action" + way, 10**5))

        async def drip() -> None:
            while True:
                await client.send(b" ")
                await asyncio.sleep(0.05)

        dripping = asyncio.create_task(drip())
        assert (await client.answer()).status == 408
        dripping.cancel()


async def test_an_idle_connection_is_closed_when_the_setting_says() -> None:
    async with clients(keep_alive_s=1) as there:
        silent, used = await there.open(), await there.open()
        started = asyncio.get_running_loop().time()
        await used.send(post("/action"))
        await used.answer()
        assert await used.rest() == await silent.rest() == b""
        assert asyncio.get_running_loop().time() - started > 0.8
    assert Settings(()).keep_alive_s > 60  # load balancers keep theirs for 60 s, and have to be the first to close


@both_ways
async def test_unfinished_bodies_have_a_bound_together_and_small_requests_pass(way: str) -> None:
    async with clients(body_limit_bytes=2**20, buffered_limit_bytes=2**21) as there:
        large = [await there.open() for _ in range(6)]
        for client in large:
            await client.send(head("/action" + way, 2**20) + b" " * (2**20 - 1))
        refused = []
        for client in large:
            with contextlib.suppress(TimeoutError):
                refused.append(await asyncio.wait_for(client.answer(), 0.5))
        assert len(refused) >= 4
        assert {answer.status for answer in refused} == {429}
        assert b"retry-after: 1" in refused[0].fields
        assert b"connection: close" in refused[0].fields
        assert there.worker.unfinished_bytes <= 2**21
        await there.works()
        for client in large:
            await client.close()
        await until(lambda: there.worker.unfinished_bytes == 0)


async def test_what_is_sent_far_ahead_is_not_read() -> None:
    async with clients() as there:
        client = await there.open()
        await client.send(post("/action", WAITS % 600_000))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(client.send(post("/action") * 10**6), 0.5)
        (connection,) = there.worker.connections
        assert len(connection._ahead) < 2**20
        await there.works()


@both_ways
async def test_answers_that_nobody_reads_stop_the_requests_behind_them_and_then_the_connection(way: str) -> None:
    async with clients(client_timeout_s=1) as there:
        sock = there.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", there.worker.port))
        sock.setblocking(False)
        rows = json.dumps({"observation": [[1.5, 0, 0, 0]] * 20_000}).encode()
        sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(sock, post("/action" + way, rows) * 200))
        await until(lambda: len(there.worker.connections) == 1)
        await until(lambda: not there.worker.connections)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        assert 1 <= len(there.worker.engine.seen) / 20_000 < 150
        await there.works()


@both_ways
async def test_answers_that_are_read_slowly_all_come(way: str) -> None:
    async with clients() as there:
        client = await there.open(limit=2**10)
        rows = json.dumps({"observation": [[1.5, 0, 0, 0]] * 20_000}).encode()
        sending = asyncio.create_task(client.send(post("/action" + way, rows) * 25))
        await asyncio.sleep(0.1)
        for _ in range(25):
            answer = await client.answer()
            assert answer.status == 200
            assert len(json.loads(answer.body)["action"]) == 20_000
        await sending


@both_ways
@pytest.mark.usefixtures("no_garbage_collector")
async def test_a_closed_connection_is_freed_without_the_garbage_collector(way: str) -> None:
    async with clients() as there:
        await there.works()
        gc.collect()
        client = await there.open()
        await client.send(post("/action" + way) + head("/action" + way, 2**20) + b" " * 2**19)
        await client.answer()
        await until(lambda: there.worker.unfinished_bytes >= 2**19)
        (connection,) = there.worker.connections
        gone = weakref.ref(connection)
        del connection
        await client.close()
        await until(lambda: gone() is None)


@both_ways
async def test_memory_of_bodies_that_were_left_goes_back_to_the_system(way: str) -> None:
    async with clients(body_limit_bytes=2**26) as there:
        await there.works()
        before = resident_bytes()
        piece = b" " * 2**20
        for _ in range(8):
            client = await there.open()
            await client.send(head("/action" + way, 2**26))
            for _ in range(40):
                await client.send(piece)
            await client.close()
        await until(lambda: there.worker.unfinished_bytes == 0 and resident_bytes() - before < 30 * 2**20)


@both_ways
async def test_what_was_sent_before_the_server_stops_is_answered(way: str) -> None:
    async with clients() as there:
        known, fresh = [await there.open() for _ in range(5)], [await there.open() for _ in range(5)]
        for client in known:
            await client.send(post("/action" + way))
            await client.answer()
        silent = await there.open()
        for client in known + fresh:
            await client.send(post("/action" + way) * 3)
        stopping = asyncio.create_task(there.worker.worker._http.stop())
        for client in known + fresh:
            rest = await client.rest()
            assert rest.count(b" 200 OK") == 3
            assert rest.count(b"connection: close") <= 1
        assert await silent.rest() == b""
        await stopping


@both_ways
@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("gzip", gzip.compress(BODY, mtime=0)),
        ("X-GZIP", gzip.compress(BODY, mtime=0)),
        ("gzip", gzip.compress(BODY[:9], mtime=0) + gzip.compress(BODY[9:], mtime=0)),
        ("deflate", zlib.compress(BODY)),
        ("deflate", zlib.compress(BODY, wbits=-15)),
        ("identity", BODY),
        ("identity, gzip", gzip.compress(BODY, mtime=0)),
        ("", BODY),
    ],
)
async def test_encoded_bodies_are_decoded(encoding: str, data: bytes, way: str) -> None:
    async with clients() as there:
        client = await there.open()
        await client.send(post("/action" + way, data, f"Content-Encoding: {encoding}"))
        assert json.loads((await client.answer()).body)["action"] == 3
        chunked = b"POST /action%b HTTP/1.1\r\nContent-Encoding: %b\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in data)
        await client.send(chunked % (way.encode(), encoding.encode()) + chunks + b"0\r\n\r\n")
        assert json.loads((await client.answer()).body)["action"] == 3


@pytest.mark.parametrize(
    ("path", "limit"), [("/action", 2**20), ("/admin/policies/echo/pause", 2**16)], ids=["data", "admin"]
)
async def test_what_is_not_decoded_is_refused_with_the_reason(path: str, limit: int) -> None:
    async with clients(body_limit_bytes=2**20) as there:
        client = await there.open()
        cut, bomb = gzip.compress(BODY, mtime=0)[:-3], gzip.compress(b" " * (limit + 1))
        for encoding, data, status, reason in (
            ("zstd", BODY, 415, b"zstd"),
            ("gzip, br", BODY, 415, b"gzip, br"),
            ("gzip", BODY, 400, b"gzip"),
            ("gzip", cut, 400, b"gzip"),
            ("deflate", zlib.compress(BODY) + b"more", 400, b"deflate"),
            ("deflate", b"\xff" + BODY, 400, b"deflate"),
            ("gzip", bomb, 413, b"decoded"),
            ("deflate", zlib.compress(b" " * (limit + 1)), 413, b"decoded"),
        ):
            assert len(data) < limit
            await client.send(post(path, data, ADMIN, f"Content-Encoding: {encoding}"))
            answer = await client.answer()
            assert answer.status == status
            assert reason in answer.body
            assert (b"accept-encoding: gzip, deflate" in answer.fields) is (status == 415)
        await client.send(post(path, gzip.compress(b"{}"), ADMIN, "Content-Encoding: gzip"))
        assert (await client.answer()).status == (422 if path == "/action" else 200)


async def test_decoding_leaves_the_event_loop_to_others() -> None:
    async with clients(body_limit_bytes=2**26) as there:
        bombs = [await there.open() for _ in range(2)]
        data = gzip.compress(b" " * (2**26 + 1))
        for client in bombs:
            await client.send(post("/action", data, "Content-Encoding: gzip"))
        answered = 0
        statuses = asyncio.gather(*(client.answer() for client in bombs))
        while not statuses.done():
            await there.works()
            answered += 1
        assert {answer.status for answer in statuses.result()} == {413}
        assert answered >= 10
