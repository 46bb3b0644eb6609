"""What the routes with a body have in common: codecs and body are read, the answer or the refusal is counted."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from fastapi import Request, Response

from app.api.bodies import read_body
from app.api.disconnect import given_up_with_its_client
from app.api.problems import problem_response, status_of
from app.inference.policy import Policy
from app.inference.service import Service
from app.metrics import Metrics
from app.wire.codecs import Codec, reader_of, writer_of

# A request, its policy, the codecs of its body and of the answer, and the body → the answer.
Ask = Callable[[Request, Policy, Codec, Codec, bytes], Awaitable[Response]]


def answering(service: Service, metrics: Metrics, route: str, ask: Ask) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of a route, which is counted under that name; a request is given up when its client goes away."""

    async def respond(request: Request) -> Response:
        began = time.perf_counter()
        known = ""
        try:
            policy = service.policy(request.path_params.get("policy"))
            known = policy.name
            reads = reader_of(request.headers.get("content-type", ""))
            writes = writer_of(request.headers.get("accept", ""), reads)
            body = await read_body(request, policy.body_limit(route, reads))
            with given_up_with_its_client(request):
                response = await ask(request, policy, reads, writes, body)
            status = response.status_code
        except Exception as error:
            response, status = problem_response(error), status_of(error)
        metrics.data(known, route).answered(status, time.perf_counter() - began)
        return response

    return respond
