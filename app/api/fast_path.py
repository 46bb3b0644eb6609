"""Data requests answered without the framework: no scope, no task, no middleware; one call from body to batch.

Whatever takes more than that is left to FastAPI. Both ways read, ask, answer and refuse by the same calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple, Protocol

from fastapi import Response

from app.api.access import check_bearer
from app.api.problems import problem_response, status_of
from app.api.routes.data import ROUTES, data_paths
from app.api.routes.sessions import BEGIN, STEP
from app.batching.rule import Result
from app.errors import BodyTooLarge, ClientGone, NotJson, UnknownMediaType
from app.inference.policy import Policy
from app.inference.request import LargeRequest, PendingRequest
from app.inference.service import Service
from app.metrics import DataMetrics, Metrics
from app.sessions.record import Answer
from app.sessions.sessions import LargeMemoryStep, Sessions
from app.wire.codecs import JSON, MSGPACK, Codec, reader_of, writer_of
from app.wire.limits import SMALL_BYTES

Headers = Iterable[tuple[bytes, bytes]]
# The bytes of a header are remembered with what they mean; so many kinds of clients are there at most.
_MOST_MEDIA = 64
# Their answers take long to write.
_LARGE = (LargeRequest, LargeMemoryStep)


class Route(NamedTuple):
    """What the path and the headers of a request say of it. `read`: its body → what it asks, or its answer at once."""

    read: Callable[[bytes], PendingRequest | Answer]
    writes: Codec
    metrics: DataMetrics
    large: Large


class Large(NamedTuple):
    """How a large body is read: within a few milliseconds, or in two steps, of which a thread does the first.

    `limit`: the most bytes that it may have.
    """

    service: Service
    limit: int
    at_once: Callable[[bytes], PendingRequest | Answer | None]
    parse: Callable[[bytes], Any]
    asks: Callable[[Any], PendingRequest | Answer]


class Connection(Protocol):
    """The connection that a request came on."""

    def write_answer(self, media_type: bytes, body: bytes) -> None:
        """Answers with status 200."""

    def write_response(self, response: Response) -> None:
        """Answers with anything else."""


class RequestCycle:
    """One request and its answer: the waiter for its job. `gone` is set when the client has closed the connection."""

    gone = False
    over = False
    waiting: asyncio.Task[None] | None = None
    _pending: PendingRequest | None = None

    def __init__(self, route: Route, connection: Connection) -> None:
        self.route = route
        self._connection = connection
        self._began = perf_counter()

    def ask(self, service: Service, body: bytes, now: float) -> None:
        """Submits the request that `body` holds; the connection gets its answer. `now`: on the event loop's clock."""
        try:
            if len(body) <= SMALL_BYTES:
                self._put(service, self.route.read(body), now)
            else:
                self._ask_large(service, body, now)
        except Exception as error:
            self.set_exception(error)

    def _put(self, service: Service, pending: PendingRequest | Answer, now: float) -> None:
        if isinstance(pending, Answer):
            self._answer(pending.body)
            return
        self._pending = pending
        if service.waits(pending):
            self.waiting = asyncio.get_running_loop().create_task(self._wait(service, pending))
        else:
            service.submit(pending, self, now)

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
            self._put(service, self.route.large.asks(parsed), now)
        except Exception as error:
            self.set_exception(error)

    async def _wait(self, service: Service, pending: PendingRequest) -> None:
        """For weights that are new enough."""
        try:
            result = await service.answered(pending)
        except Exception as error:
            self.set_exception(error)
        else:
            self.set_result(result)

    def give_up(self) -> None:
        """The client has closed the connection, perhaps before the end of its body."""
        if not self.done():
            self._count(status_of(ClientGone() if self._pending else NotJson()))
        self.gone = True
        self._pending = None
        if self.waiting is not None:
            self.waiting.cancel()

    def done(self) -> bool:
        """See `Waiter`."""
        return self.over or self.gone

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
        self._answer(body)

    async def _write_elsewhere(self, pending: PendingRequest, result: Result) -> None:
        try:
            body = pending.kept(await self.route.large.service.write_elsewhere(pending, result, self.route.writes))
        except Exception as error:
            self.set_exception(error)
        else:
            self._answer(body)

    def _answer(self, body: bytes) -> None:
        self._end(200)
        self._connection.write_answer(self.route.writes.header, body)

    def set_exception(self, error: Exception) -> None:
        """See `Waiter`."""
        response = problem_response(error)
        self._end(response.status_code)
        self._connection.write_response(response)

    def _end(self, status: int) -> None:
        self.over = True
        # Its job waits with this cycle: a circle, which would hold the arrays until Python looks for garbage.
        self._pending = None
        self._count(status)

    def _count(self, status: int) -> None:
        self.route.metrics.answered(status, perf_counter() - self._began)


