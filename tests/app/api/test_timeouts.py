"""When a connection is checked, and what for."""

import asyncio
import math
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from app.api import timeouts
from app.api.timeouts import HalfCloseCheck, Timeouts

pytestmark = pytest.mark.anyio
PERIOD_S = 0.02


class Connection:
    """A connection as the checks see it; `acts` is what they did to it."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.shared: Any = SimpleNamespace(keep_alive_s=PERIOD_S, client_timeout_s=PERIOD_S)
        self.transport: Any = SimpleNamespace(get_extra_info=lambda _: None)
        self.closing = self.has_ended = self.is_paused = False
        self.cycle: Any = None
        self.acts: asyncio.Queue[Any] = asyncio.Queue()
        self.due_s, self.unread = math.inf, 0

    def due(self) -> float:
        return self.due_s

    def time_out(self) -> None:
        self.acts.put_nowait("time out")

    def unread_bytes(self) -> int:
        return self.unread

    def write(self, data: bytes) -> None:
        self.acts.put_nowait(data)

    def abort(self) -> None:
        self.acts.put_nowait("abort")


async def test_a_connection_times_out_when_it_is_due_and_not_before() -> None:
    connection = Connection()
    started = connection.loop.time()
    connection.due_s = started + 3 * PERIOD_S
    checks = Timeouts(connection)
    assert await connection.acts.get() == "time out"
    assert connection.loop.time() >= connection.due_s
    checks.cancel()


async def test_a_closing_connection_is_given_up_once_nothing_more_of_it_is_read() -> None:
    connection = Connection()
    connection.closing, connection.unread = True, 1000
    checks = Timeouts(connection)
    connection.loop.call_later(PERIOD_S * 1.5, setattr, connection, "unread", 500)
    started = connection.loop.time()
    assert await connection.acts.get() == "abort"
    assert connection.loop.time() - started > 2 * PERIOD_S  # it went on while something was read
    checks.cancel()


async def test_a_check_that_was_cancelled_does_nothing_and_keeps_no_connection() -> None:
    connection = Connection()
    connection.due_s = 0.0
    checks = Timeouts(connection)
    checks.cancel()
    await asyncio.sleep(2 * PERIOD_S)
    assert connection.acts.empty()
    assert not hasattr(checks, "_connection")


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeouts, "CHECK_AFTER_S", 0.001)
    monkeypatch.setattr(timeouts, "_REFUSED_AFTER_S", 0.001)


@pytest.mark.usefixtures("at_once")
async def test_a_client_that_has_ended_its_side_is_sent_an_interim_response() -> None:
    connection = Connection()
    connection.has_ended, connection.cycle = True, SimpleNamespace(takes_interim=True)
    check = HalfCloseCheck(connection)
    check.check_after(0)
    assert (await connection.acts.get()).startswith(b"HTTP/1.1 102 ")
    check.cancel()


@pytest.mark.usefixtures("at_once")
async def test_a_client_of_http_1_0_is_given_up_after_a_while() -> None:
    connection = Connection()
    connection.has_ended, connection.cycle = True, SimpleNamespace(takes_interim=False)
    check = HalfCloseCheck(connection)
    check.check_after(0)
    assert await connection.acts.get() == "abort"


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("why", ["no request", "nothing ended"])
async def test_nothing_is_sent_where_nothing_waits_or_has_ended(why: str) -> None:
    connection = Connection()
    connection.has_ended = why == "no request"
    connection.cycle = None if why == "no request" else SimpleNamespace(takes_interim=True)
    check = HalfCloseCheck(connection)
    check.check_after(0)
    await asyncio.sleep(0.01)
    assert connection.acts.empty()
    check.cancel()


@pytest.mark.usefixtures("at_once")
async def test_the_system_says_that_a_connection_is_closed() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    end, _ = listener.accept()
    connection = Connection()
    connection.transport = SimpleNamespace(get_extra_info=lambda _: end)
    connection.is_paused, connection.cycle = True, SimpleNamespace(takes_interim=True)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()  # with a reset
    check = HalfCloseCheck(connection)
    check._asked_at = math.inf  # so that nothing is sent
    check.check_after(0)
    assert await connection.acts.get() == "abort"
    end.close()
    listener.close()
