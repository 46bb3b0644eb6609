"""A connection over a transport of the test's: when it is closed, and what becomes of who is still to be answered."""

import asyncio
import gc
import itertools
import random
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from app.api.connection_limits import HttpLimits, SharedLimits
from app.api.http_parser import HttpParser
from app.api.protocol import FastPathProtocol, protocol_with
from app.api.request_cycle import Route
from app.batching.cork import Cork
from app.errors import Unauthorized
from app.memory import FreedMemory

REQUEST = b"POST /action HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"
IDLE_S = 0.02
pytestmark = pytest.mark.anyio


class Transport:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = asyncio.Event()
        self.reading, self.ended = True, False

    def write(self, data: bytes) -> None:
        assert not self.closed.is_set()
        self.written += data

    def close(self) -> None:
        self.closed.set()

    def is_closing(self) -> bool:
        return self.closed.is_set()

    def get_extra_info(self, _: str, default: Any = None) -> Any:
        return default

    def abort(self) -> None:
        self.closed.set()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def get_write_buffer_size(self) -> int:
        return 0

    def resume_reading(self) -> None:
        self.reading = True

    def pause_reading(self) -> None:
        self.reading = False


class Submitted:
    """In the place of the fast path: every request is kept, to be answered by the test."""

    def __init__(self) -> None:
        self.cycles: list[Any] = []
        self.counted: list[int] = []
        self.bodies: list[bytes] = []
        self.heads = 0
        self.body_limit = 1000
        self.service = SimpleNamespace(
            read=self.read,
            waits=lambda _: False,
            submit=lambda _, waiter, *__: self.cycles.append(waiter),
        )

    def read(self, body: bytes) -> Any:
        self.bodies.append(body)
        return SimpleNamespace(answer=lambda result, _: result)

    def route(self, path: bytes, _: Any) -> Any:
        self.heads += 1
        metrics = SimpleNamespace(answered=lambda status, _: self.counted.append(status), failed=lambda _: None)
        writes = SimpleNamespace(header=b"x")
        large = SimpleNamespace(limit=self.body_limit, at_once=lambda body: self.service.read(body))
        return Route(lambda body: self.service.read(body), writes, metrics, large)  # type: ignore[arg-type]


class Answered(Submitted):
    """Every request is answered as soon as it is submitted."""

    def __init__(self) -> None:
        super().__init__()
        self.service.submit = lambda _, waiter, *__: waiter.set_result(b"")