class _Endpoint:
    """A path, with the ways of it by the values of their headers content-type and accept.

    `reader`: the codecs of a request's body and of its answer → what reads the body.
    """

    def __init__(
        self,
        reader: Callable[[Codec, Codec], Callable[[bytes], PendingRequest | Answer]],
        large: Callable[[Codec, Codec], Large],
        metrics: DataMetrics,
    ) -> None:
        self._reader = reader
        self._large = large
        self._metrics = metrics
        self.routes: dict[tuple[bytes, bytes], Route] = {}

    def route(self, media: bytes, accept: bytes) -> Route | None:
        """A new one; None where a body of this type is not read, of which the framework tells."""
        try:
            reads = reader_of(media.decode("latin-1"))
        except UnknownMediaType:
            return None
        writes = writer_of(accept.decode("latin-1"), reads)
        route = Route(self._reader(reads, writes), writes, self._metrics, self._large(reads, writes))
        if len(self.routes) < _MOST_MEDIA:
            self.routes[media, accept] = route
        return route


class FastPath:
    """Knows which requests need no framework.

    `token` guards the data routes; "" leaves them open. `crosses_origins`: browsers' requests get headers from
    middleware, and so are not for here.
    """

    def __init__(
        self,
        service: Service,
        sessions: Sessions,
        metrics: Metrics,
        *,
        token: str,
        crosses_origins: bool,
    ) -> None:
        self.service = service
        self._sessions = sessions
        self._metrics = metrics
        self._token = token
        self.body_limit = 0
        self._not_for_here = {b"expect", b"transfer-encoding", b"content-encoding"} | (
            {b"origin"} if crosses_origins else set()
        )
        self._endpoints: dict[bytes, _Endpoint] = {}
        self._sessions_of: dict[bytes, Policy] = {}
        for policy in service.policies:
            self.add(policy)

    def add(self, policy: Policy) -> None:
        """It is open from now on."""
        for route in ROUTES:
            counted = self._metrics.data(policy.name, route)
            endpoint = _Endpoint(self._reader(policy, route), self._large(policy, route), counted)
            self._endpoints |= dict.fromkeys(self._paths(route, policy), endpoint)
            self.body_limit = max(self.body_limit, *(policy.body_limit(route, codec) for codec in (JSON, MSGPACK)))
        if self._sessions.can_step_at_once:
            self._sessions_of |= dict.fromkeys(self._paths(BEGIN, policy), policy)

    def _paths(self, route: str, policy: Policy) -> list[bytes]:
        """Where a route of the policy is; that of the default one is at two places."""
        own, default = data_paths(route, policy.name)
        return [path.encode() for path in ([own, default] if policy.name == self.service.default else [own])]

    def route(self, path: bytes, headers: Headers) -> Route | None:
        """What a POST with these headers is about (names in lower case); None where the framework has to see it."""
        endpoint = self._endpoints.get(path) or self._session_endpoint(path)
        if endpoint is None:
            return None
        length, media, accept, bearer = -1, b"", b"", b""
        for name, value in headers:
            if name == b"content-length":
                length = int(value)
            elif name == b"content-type":
                media = media or value
            elif name == b"accept":
                accept = accept or value
            elif name == b"authorization":
                bearer = bearer or value
            elif name in self._not_for_here:
                return None
        if not 0 <= length <= self.body_limit:
            return None
        route = endpoint.routes.get((media, accept)) or endpoint.route(media, accept)
        if route is not None and length > route.large.limit:
            return None
        if self._token and not check_bearer(bearer.decode("latin-1"), self._token):
            return None  # the framework says what is wrong
        return route

    def _reader(self, policy: Policy, route: str) -> Callable[[Codec, Codec], Callable[[bytes], PendingRequest]]:
        return lambda reads, _: partial(self.service.read, policy, route, reads)

    def _large(self, policy: Policy, route: str) -> Callable[[Codec, Codec], Large]:
        parser = self.service.parser
        return lambda reads, _: Large(
            self.service,
            policy.body_limit(route, reads),
            partial(parser.at_once, policy, route, reads),
            partial(parser.large, policy, route, reads),
            lambda request: request,
        )

    def _large_step(self, policy: Policy, id_: str) -> Callable[[Codec, Codec], Large]:
        sessions = self._sessions

        def at_once(reads: Codec, writes: Codec, body: bytes) -> PendingRequest | Answer | None:
            request = sessions.stepping_at_once(policy, reads, body)
            return None if request is None else sessions.step_of(policy, id_, writes, request)

        return lambda reads, writes: Large(
            self.service,
            policy.body_limit(STEP, reads),
            partial(at_once, reads, writes),
            partial(sessions.stepping, policy, reads),
            partial(sessions.step_of, policy, id_, writes),
        )

    def _session_endpoint(self, path: bytes) -> _Endpoint | None:
        """Where a session takes its steps."""
        above, _, end = path.rpartition(b"/")
        root, _, id_ = above.rpartition(b"/")
        policy = self._sessions_of.get(root)
        if end != b"action" or policy is None or b"%" in id_:
            return None
        name = id_.decode("latin-1")
        step = partial(self._sessions.step_at_once, policy, name)
        large = self._large_step(policy, name)
        return _Endpoint(
            lambda reads, writes: partial(step, reads, writes), large, self._metrics.data(policy.name, STEP)
        )
