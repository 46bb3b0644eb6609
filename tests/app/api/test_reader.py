"""Bytes of a connection become requests, one at a time; what is sent ahead waits, and is not read without bound."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from uvicorn.server import ServerState

from app.api.connection_limits import HttpLimits, SharedLimits
from app.api.http_parser import RequestHead
from app.api.reader import SWALLOWED_BYTES, RequestReader
from app.errors import NotHttp
from app.memory import FreedMemory
from app.wire.limits import SMALL_BYTES

BUFFERED_BYTES = 2**20


class Loop:
    """An event loop whose clock and turns are the test's."""

    def __init__(self) -> None:
        self.now = 100.0
        self.soon: list[Callable[[], None]] = []

    def time(self) -> float:
        return self.now

    def call_soon(self, call: Callable[[], None]) -> None:
        self.soon.append(call)

    def call_later(self, _: float, __: Callable[[], None]) -> Any:
        return SimpleNamespace(cancel=lambda: None)

    def turn(self) -> None:
        calls, self.soon = self.soon, []
        for call in calls:
            call()


class Transport(asyncio.Transport):
    """A transport that says whether it is read from."""

    reads = True

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True


class Cycle:
    """A request under way: all of its body is unread, as long as the application does not take it."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def receive(self, piece: bytes) -> None:
        self.pieces.append(piece)

    @property
    def buffered_bytes(self) -> int:
        return sum(map(len, self.pieces))

    unread_body_bytes = buffered_bytes


class Reader(RequestReader):
    """A connection that notes its requests. `at_once`: each is answered as soon as it is complete."""

    def __init__(self, loop: Any, *, at_once: bool = False) -> None:
        super().__init__(ServerState(), loop)
        self.shared = SharedLimits(HttpLimits(buffered_bytes=BUFFERED_BYTES), FreedMemory())
        self.transport = Transport()
        self.at_once = at_once
        self.targets: list[bytes] = []
        self.bodies: list[bytes] = []
        self.alone: list[bytes] = []
        self.refused: list[Exception] = []
        self.lingered: list[bool] = []
        self.evicted = False

    def start_request(self, head: RequestHead) -> None:
        self.targets.append(head.target)
        self.cycle = Cycle()  # type: ignore[assignment]

    def request_complete(self) -> None:
        if self.cycle is not None:
            self.bodies.append(b"".join(self.cycle.pieces))  # type: ignore[union-attr]
        if self.at_once:
            self.cycle = None

    def read_alone(self, request: bytes) -> None:
        self.alone.append(request)

    def refuse(self, error: Exception) -> None:
        self.refused.append(error)
        self.closing = True

    def close(self, lingers: bool = False) -> None:
        self.lingered.append(lingers)
        self.closing = True

    def settle(self) -> None:
        if self._ahead and not self.must_wait():
            self.continue_soon()

    def evict(self) -> None:
        self.evicted = True

    def answer(self) -> None:
        """Answers the request under way; the next one follows."""
        self.cycle = None
        self.settle()
        self.loop.turn()  # type: ignore[attr-defined]


def request(number: int = 0, body: bytes = b"{}") -> bytes:
    return b"POST /%d HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (number, len(body), body)


def chunked(*chunks: bytes) -> bytes:
    text = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return b"POST /0 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n%b0\r\n\r\n" % text


def test_requests_that_were_sent_ahead_wait_for_the_answers_before_them() -> None:
    reader = Reader(Loop())
    reader.consume(b"".join(map(request, range(3))))
    assert reader.targets == [b"/0"]
    assert reader.is_waiting()
    reader.answer()
    assert reader.targets == [b"/0", b"/1"]
    reader.answer()
    assert reader.targets == [b"/0", b"/1", b"/2"]
    assert reader.bodies == [b"{}"] * 3


def test_a_client_that_does_not_read_its_answers_is_asked_for_no_more_requests() -> None:
    reader = Reader(Loop(), at_once=True)
    reader.write_paused = True
    reader.consume(request())
    assert reader.targets == []
    reader.write_paused = False
    reader.answer()
    assert reader.targets == [b"/0"]


@pytest.mark.parametrize(
    ("between", "seen"), [(b"", [16, 32, 40]), (b"\r\n", [8, 16, 24, 32, 40])], ids=["requests", "empty lines"]
)
def test_others_have_their_turn_after_sixteen_of_what_one_client_sends(between: bytes, seen: list[int]) -> None:
    reader = Reader(loop := Loop(), at_once=True)
    reader.consume(b"".join(between + request(number) for number in range(40)))
    found = [len(reader.targets)]
    while loop.soon:
        loop.turn()
        found.append(len(reader.targets))
    assert found == seen
    assert reader.targets == [b"/%d" % number for number in range(40)]


def test_others_have_their_turn_while_a_client_sends_many_chunks() -> None:
    reader = Reader(loop := Loop(), at_once=True)
    reader.consume(chunked(*[b"x" * 16_000] * 140))
    assert reader.bodies == []
    while loop.soon:
        loop.turn()
    assert reader.bodies == [b"x" * 16_000 * 140]


def test_only_a_request_that_came_whole_and_with_nothing_beside_it_came_alone() -> None:
    whole, reader = request(), Reader(Loop(), at_once=True)
    reader.consume(whole)
    assert reader.alone == [whole]
    reader.consume(whole * 2)
    reader.consume(whole[:30])
    reader.consume(whole[30:])
    reader.consume(b"\r\n" + whole)
    assert reader.alone == [whole]
    assert len(reader.bodies) == 5


def test_a_body_in_chunks_of_one_byte_is_the_body() -> None:
    reader = Reader(Loop(), at_once=True)
    reader.consume(chunked(*[bytes((letter,)) for letter in b'{"observation": 1}']))
    assert reader.bodies == [b'{"observation": 1}']


@pytest.mark.parametrize("size", [SWALLOWED_BYTES, SWALLOWED_BYTES + 1])
def test_the_rest_of_a_body_that_is_answered_already_is_read_up_to_a_bound(size: int) -> None:
    reader = Reader(Loop())
    data = request(0, bytes(size))
    head = len(data) - size
    reader.consume(data[:head])
    reader.cycle = None
    for start in range(head, len(data), 10_000):
        reader.consume(data[start : start + 10_000])
    assert reader.lingered == ([True] if size > SWALLOWED_BYTES else [])
    assert reader.bodies == []


def test_nothing_more_is_read_while_much_waits() -> None:
    reader = Reader(Loop())
    reader.consume(request() + request(1, bytes(SMALL_BYTES)))
    assert reader.is_paused
    assert not reader.transport.reads  # type: ignore[attr-defined]
    assert reader.shared.unfinished.total_bytes > SMALL_BYTES
    reader.answer()
    assert reader.targets == [b"/0", b"/1"]
    assert reader.shared.unfinished.total_bytes == 0
    assert not reader.is_paused
    assert reader.transport.reads  # type: ignore[attr-defined]


def test_a_body_that_nobody_takes_stops_the_reading_and_counts() -> None:
    reader = Reader(Loop())
    data = request(0, bytes(SMALL_BYTES + 2))
    reader.consume(data[:-2])
    assert not reader.is_paused
    reader.consume(data[-2:-1])
    assert reader.is_paused
    assert reader.shared.unfinished.total_bytes == SMALL_BYTES + 1


def test_a_request_beyond_what_all_may_take_is_given_up() -> None:
    reader = Reader(Loop())
    reader.consume(request(0, bytes(BUFFERED_BYTES + 10))[:-5])
    assert reader.evicted


def test_what_is_no_request_is_refused_and_ends_the_reading() -> None:
    reader = Reader(Loop(), at_once=True)
    reader.consume(request() + b"nothing that is HTTP\r\n\r\n" + request(1))
    assert reader.targets == [b"/0"]
    (error,) = reader.refused
    assert isinstance(error, NotHttp)
    assert str(error).startswith("this is no HTTP request: ")


def test_a_body_has_time_again_with_each_sixteen_kibibytes() -> None:
    reader = Reader(loop := Loop())
    data = request(0, bytes(40_000))
    head = len(data) - 40_000
    since = []
    for start, end in (
        (0, head),
        (head, head + 16_383),
        (head + 16_383, head + 16_384),
        (head + 16_384, head + 20_000),
    ):
        loop.now += 1
        reader.consume(data[start:end])
        since.append(reader._reading_since)
    assert since == [101, 101, 103, 103]