async def _no_app(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("nothing here is for the framework")


def connected(submitted: Submitted, **limits: float) -> tuple[FastPathProtocol, Transport]:
    bounds = HttpLimits(**{"keep_alive_s": IDLE_S} | limits)  # type: ignore[arg-type]
    shared = SharedLimits(bounds, FreedMemory())
    return connection(protocol_with(submitted, shared, Cork()))  # type: ignore[arg-type]


def another(protocol: FastPathProtocol) -> tuple[FastPathProtocol, Transport]:
    """A second connection to the server of the first."""
    return connection(type(protocol))


def connection(protocol_of_server: Any) -> tuple[FastPathProtocol, Transport]:
    config = uvicorn.Config(_no_app, lifespan="off", log_config=None)  # type: ignore[arg-type]
    config.load()
    protocol = protocol_of_server(config, ServerState(), {})
    transport = Transport()
    protocol.connection_made(transport)
    return protocol, transport


async def test_a_connection_that_is_idle_for_too_long_is_closed() -> None:
    submitted = Submitted()
    protocol, transport = connected(submitted)
    for _ in range(3):
        began = asyncio.get_running_loop().time()
        protocol.data_received(REQUEST)
        submitted.cycles[-1].set_result(b"an answer")
    assert transport.written.count(b"an answer") == 3
    await transport.closed.wait()
    assert asyncio.get_running_loop().time() - began >= IDLE_S * 0.9


async def test_a_connection_is_not_closed_while_somebody_waits_on_it_or_is_about_to_ask() -> None:
    submitted = Submitted()
    protocol, transport = connected(submitted)
    protocol.data_received(REQUEST)
    submitted.cycles[0].set_result(b"an answer")
    protocol.data_received(REQUEST[:10])
    await asyncio.sleep(2 * IDLE_S)
    protocol.data_received(REQUEST[10:])
    await asyncio.sleep(2 * IDLE_S)
    assert not transport.closed.is_set()
    submitted.cycles[1].set_result(b"another")
    await transport.closed.wait()
    assert transport.written.endswith(b"another")


async def test_a_client_that_does_not_read_an_answer_that_was_held_back_is_asked_nothing_more() -> None:
    submitted = Submitted()
    protocol, transport = connected(submitted)
    protocol.data_received(REQUEST)
    submitted.cycles[0].set_result(b"the head is known by now")

    def answer() -> None:
        protocol.cork.expect(8, 8)
        submitted.cycles[1].set_result(b"an answer")
        transport.write = lambda _: protocol.pause_writing()

    protocol.data_received(REQUEST)
    protocol.cork.run([answer])
    protocol.data_received(REQUEST)
    assert len(submitted.cycles) == 2
    protocol.resume_writing()
    await asyncio.sleep(0)
    assert len(submitted.cycles) == 3


async def test_a_client_that_goes_away_is_counted_and_sent_nothing() -> None:
    submitted = Submitted()
    whole, half = connected(submitted)[0], connected(submitted)[0]
    whole.data_received(REQUEST)
    half.data_received(REQUEST[:-1])
    for protocol in (whole, half):
        protocol.connection_lost(None)
    (exchange,) = submitted.cycles
    assert exchange.done()
    assert submitted.counted == [499, 400]


async def test_a_server_that_stops_closes_the_connection_behind_the_answer() -> None:
    submitted = Submitted()
    protocol, transport = connected(submitted)
    protocol.data_received(REQUEST)
    protocol.shutdown()
    assert not transport.closed.is_set()
    submitted.cycles[0].set_result(b"the last answer")
    assert transport.closed.is_set()
    assert b"connection: close" in transport.written


async def test_an_answer_that_cannot_be_written_is_a_fault_and_is_reported() -> None:
    submitted = Submitted()
    protocol, transport = connected(submitted)
    submitted.service.read = lambda *_: SimpleNamespace(answer=None)
    protocol.data_received(REQUEST)
    submitted.cycles[0].set_result(b"")
    assert b"HTTP/1.1 500" in transport.written
    assert submitted.counted == [500]


def request_with(body: bytes, head: bytes = b"POST /action HTTP/1.1\r\nContent-Length: %d\r\nX: 1\r\n\r\n") -> bytes:
    return head % len(body) + body


BODIES = [b"{}", b"", b"[1, 2, 3]", b"x" * 1000, b"POST", request_with(b"{}"), b"\r\n\r\n"]


async def test_a_head_that_is_known_is_not_parsed_again() -> None:
    submitted = Submitted()
    protocol, transport = connected(submitted)
    for body in BODIES:
        protocol.data_received(request_with(body))
        submitted.cycles[-1].set_result(body)
    assert submitted.bodies == BODIES
    assert submitted.heads == 1
    assert transport.written.count(b"HTTP/1.1 200 OK") == len(BODIES)
    other = b"POST /other HTTP/1.1\r\ncontent-length:%d\r\n\r\n"
    for body in (b"other", b"the same other"):
        protocol.data_received(request_with(body, other))
        submitted.cycles[-1].set_result(b"")
    assert (submitted.bodies[-2:], submitted.heads) == ([b"other", b"the same other"], 2)
    assert [cycle.alone for cycle in submitted.cycles] == [False, *[True] * (len(BODIES) - 1), False, True]


async def test_heads_that_differ_in_their_first_line_are_parsed_once_each() -> None:
    submitted = Submitted()
    protocol, _ = connected(submitted)
    for _ in range(3):
        for number in range(5):
            protocol.data_received(request_with(b"%d" % number).replace(b"/action", b"/%d" % number))
            submitted.cycles[-1].set_result(b"")
    assert submitted.heads == 5
    assert submitted.bodies == [b"%d" % number for number in range(5)] * 3


async def test_the_head_of_another_connection_is_known_from_the_first_request_on() -> None:
    submitted = Answered()
    first, _ = connected(submitted)
    first.data_received(request_with(b"learned"))
    whole = request_with(b"12345")
    for parts in ([whole], [whole[:-5], b"12345"]):
        protocol, transport = another(first)
        for data in (*parts, request_with(b"second")):
            protocol.data_received(data)
        assert submitted.bodies[-2:] == [b"12345", b"second"]
        assert transport.written.count(b"HTTP/1.1 200 OK") == 2
    assert submitted.heads == 1
    for parts in ([whole[:9], whole[9:]], [whole[:-1], whole[-1:]], [whole + whole]):  # left to the parser
        protocol, transport = another(first)
        for data in parts:
            protocol.data_received(data)
        count = 2 if len(parts) == 1 else 1
        assert submitted.bodies[-count:] == [b"12345"] * count
        assert transport.written.count(b"HTTP/1.1 200 OK") == count


async def test_a_known_head_closes_the_connection_of_a_client_that_wants_that_alone() -> None:
    submitted = Answered()
    whole, closing = request_with(b"{}"), request_with(b"{}").replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
    first, _ = connected(submitted)
    for data in (whole, whole, closing):
        first.data_received(data)
    for data, closes in ((closing, True), (whole, False), (closing, True)):
        protocol, transport = another(first)
        protocol.data_received(data)
        assert transport.written.startswith(b"HTTP/1.1 200 OK")
        assert transport.written.count(b"connection: close\r\n") == closes
        assert (transport.closed.is_set() or transport.ended) is closes
    assert submitted.heads == 2
    stopped, transport = another(first)  # what ends a connection for another reason is not said of its client
    stopped.shutdown()
    stopped.data_received(request_with(b"{}").replace(b"\r\n", b"\r\nX-Other: 1\r\n", 1))
    assert b"connection: close\r\n" in transport.written
    protocol, transport = another(first)
    protocol.data_received(request_with(b"{}").replace(b"\r\n", b"\r\nX-Other: 1\r\n", 1))
    assert b"connection: close\r\n" not in transport.written
    assert submitted.heads == 3


LEARNED = b"POST /action HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}"


@pytest.mark.parametrize(
    "refused",
    [
        LEARNED.replace(b"Length: 2", b"Length: 2\r\nContent-Length: 7"),
        LEARNED.replace(b"POST /action HTTP/1.1", b"GET /nowhere HTTP/9.9"),
        LEARNED.replace(b"Host: h", b"Host: h\0"),
        LEARNED.replace(b"/action", b"/\1"),
    ],
)
@pytest.mark.parametrize("before", [b"", b"\n", b"\r\n", b"\r\n\r\n"])
async def test_a_head_that_was_refused_is_refused_each_time(refused: bytes, before: bytes) -> None:
    submitted = Answered()
    first, transport = connected(submitted)
    first.data_received(LEARNED)
    first.data_received(before + refused)
    assert b"HTTP/1.1 400" in transport.written
    for data in (refused, before + refused):
        protocol, transport = another(first)
        protocol.data_received(data)
        assert transport.written.startswith(b"HTTP/1.1 400")
    assert len(submitted.bodies) == 1


async def test_a_client_that_is_not_let_in_is_not_let_in_with_a_head_that_it_sent_before() -> None:
    submitted = Answered()
    route = submitted.route

    def with_token(path: bytes, headers: list[tuple[bytes, bytes]]) -> Any:
        if dict(headers).get(b"authorization") != b"mine":
            raise Unauthorized("no token")
        return route(path, headers)

    submitted.route = with_token  # type: ignore[method-assign]
    mine = LEARNED.replace(b"Host: h", b"Authorization: mine")
    for before in (b"", b"\r\n"):
        first, _ = connected(submitted)
        first.data_received(mine)
        first.data_received(before + LEARNED)
        for data in (LEARNED, LEARNED.replace(b"Host: h", b"Authorization: other")):
            protocol, transport = another(first)
            protocol.data_received(data)
            assert transport.written.startswith(b"HTTP/1.1 401")


async def test_an_empty_line_between_requests_forgets_no_head() -> None:
    submitted = Answered()
    protocol, _ = connected(submitted)
    for data in (LEARNED, b"\r\n", LEARNED, b"\r\n", LEARNED):
        protocol.data_received(data)
    assert submitted.heads == 1
    assert len(submitted.bodies) == 3


PIECES = [
    LEARNED,
    LEARNED.replace(b"/action", b"/other"),
    LEARNED.replace(b"Host: h", b"Connection: close"),
    LEARNED.replace(b"Length: 2", b"Length: 7"),
    *(before + LEARNED.replace(b"Host: h", b"Host: h\0") for before in (b"", b"\n", b"\r\n")),
    *(before + LEARNED.replace(b"h\r\n", b"h\r\nContent-Length: 7\r\n") for before in (b"", b"\n", b"\r\n")),
    b"\n" + LEARNED.replace(b"/action", b"/\1").replace(b"Host: h", b"Connection: close"),
    b"\r\n",
    b"{}{}{}{}",
]


@pytest.mark.parametrize("seed", range(5))
async def test_a_connection_is_answered_alike_whatever_others_have_sent(seed: int) -> None:
    draw = random.Random(seed)
    submitted = Answered()
    others, _ = connected(submitted)
    for _ in range(500):
        pieces = draw.choices(PIECES, k=draw.randint(1, 5))
        stream, ends = b"".join(pieces), list(itertools.accumulate(map(len, pieces)))
        cuts = {*draw.choices(ends, k=draw.randint(0, 5)), *draw.choices(range(len(stream)), k=draw.choice([0, 0, 1]))}
        sent = [stream[start:end] for start, end in itertools.pairwise(sorted({0, *cuts, len(stream)}))]
        outcomes = []
        for protocol, transport in (another(others), connected(submitted)):
            del submitted.bodies[:]
            for data in sent:
                protocol.data_received(data)
            outcomes.append((transport.written, transport.closed.is_set(), transport.ended, list(submitted.bodies)))
            protocol.connection_lost(None)
        assert outcomes[0] == outcomes[1], sent


@pytest.mark.parametrize("stop", [FastPathProtocol.shutdown, FastPathProtocol.close])
async def test_a_known_head_opens_no_connection_that_closes(stop: Callable[[FastPathProtocol], None]) -> None:
    submitted = Answered()
    first, _ = connected(submitted)
    first.data_received(request_with(b"learned"))
    protocol, transport = another(first)
    stop(protocol)
    protocol.data_received(request_with(b"late"))
    answered = stop is FastPathProtocol.shutdown  # what was sent by then
    assert transport.written.count(b"connection: close\r\n") == answered
    assert transport.closed.is_set()
    assert len(submitted.bodies) == 1 + answered


async def test_bytes_are_cut_into_requests_alike_wherever_they_are_cut() -> None:
    """A body may look like a request; a request may come in pieces, or with the beginning of the next."""

    stream = b"".join(map(request_with, BODIES))
    for size in (*range(1, 90), len(stream)):
        submitted = Answered()
        protocol, transport = connected(submitted)
        for data in (request_with(b"learned"), *(stream[i : i + size] for i in range(0, len(stream), size))):
            protocol.data_received(data)
        assert submitted.bodies == [b"learned", *BODIES]
        assert transport.written.count(b"HTTP/1.1 200 OK") == len(BODIES) + 1


async def test_a_length_that_is_none_or_too_large_is_left_to_the_parser() -> None:
    for length in (b"-2", b"+2", b"2 3", b"0x2", b"", b"99999999999999999999", b"2\r\ncontent-length: 3"):
        submitted = Submitted()
        protocol, transport = connected(submitted)
        protocol.data_received(request_with(b"{}"))
        submitted.cycles[-1].set_result(b"")
        protocol.data_received(request_with(b"{}").replace(b": 2", b": " + length))
        assert len(submitted.bodies) == 1
        assert b"HTTP/1.1 400" in transport.written
    submitted = Submitted()
    submitted.body_limit = 5
    protocol, transport = connected(submitted)
    protocol.data_received(request_with(b"{}"))
    submitted.cycles[-1].set_result(b"")
    protocol.data_received(request_with(b"123456"))
    assert submitted.heads == 2  # whoever reads the head knows the limit


async def test_a_head_is_known_only_while_no_other_request_is_under_way() -> None:
    submitted = Submitted()
    protocol, _ = connected(submitted)
    protocol.data_received(request_with(b"first"))
    submitted.cycles[-1].set_result(b"")
    protocol.data_received(request_with(b"second"))
    protocol.data_received(request_with(b"ahead of its turn"))
    assert submitted.bodies == [b"first", b"second"]
    submitted.cycles[-1].set_result(b"")
    await asyncio.sleep(0)
    assert submitted.bodies == [b"first", b"second", b"ahead of its turn"]


@pytest.fixture
def no_garbage_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_garbage_collector")
async def test_nothing_of_a_request_is_left_for_the_garbage_collector() -> None:
    """Its arrays may be large, and the collector runs seldom."""
    for end in ("answered", "failed", "left"):
        submitted = Submitted()
        protocol, _ = connected(submitted)
        jobs: list[Any] = []

        class Job:
            waiter: Any = None

        def submit(pending: Any, waiter: Any, _: float, __: bool, jobs: list[Any] = jobs) -> None:
            pending.job.waiter = waiter
            jobs.append(pending.job)

        submitted.service.read = lambda _, job=Job: SimpleNamespace(job=job(), answer=lambda *_: b"")
        submitted.service.submit = submit
        protocol.data_received(REQUEST)
        job = jobs.pop()
        gone = weakref.ref(job)
        if end == "left":
            protocol.connection_lost(None)
        elif end == "failed":
            job.waiter.set_exception(ValueError())
        else:
            job.waiter.set_result(b"")
        del job
        assert gone() is None, end


async def test_the_end_of_a_chunked_request_is_seen_wherever_it_lies() -> None:
    """No byte of the next request is taken for its own, whatever the parser looks at in one go."""
    head = b"POST /action HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"

    for size in range(16 * 1024 - 40, 16 * 1024 + 20):
        parser = HttpParser()
        chunk = b"x" * size
        data = head + b"%x\r\n%b\r\n0\r\n\r\n" % (size, chunk)
        for cut in (len(data), len(head) + 3, len(data) - 2, len(data) + 1):
            stream, body = data + REQUEST, b""
            for part in (stream[:cut], stream[cut:]):
                start = 0
                while start < len(part):
                    start = parser.feed(part, start)
                    body += b"".join(parser.pieces)
                    parser.pieces = []
                    if parser.complete:
                        assert body in (chunk, b"{}")
                        body = b""
                        parser.next()
            assert not parser.fed


async def test_a_head_that_is_known_may_come_before_its_body() -> None:
    for length, parts in (
        (5, [b"12345"]),
        (5, [b"1", b"2345"]),
        (5, [b"12345" + request_with(b"more")]),
        (2**20, [b"x" * 1000]),
        (0, []),
    ):
        submitted = Answered()
        submitted.body_limit = 2**21
        protocol, transport = connected(submitted)
        protocol.data_received(request_with(b"learned"))
        for _ in range(2):
            protocol.data_received(request_with(b"").replace(b"Length: 0", b"Length: %d" % length))
            for part in parts:
                protocol.data_received(part)
            if length == 2**20:
                protocol.data_received(b"x" * (length - 1000))
        await asyncio.sleep(0)
        wanted = {5: [b"12345"], 2**20: [b"x" * 2**20], 0: [b""]}[length]
        if len(parts) == 1 and len(parts[0]) > 5 and length == 5:
            wanted = [b"12345", b"more"]
        assert submitted.bodies == [b"learned", *wanted, *wanted]
        assert transport.written.count(b"HTTP/1.1 200 OK") == len(submitted.bodies)


async def test_a_head_that_is_known_without_its_body_is_given_up_in_time_and_with_its_server() -> None:
    for end in ("time", "stop", "end"):
        submitted = Submitted()
        protocol, transport = connected(submitted, client_timeout_s=0.05, keep_alive_s=0.05)
        protocol.data_received(REQUEST)
        submitted.cycles[0].set_result(b"")
        protocol.data_received(REQUEST[:-2])
        assert protocol._head_alone
        if end == "end":
            assert not protocol.eof_received()
        elif end == "stop":
            protocol.shutdown()
            protocol.data_received(b"{}")
            submitted.cycles[1].set_result(b"")
            assert transport.closed.is_set()
            assert transport.written.count(b"HTTP/1.1 200 OK") == 2
        else:
            while b"HTTP/1.1 408" not in transport.written:
                await asyncio.sleep(0.01)
            assert transport.ended


async def test_answers_that_are_recorded_leave_together_and_before_one_that_closes_its_connection() -> None:
    submitted, written = Submitted(), []
    (one, transport), (other, closing) = connected(submitted), connected(submitted)
    other.cork = one.cork
    one.data_received(REQUEST)
    submitted.cycles.pop().set_result(b"the first, whose head was not known")
    transport.written = b""
    for protocol, request in ((one, REQUEST), (other, REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))):
        protocol.data_received(request)

    def deliver() -> None:
        one.cork.before_sending(lambda: None)
        submitted.cycles[0].set_result(b"an answer")
        written.append(transport.written)
        submitted.cycles[1].set_result(b"the last one")
        written.append(transport.written)

    one.cork.run([deliver])
    assert written[0] == b""
    assert written[1].endswith(b"an answer")
    assert closing.written.endswith(b"the last one")
    assert closing.ended or closing.closed.is_set()
