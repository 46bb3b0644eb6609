"""The data routes: action, distribution and get_initial_state, per policy and for the default one.

They are declared to FastAPI here. Most requests never get there: see `app/api/direct.py`, which answers alike.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator

from fastapi import APIRouter, Depends, Request, Response

from app.api.access import Guard
from app.api.bodies import read_body
from app.api.presence import given_up_with_its_client
from app.api.problems import problem_response, status_of
from app.metrics import Metrics
from app.service import Service
from app.wire.codecs import reader_of, writer_of

ROUTES = ("action", "distribution", "get_initial_state")


def data_paths(route: str, policy: str) -> Iterator[str]:
    """Where a route is: under the name of a policy, and for the default one."""
    yield f"/v1/policies/{policy}/{route}"
    yield f"/{route}"


def data_router(service: Service, metrics: Metrics, guard: Guard, body_limit: int) -> APIRouter:
    """The routes; their OpenAPI is made per policy, see `app/api/openapi.py`."""
    router = APIRouter(dependencies=[Depends(guard)], include_in_schema=False)

    def endpoint(route: str) -> Callable[[Request], Awaitable[Response]]:
        async def respond(request: Request) -> Response:
            began = time.perf_counter()
            known = ""
            try:
                policy = service.policy(request.path_params.get("policy"))
                known = policy.name
                reads = reader_of(request.headers.get("content-type", ""))
                writes = writer_of(request.headers.get("accept", ""), reads)
                question = service.read(policy, route, reads, await read_body(request, body_limit))
                with given_up_with_its_client(request):
                    result = await service.answered(question)
                response = Response(question.answer(result, writes), media_type=writes.media_type)
            except Exception as error:
                response = problem_response(error)
                metrics.data(known, route).answered(status_of(error), time.perf_counter() - began)
            else:
                metrics.data(known, route).answered(200, time.perf_counter() - began)
            return response

        return respond

    for route in ROUTES:
        for path in data_paths(route, "{policy}"):
            router.add_api_route(path, endpoint(route), methods=["POST"])
    return router
