"""A request and its answer, for whoever takes that: counted once, and never written to a client that has gone."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import Response

from app.api.endpoint import CoroutineCycle
from app.api.request_cycle import Cycle, Large, RequestCycle, Route
from app.errors import NotJson, Overloaded
from app.offload import Offload
from app.sessions.record import Answer
from app.wire.codecs import JSON
from app.wire.limits import SMALL_BYTES

pytestmark = pytest.mark.anyio
LIMIT = 4 * SMALL_BYTES


class Taken:
    """Takes answers, and counts."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, bytes]] = []
        self.counted: list[int] = []
        self.came = asyncio.Event()

    def write_answer(self, media_type: bytes, body: bytes) -> None:
        assert media_type == JSON.header
        self._take(200, body)

    def write_response(self, response: Response) -> None:
        self._take(response.status_code, bytes(response.body))

    def failed(self, kind: str) -> None: ...

    def answered(self, status: int, seconds: float) -> None:
        assert seconds >= 0
        self.counted.append(status)

    def _take(self, status: int, body: bytes) -> None:
        self.answers.append((status, body))
        self.came.set()


class Pending:
    """A request whose answer is its result."""

    def answer(self, result: Any, _: Any) -> bytes:
        return json.dumps(result).encode()


class Submitted:
    """In the place of the service: keeps what is submitted to a policy."""

    def __init__(self) -> None:
        self.offload, self.waiters = Offload(), []
        self.alone: list[bool] = []
        self.refuses = False

    def waits(self, _: Any) -> bool:
        return False

    def submit(self, _: Any, waiter: Any, __: float, alone: bool) -> None:
        if self.refuses:
            raise Overloaded("full")
        self.waiters.append(waiter)
        self.alone.append(alone)


def cycle_of(taken: Taken, **more: Any) -> RequestCycle:
    def read(body: bytes) -> Any:
        if body == b"bad":
            raise NotJson("bad")
        return Answer(JSON.media_type, b"kept") if body == b"again" else Pending()

    service: Any = SimpleNamespace()
    large = Large(service, LIMIT, more.get("at_once", read), lambda body: body[:3], lambda _: Pending())
    metrics: Any = taken
    return RequestCycle(Route(read, JSON, metrics, large), taken)


@pytest.mark.parametrize("alone", [False, True])
async def test_an_answer_is_written_and_counted_once(alone: bool) -> None:
    taken, service = Taken(), Submitted()
    cycle = cycle_of(taken)
    cycle.alone = alone
    cycle.ask(service, b"{}", 0.0)  # type: ignore[arg-type]
    assert not cycle.done()
    service.waiters[0].set_result([1])
    assert cycle.done()
    assert (taken.answers, taken.counted) == ([(200, b"[1]")], [200])
    assert service.alone == [alone]


@pytest.mark.parametrize(
    ("body", "status"), [(b"again", 200), (b"bad", 400), (b"full", 429), (b"x" * (LIMIT + 1), 413)]
)
async def test_what_is_answered_at_once_never_waits(body: bytes, status: int) -> None:
    taken, service = Taken(), Submitted()
    service.refuses = body == b"full"
    cycle = cycle_of(taken)
    cycle.ask(service, body, 0.0)  # type: ignore[arg-type]
    assert cycle.done()
    assert [came for came, _ in taken.answers] == taken.counted == [status]
    assert not service.waiters


@pytest.mark.parametrize("alone", [False, True])
async def test_a_large_body_that_takes_long_is_read_in_a_thread_and_waits_for_its_batch(alone: bool) -> None:
    taken, service = Taken(), Submitted()
    cycle = cycle_of(taken, at_once=lambda _: None)
    cycle.alone = alone  # whatever else has come, and its deadline, by when it is read
    cycle.ask(service, b"x" * (SMALL_BYTES + 1), 0.0)  # type: ignore[arg-type]
    assert not service.waiters
    assert cycle.waiting is not None
    await cycle.waiting
    assert service.alone == [False]
    service.waiters[0].set_result([2])
    assert taken.answers == [(200, b"[2]")]
    service.offload.close()


def coroutine_cycle(taken: Taken, ends: asyncio.Event) -> CoroutineCycle:
    async def respond(body: bytes) -> Response:
        await ends.wait()
        if body == b"bad":
            raise NotJson("bad")
        return Response(body, 201)

    metrics: Any = taken
    return CoroutineCycle(respond, metrics, taken)


@pytest.mark.parametrize(("body", "status"), [(b"{}", 201), (b"bad", 400)])
async def test_a_coroutine_answers_alike(body: bytes, status: int) -> None:
    taken, ends = Taken(), asyncio.Event()
    cycle = coroutine_cycle(taken, ends)
    cycle.ask(Submitted(), body, 0.0)  # type: ignore[arg-type]
    assert not cycle.done()
    ends.set()
    await taken.came.wait()
    assert cycle.done()
    assert [came for came, _ in taken.answers] == taken.counted == [status]


@pytest.mark.parametrize("kind", ["batcher", "thread", "coroutine"])
async def test_a_request_whose_client_has_gone_is_counted_and_given_up(kind: str) -> None:
    taken, service = Taken(), Submitted()
    cycle: Cycle = coroutine_cycle(taken, asyncio.Event())
    body = b"{}"
    if kind != "coroutine":
        cycle = cycle_of(taken, at_once=lambda _: None)
        body = body if kind == "batcher" else b"x" * (SMALL_BYTES + 1)
    cycle.ask(service, body, 0.0)  # type: ignore[arg-type]
    cycle.give_up()
    cycle.give_up()
    assert cycle.done()
    if cycle.waiting is not None:
        await asyncio.wait({cycle.waiting})
        assert cycle.waiting.cancelled()
    assert (taken.answers, taken.counted) == ([], [499])
    service.offload.close()


async def test_a_client_that_goes_before_its_body_has_ended_sent_no_request() -> None:
    taken = Taken()
    cycle_of(taken).give_up()
    assert (taken.answers, taken.counted) == ([], [400])
