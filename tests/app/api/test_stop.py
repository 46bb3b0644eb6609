"""A worker that stops: what has arrived by then is read and answered, and so is who has not been accepted yet."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable

import pytest

from tests.app.api.test_protocol import REQUEST, Submitted
from tests.app.api.test_protocol import connected as connected_to
from tests.support.worker_in_process import Running, running

BODY = b'{"observation": [7, 0, 0, 0]}'


def post(fields: bytes = b"", body: bytes = BODY, target: bytes = b"/action", version: bytes = b"1.1") -> bytes:
    length = b"Content-Length: %d\r\n" % len(body)
    return b"POST %b HTTP/%b\r\nHost: x\r\n%b%b\r\n%b" % (target, version, length, fields, body)


CHUNKED = b"POST /action HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (
    len(BODY),
    BODY,
)
SENT = {
    "fast path": (post(), 1),
    "framework": (post(target=b"/action?"), 1),
    "HTTP/1.0": (post(version=b"1.0"), 1),
    "chunked": (CHUNKED, 1),
    "large": (post(body=BODY + b" " * 300_000), 1),
    "an upgrade": (post(b"Connection: Upgrade\r\nUpgrade: websocket\r\n"), 1),
    "two": (post() + post(target=b"/action?"), 2),
    "fifty": (post() * 50, 50),
    "get": (b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", 1),
}


pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The event loop of a worker."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
async def worker(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    async with running(monkeypatch) as worker:
        yield worker


def connected(worker: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", worker.port), 60)


async def check_answers(client: socket.socket, count: int) -> None:
    """So many whole answers of 200 come; then the connection is closed, not reset, and the last answer says so."""
    data = b""
    while piece := await asyncio.to_thread(client.recv, 1 << 16):
        data += piece
    client.close()
    assert data.count(b"HTTP/1.1 200 OK\r\n") == count, data
    *_, last = data.split(b"HTTP/1.1 200 OK\r\n")
    head, _, body = last.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower().split(b"\r\n"), head
    assert b"content-length: %d" % len(body) in head.lower().split(b"\r\n")


def stop(worker: Running, meanwhile: Callable[[], None]) -> asyncio.Task[None]:
    """Stops it; `meanwhile` is done when it is about to listen no more, and before its event loop looks again."""
    http = worker.worker._http
    end = http.shutdown

    async def shutdown(sockets: list[socket.socket] | None = None) -> None:
        meanwhile()
        await end(sockets)

    http.shutdown = shutdown  # type: ignore[method-assign]
    return asyncio.create_task(http.stop())


@pytest.mark.parametrize("ends", [False, True], ids=["open", "half-closed"])
async def test_who_is_connected_and_not_accepted_is_answered(ends: bool, worker: Running) -> None:
    clients: list[socket.socket] = []

    def ask() -> None:
        for data in [*(data for data, _ in SENT.values()), b""]:
            clients.append(connected(worker))
            clients[-1].sendall(data)
            if ends:
                clients[-1].shutdown(socket.SHUT_WR)

    stopping = stop(worker, ask)
    while not clients:
        await asyncio.sleep(0.001)
    *asking, silent = clients
    for client, (_, count) in zip(asking, SENT.values(), strict=True):
        await check_answers(client, count)
    with silent:
        assert await asyncio.to_thread(silent.recv, 10) == b""
    await asyncio.wait_for(stopping, 30)


@pytest.mark.parametrize("kind", [kind for kind in SENT if kind != "HTTP/1.0"])
async def test_what_has_arrived_on_an_open_connection_is_answered(kind: str, worker: Running) -> None:
    """It has arrived since the event loop has looked, and the time is over that the connection waits for more."""

    data, count = SENT[kind]
    with connected(worker) as client:
        client.sendall(post())
        await asyncio.to_thread(client.recv, 1 << 16)
        (connection,) = worker.connections
        connection.shutdown()
        client.sendall(data)
        connection.settle()
        stopping = asyncio.create_task(worker.worker._http.stop())
        await check_answers(client, count)
        await asyncio.wait_for(stopping, 30)


async def test_answer_is_not_the_last_while_another_request_has_arrived() -> None:
    submitted = Submitted()
    protocol, transport = connected_to(submitted)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        transport.get_extra_info = lambda name, default=None: ours if name == "socket" else default  # type: ignore[method-assign]
        protocol.data_received(REQUEST)
        protocol.shutdown()
        theirs.sendall(REQUEST)
        submitted.cycles[0].set_result(b"one")
        assert not transport.closed.is_set()
        assert b"connection: close" not in transport.written
        protocol.data_received(ours.recv(1000))
        submitted.cycles[1].set_result(b"two")
        assert transport.closed.is_set()
        assert transport.written.partition(b"one")[2].count(b"connection: close") == 1


async def test_who_has_gone_before_it_was_accepted_stops_no_stop(worker: Running) -> None:
    stays: list[socket.socket] = []

    def come_and_go() -> None:
        for sends in (b"", post(), post()[:-5], post(target=b"/action?")):
            client = connected(worker)
            client.sendall(sends)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()  # with a reset
        stays.append(connected(worker))
        stays[0].sendall(post())

    stopping = stop(worker, come_and_go)
    while not stays:
        await asyncio.sleep(0.001)
    await check_answers(stays[0], 1)
    await asyncio.wait_for(stopping, 30)
