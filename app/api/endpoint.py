"""The data routes of the framework: codecs and body are read, and a `Cycle` answers, as on the fast path."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from time import perf_counter
from typing import Any

from fastapi import Request, Response

from app.api.body_bytes import read_body
from app.api.disconnect import giving_up_with_client
from app.api.problems import kind_of, problem_response
from app.api.request_cycle import Cycle, Receiver
from app.errors import ClientGone
from app.inference.policy import Policy
from app.inference.service import Service
from app.metrics import DataMetrics, Metrics
from app.wire.codecs import Codec, reader_of, writer_of

# A request, its policy, the codecs of its body and of its answer, the route's counts, and the receiver of the answer →
# the cycle that answers.
MakeCycle = Callable[[Request, Policy, Codec, Codec, DataMetrics, Receiver], Cycle]


class CoroutineCycle(Cycle):
    """One request that a coroutine answers: `respond` makes it of the body."""

    def __init__(
        self, respond: Callable[[bytes], Coroutine[Any, Any, Response]], metrics: DataMetrics, receiver: Receiver
    ) -> None:
        self._coroutine = respond
        self._metrics = metrics
        self._receiver = receiver
        self._started = perf_counter()

    def ask(self, service: Service, body: bytes, now: float) -> None:  # noqa: ARG002
        """See `Cycle`."""
        self.waiting = asyncio.get_running_loop().create_task(self._run(body))

    async def _run(self, body: bytes) -> None:
        try:
            response = await self._coroutine(body)
        except Exception as error:
            self.set_exception(error)
        else:
            self._respond(response)


class AwaitedAnswer:
    """Takes the answer of a cycle, for the endpoint that awaits `response`."""

    def __init__(self) -> None:
        self.response: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

    def write_answer(self, media_type: bytes, body: bytes) -> None:
        """See `Receiver`."""
        self.write_response(Response(body, media_type=media_type.decode("latin-1")))

    def write_response(self, response: Response) -> None:
        """See `Receiver`."""
        if not self.response.done():
            self.response.set_result(response)


def endpoint(
    service: Service, metrics: Metrics, route: str, make: MakeCycle
) -> Callable[[Request], Awaitable[Response]]:
    """Makes the endpoint of a route, which is counted under that name."""

    async def respond(request: Request) -> Response:
        started, known = perf_counter(), ""
        try:
            policy = service.policy(request.path_params.get("policy"))
            known = policy.name
            reads = reader_of(request.headers.get("content-type", ""))
            writes = writer_of(request.headers.get("accept", ""), reads)
        except Exception as error:
            response = problem_response(error)
            metrics.data(known, route).refused(kind_of(error), response.status_code, perf_counter() - started)
            return response
        answer = AwaitedAnswer()
        cycle = make(request, policy, reads, writes, metrics.data(known, route), answer)
        try:
            body = await read_body(request, policy.body_limit(route, reads), service.timeout_s(None))
        except Exception as error:
            cycle.set_exception(error)
        else:
            cycle.ask(service, body, asyncio.get_running_loop().time())
        return await answered(request, cycle, answer)

    return respond


async def answered(request: Request, cycle: Cycle, answer: AwaitedAnswer) -> Response:
    """Returns what `answer` takes; a request is given up when its client goes away: it takes no room and no batch."""

    def give_up() -> None:
        cycle.give_up()
        answer.write_response(problem_response(ClientGone("the client went away before its answer was there")))

    try:
        with giving_up_with_client(request, give_up):
            return await answer.response
    finally:
        if not cycle.done():  # the server stops, and has waited long enough
            cycle.give_up()
