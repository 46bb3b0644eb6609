"""One request and its answer, from its body to the bytes of its response: for the fast path and the framework alike."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple, Protocol

from fastapi import Response

from app.api.body_bytes import BodyBuffer
from app.api.problems import kind_of, problem_response, status_of
from app.batching.rule import Result
from app.dialects.calls import LargeForeignRequest
from app.errors import BodyTooLarge, ClientGone, NotJson
from app.inference.policy import Policy
from app.inference.request_parser import LargeRequest, PendingRequest
from app.inference.service import Service
from app.metrics import DataMetrics
from app.sessions.memory_step import LargeMemoryStep
from app.sessions.record import Answer
from app.wire.codecs import Codec
from app.wire.limits import SMALL_BYTES

# Their answers take long to write.
_LARGE = (LargeRequest, LargeForeignRequest, LargeMemoryStep)


class Large(NamedTuple):
    """How a large body is read: `at_once` within a few milliseconds, else by `parse` in a thread and `asks` after it.

    `limit`: the most bytes that it may have.
    """

    service: Service
    limit: int
    at_once: Callable[[bytes], PendingRequest | Answer | None]
    parse: Callable[[bytes], Any]
    asks: Callable[[Any], PendingRequest | Answer]


class Receiver(Protocol):
    """Takes the answer of a request: the connection that it came on, or the endpoint that awaits it."""

    def write_answer(self, media_type: bytes, body: bytes) -> None:
        """Takes an answer with status 200."""

    def write_response(self, response: Response) -> None:
        """Takes any other answer."""


class Cycle:
    """One request and its answer, which is counted. Subclasses set the attributes, and ask.

    `gone`: the client has closed the connection. `over`: the answer was sent. `alone`: the request came whole, by
    itself. `asked`: it was gathered with others (see `app.api.gathering`). `waiting`: what is under way beside the
    batcher.
    """

    gone = False
    over = False
    alone = False
    asked = False
    waiting: asyncio.Task[None] | None = None
    _pending: PendingRequest | None = None
    _metrics: DataMetrics
    _receiver: Receiver
    _started: float

    def ask(self, service: Service, body: bytes, now: float) -> None:
        """Has the request in `body` answered; the receiver gets the answer. `now`: on the event loop's clock."""
        raise NotImplementedError

    def done(self) -> bool:
        """See `Waiter`."""
        return self.over or self.gone

    def give_up(self) -> None:
        """Abandons the request: the client has closed the connection, perhaps before the end of its body."""
        if not self.done():
            asked = self.asked or self._pending is not None or self.waiting is not None
            error = ClientGone() if asked else NotJson()
            self._metrics.failed(kind_of(error))
            self._count(status_of(error))
        self.gone = True
        self._pending = None
        if self.waiting is not None:
            self.waiting.cancel()

    def set_exception(self, error: Exception) -> None:
        """See `Waiter`."""
        self._metrics.failed(kind_of(error))
        self._respond(self._problem(error))

    def _problem(self, error: Exception) -> Response:
        return problem_response(error)

    def _respond(self, response: Response) -> None:
        self._end(response.status_code)
        self._receiver.write_response(response)

    def _end(self, status: int) -> None:
        self.over = True
        # Its job refers to this cycle, which would keep the arrays in memory until the garbage collector runs.
        self._pending = None
        self._count(status)

    def _count(self, status: int) -> None:
        self._metrics.answered(status, perf_counter() - self._started)


