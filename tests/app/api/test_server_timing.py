"""Answers have `Server-Timing` where their requests ask for it, and say of a request's way what is known of it."""

import re
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import Response

from app.api import server_timing
from app.api.request_cycle import Route
from app.api.server_timing import ServerTiming, TimedCycles, is_asked, value_of, with_header
from app.batching.timing import BatchTiming, Timing, timing_of_task
from app.engine.fake import FakeEngine
from app.versions.lease import LoadedVersion, VersionInfo

pytestmark = pytest.mark.anyio
TOTAL = re.compile(rb"total;dur=\d+\.\d{3}")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What the time is for the header."""
    found = SimpleNamespace(now=10.0)
    monkeypatch.setattr(server_timing, "perf_counter", lambda: found.now)
    return found


def timing_in_batch(requests: int, rows: int) -> tuple[Timing, BatchTiming]:
    """Times of a request that waited from 10.0 s to 10.1 s, of which the engine has taken 50 ms since."""
    timing = Timing()
    timing.queued_at = 10.0
    loaded: Any = LoadedVersion(FakeEngine(), VersionInfo("v", "d", 1))
    batch = BatchTiming(loaded, [timing], requests, rows)
    batch.taken_at, batch.engine_s = 10.1, 0.05
    return timing, batch


@pytest.mark.parametrize(
    ("headers", "asked"),
    [
        ([(b"server-timing", b"?1")], True),
        ([(b"accept", b"*/*"), (b"server-timing", b" ?1 ")], True),
        ([(b"server-timing", b"?0")], False),
        ([(b"server-timing", b"1")], False),
        ([(b"server-timing", b"")], False),
        ([(b"x-server-timing", b"?1")], False),
        ([], False),
    ],
)
def test_only_a_true_asks_for_the_times(headers: list[tuple[bytes, bytes]], asked: bool) -> None:
    assert is_asked(headers) is asked


@pytest.mark.parametrize(
    ("requests", "rows", "size"),
    [(1, 1, "1 request, 1 row"), (1, 16, "1 request, 16 rows"), (3, 3, "3 requests, 3 rows")],
)
def test_a_request_that_was_answered_has_the_times_of_each_station(
    clock: SimpleNamespace, requests: int, rows: int, size: str
) -> None:
    timing, batch = timing_in_batch(requests, rows)
    batch.ended_at, clock.now = 10.175, 10.25
    assert value_of(timing, 9.999).decode() == (
        f'queue;dur=100.000, batch;dur=75.000;desc="{size}", engine;dur=50.000, total;dur=251.000'
    )


def test_a_batch_that_has_not_ended_has_taken_until_now(clock: SimpleNamespace) -> None:
    timing, _ = timing_in_batch(1, 1)
    clock.now = 10.2
    assert b"batch;dur=100.000;" in value_of(timing, 10.0)


def test_a_request_that_waits_still_has_waited_until_now(clock: SimpleNamespace) -> None:
    timing = Timing()
    timing.queued_at, clock.now = 10.0, 10.03
    assert value_of(timing, 9.98) == b"queue;dur=30.000, total;dur=50.000"


def test_a_request_that_asks_no_policy_has_a_total_alone(clock: SimpleNamespace) -> None:
    clock.now = 10.0015
    assert value_of(Timing(), 10.0) == b"total;dur=1.500"


class Receiver:
    """Notes the answers to a request."""

    client = "192.0.2.7"

    def __init__(self) -> None:
        self.answers: list[tuple[bytes, bytes]] = []
        self.responses: list[Response] = []

    def write_answer(self, media_type: bytes, body: bytes) -> None:
        self.answers.append((media_type, body))

    def write_response(self, response: Response) -> None:
        self.responses.append(response)


def route_of(made: list[tuple[Any, Any]]) -> Route:
    """One whose cycles are only noted: each with its route and its receiver."""
    large: Any = (None, 10, bytes.strip, None, bytes.strip)
    other: Any = SimpleNamespace()
    cycle: Any = lambda route, receiver: made.append((route, receiver))  # noqa: E731
    return Route(bytes.strip, other, other, large, cycle)


def test_both_kinds_of_answers_of_the_fast_path_have_the_header() -> None:
    made: list[tuple[Any, Any]] = []
    route, receiver = with_header(route_of(made)), Receiver()
    route.cycle(route, receiver)  # type: ignore[arg-type]
    ((_, seen),) = made
    seen.write_answer(b"application/json", b"{}")
    seen.write_response(Response(b"no", 422))
    ((media_type, body),) = receiver.answers
    assert media_type.startswith(b"application/json\r\nserver-timing: ")
    assert TOTAL.fullmatch(media_type.partition(b"server-timing: ")[2])
    assert body == b"{}"
    (response,) = receiver.responses
    assert TOTAL.fullmatch(response.headers["server-timing"].encode())
    assert seen.client == "192.0.2.7"


def test_times_that_are_noted_already_are_not_noted_twice() -> None:
    made: list[tuple[Any, Any]] = []
    route = route_of(made)
    timing, _ = timing_in_batch(2, 2)
    TimedCycles(route.cycle)(route, Receiver(), timing)  # type: ignore[arg-type]
    TimedCycles(route.cycle)(route, Receiver())  # type: ignore[arg-type]
    (noted, seen), (anew, _) = made
    assert noted is route
    assert anew.read is not route.read
    receiver = seen._receiver
    seen.write_answer(b"x", b"")
    assert b'desc="2 requests, 2 rows"' in receiver.answers[0][0]


class App:
    """An application that answers, or fails, and notes whose times are noted meanwhile."""

    def __init__(self) -> None:
        self.seen: list[Timing | None] = []
        self.fails = False

    async def __call__(self, _: Any, __: Any, send: Any) -> None:
        self.seen.append(timing_of_task.get())
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
        await send({"type": "http.response.body", "body": b"z"})
        if self.fails:
            raise RuntimeError("broken")


async def sent_by(app: App, headers: list[tuple[bytes, bytes]], kind: str = "http") -> list[Any]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nothing is read")

    await ServerTiming(app)({"type": kind, "headers": headers}, receive, send)
    return sent


ASKS = [(b"server-timing", b"?1")]


async def test_an_answer_of_the_framework_has_the_header_beside_its_own() -> None:
    app = App()
    start, body = await sent_by(app, ASKS)
    own, (name, value) = start["headers"]
    assert (own, name) == ((b"x", b"y"), b"server-timing")
    assert TOTAL.fullmatch(value)
    assert body == {"type": "http.response.body", "body": b"z"}
    assert isinstance(app.seen[0], Timing)


@pytest.mark.parametrize(("headers", "kind"), [([], "http"), (ASKS, "websocket")])
async def test_who_does_not_ask_gets_the_answer_as_it_is(headers: list[tuple[bytes, bytes]], kind: str) -> None:
    app = App()
    start, _ = await sent_by(app, headers, kind)
    assert start["headers"] == [(b"x", b"y")]
    assert app.seen == [None]


async def test_a_traced_request_has_its_times_noted_in_one_place() -> None:
    app, timing = App(), Timing()
    token = timing_of_task.set(timing)
    try:
        await sent_by(app, ASKS)
        assert app.seen == [timing]
        assert timing_of_task.get() is timing
    finally:
        timing_of_task.reset(token)


async def test_the_next_request_of_a_task_is_not_timed_even_behind_one_that_failed() -> None:
    app = App()
    app.fails = True
    with pytest.raises(RuntimeError, match="broken"):
        await sent_by(app, ASKS)
    assert timing_of_task.get() is None
