"""A connection over a transport of the test's: when it is closed, and what becomes of who is still to be answered."""

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from app.http_protocol import DirectProtocol, protocol_with

REQUEST = b"POST /action HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"
IDLE_S = 0.02


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = asyncio.Event()

    def write(self, data: bytes) -> None:
        assert not self.closed.is_set()
        self.written += data

    def close(self) -> None:
        self.closed.set()

    def is_closing(self) -> bool:
        return self.closed.is_set()

    def get_extra_info(self, _: str, default: Any = None) -> Any:
        return default

    def resume_reading(self) -> None: ...

    def pause_reading(self) -> None: ...


class Held:
    """In the place of the direct way: every request is kept, to be answered by the test."""

    def __init__(self) -> None:
        self.exchanges: list[Any] = []
        self.counted: list[int] = []
        self.service = SimpleNamespace(
            read=lambda *_: SimpleNamespace(answer=lambda result, _: result),
            waits=lambda _: False,
            submit=lambda _, waiter, __: self.exchanges.append(waiter),
        )

    def way(self, path: bytes, _: Any) -> Any:
        metrics = SimpleNamespace(answered=lambda status, _: self.counted.append(status))
        return SimpleNamespace(policy=None, route="", reads=None, writes=SimpleNamespace(header=b"x"), metrics=metrics)


async def _no_app(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("nothing here is for the framework")


def connected(held: Held) -> tuple[DirectProtocol, Wire]:
    config = uvicorn.Config(_no_app, lifespan="off", log_config=None, timeout_keep_alive=IDLE_S)  # type: ignore[arg-type]
    config.load()
    protocol: Any = protocol_with(held)(config, ServerState(), {})  # type: ignore[arg-type, call-arg]
    wire = Wire()
    protocol.connection_made(wire)
    return protocol, wire


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 10))


def test_a_connection_that_is_idle_for_too_long_is_closed() -> None:
    async def test() -> None:
        held = Held()
        protocol, wire = connected(held)
        for _ in range(3):
            protocol.data_received(REQUEST)
            held.exchanges[-1].set_result(b"an answer")
        assert wire.written.count(b"an answer") == 3
        began = asyncio.get_running_loop().time()
        await wire.closed.wait()
        assert asyncio.get_running_loop().time() - began >= IDLE_S * 0.9

    run(test)


def test_a_connection_is_not_closed_while_somebody_waits_on_it_or_is_about_to_ask() -> None:
    async def test() -> None:
        held = Held()
        protocol, wire = connected(held)
        protocol.data_received(REQUEST)
        held.exchanges[0].set_result(b"an answer")
        protocol.data_received(REQUEST[:10])
        await asyncio.sleep(2 * IDLE_S)
        protocol.data_received(REQUEST[10:])
        await asyncio.sleep(2 * IDLE_S)
        assert not wire.closed.is_set()
        held.exchanges[1].set_result(b"another")
        await wire.closed.wait()
        assert wire.written.endswith(b"another")

    run(test)


def test_who_goes_away_is_counted_and_told_nothing() -> None:
    async def test() -> None:
        held = Held()
        whole, half = connected(held)[0], connected(held)[0]
        whole.data_received(REQUEST)
        half.data_received(REQUEST[:-1])
        for protocol in (whole, half):
            protocol.connection_lost(None)
        (exchange,) = held.exchanges
        assert exchange.done()
        assert held.counted == [499, 400]

    run(test)


def test_a_server_that_stops_closes_the_connection_behind_the_answer() -> None:
    async def test() -> None:
        held = Held()
        protocol, wire = connected(held)
        protocol.data_received(REQUEST)
        protocol.shutdown()
        assert not wire.closed.is_set()
        held.exchanges[0].set_result(b"the last answer")
        assert wire.closed.is_set()
        assert b"connection: close" in wire.written

    run(test)


def test_an_answer_that_cannot_be_written_is_a_fault_and_is_told() -> None:
    async def test() -> None:
        held = Held()
        protocol, wire = connected(held)
        held.service.read = lambda *_: SimpleNamespace(answer=None)
        protocol.data_received(REQUEST)
        held.exchanges[0].set_result(b"")
        assert b"HTTP/1.1 500" in wire.written
        assert held.counted == [500]

    run(test)