class RequestCycle(Cycle):
    """One request that the batcher answers: the waiter of its job."""

    def __init__(self, route: Route, receiver: Receiver) -> None:
        self.route = route
        self._metrics = route.metrics
        self._receiver = receiver
        self._started = perf_counter()

    def ask(self, service: Service, body: bytes, now: float) -> None:
        """See `Cycle`."""
        try:
            gathers = self.route.gathers
            if gathers is not None and self.alone and gathers(self, body, now):
                return
            if len(body) <= SMALL_BYTES:
                self._put(service, self.route.read(body), now)
            else:
                self._ask_large(service, body, now)
        except Exception as error:
            self.set_exception(error)

    def _put(self, service: Service, pending: PendingRequest | Answer, now: float) -> None:
        if isinstance(pending, Answer):
            self.answer(pending.body)
            return
        self._pending = pending
        if service.waits(pending):
            self.waiting = asyncio.get_running_loop().create_task(self._wait(service, pending))
        else:
            service.submit(pending, self, now, self.alone)

    def _ask_large(self, service: Service, body: bytes, now: float) -> None:
        limit = self.route.large.limit
        if len(body) > limit:  # one after another that was smaller, with the same head
            raise BodyTooLarge(f"the body has {len(body)} bytes, at most {limit} are read")
        pending = self.route.large.at_once(body)
        if pending is not None:
            self._put(service, pending, now)
        else:
            self.waiting = asyncio.get_running_loop().create_task(self._read_elsewhere(service, body, now))

    async def _read_elsewhere(self, service: Service, body: bytes, now: float) -> None:
        try:
            parsed = await service.offload.run(len(body), self.route.large.parse, body)
            self.alone = False  # its turn is over, and perhaps its deadline
            self._put(service, self.route.large.asks(parsed), now)
        except Exception as error:
            self.set_exception(error)

    async def _wait(self, service: Service, pending: PendingRequest) -> None:
        """Awaits the answer, once weights are new enough."""
        try:
            result = await service.answered(pending)
        except Exception as error:
            self.set_exception(error)
        else:
            self.set_result(result)

    def set_result(self, result: Result) -> None:
        """See `Waiter`."""
        pending = self._pending
        assert pending is not None
        try:
            if type(pending) in _LARGE:
                self.waiting = asyncio.get_running_loop().create_task(self._write_elsewhere(pending, result))
                return
            body = pending.answer(result, self.route.writes)
        except Exception as error:
            self.set_exception(error)
            return
        self.answer(body)

    async def _write_elsewhere(self, pending: PendingRequest, result: Result) -> None:
        try:
            body = pending.kept(await self.route.large.service.write_elsewhere(pending, result, self.route.writes))
        except Exception as error:
            self.set_exception(error)
        else:
            self.answer(body)

    def answer(self, body: bytes) -> None:
        """Sends an answer, with status 200."""
        self.over, self._pending = True, None
        self._receiver.write_answer(self.route.writes.header, body)
        self._metrics.answered(200, perf_counter() - self._started)  # it has left, or leaves with others


class FastPathCycle(RequestCycle):
    """A request that the fast path answers."""

    received = 0
    _buffer: BodyBuffer | None = None

    @property
    def buffered_bytes(self) -> int:
        """Bytes of the body that are in memory."""
        return self.received

    unread_body_bytes = 0
    takes_interim = True

    def receive(self, piece: bytes) -> None:
        """Keeps a piece of the body."""
        self.received += len(piece)
        if self._buffer is None:
            self._buffer = BodyBuffer()
        self._buffer.add(piece)

    def body(self) -> bytes:
        """Returns the whole body; to be called once."""
        self.received = 0
        buffer, self._buffer = self._buffer, None
        return b"" if buffer is None else buffer.take()

    def refuse(self, error: Exception) -> None:
        """Answers with an error of the connection's."""
        self._buffer = None
        if not self.done():
            self.set_exception(error)

    def give_up(self) -> None:
        """Gives up the request: the connection is closed."""
        self._buffer = None
        super().give_up()


class Route(NamedTuple):
    """How requests with one path and the same headers are answered.

    `read`: a body → the pending request, or its answer at once. `cycle`: makes that of a request on its connection.
    `target`: path and route as traces have them, where requests are traced. `gathers`: takes a request that is read
    with others of its turn, and returns whether it does; its time on the event loop's clock comes last.
    """

    read: Callable[[bytes], PendingRequest | Answer]
    writes: Codec
    metrics: DataMetrics
    large: Large
    cycle: Callable[[Route, Receiver], FastPathCycle] = FastPathCycle
    target: tuple[str, str] = "", ""
    gathers: Callable[[RequestCycle, bytes, float], bool] | None = None


def data_route(service: Service, policy: Policy, name: str, metrics: DataMetrics, reads: Codec, writes: Codec) -> Route:
    """Makes the route of a policy's action, distribution or initial state, for bodies and answers in these codecs."""
    parser = service.parser
    large = Large(
        service,
        policy.body_limit(name, reads),
        partial(parser.at_once, policy, name, reads),
        partial(parser.large, policy, name, reads),
        lambda request: request,
    )
    return Route(partial(parser.readers[name], policy, reads), writes, metrics, large)
