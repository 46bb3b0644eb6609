"""The data routes: action, distribution and get_initial_state, per policy and for the default one."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Depends, Request, Response

from app.api.access import Guard
from app.api.bodies import read_body
from app.api.presence import given_up_with_its_client
from app.api.problems import problem_response, status_of
from app.metrics import Metrics
from app.service import Policy, Service
from app.wire.codecs import reader_of, writer_of

Handler = Callable[[Policy, dict[str, Any]], Awaitable[dict[str, Any]]]


def data_router(service: Service, metrics: Metrics, guard: Guard, body_limit: int) -> APIRouter:
    """The routes; their OpenAPI is made per policy, see `app/api/openapi.py`."""
    router = APIRouter(dependencies=[Depends(guard)], include_in_schema=False)
    handlers: dict[str, Handler] = {
        "action": service.act,
        "distribution": service.distribution,
        "get_initial_state": service.initial_state,
    }

    def endpoint(route: str, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def respond(request: Request) -> Response:
            began = time.perf_counter()
            known = ""
            try:
                policy = service.policy(request.path_params.get("policy"))
                known = policy.name
                reader = reader_of(request.headers.get("content-type", ""))
                writer = writer_of(request.headers.get("accept", ""), reader)
                body = reader.decode(await read_body(request, body_limit))
                with given_up_with_its_client(request):
                    answer = await handler(policy, body)
                response = Response(writer.encode(answer), media_type=writer.media_type)
            except Exception as error:
                response = problem_response(error)
                metrics.answered(known, route, status_of(error), time.perf_counter() - began)
            else:
                metrics.answered(known, route, 200, time.perf_counter() - began)
            return response

        return respond

    for route, handler in handlers.items():
        for path in (f"/v1/policies/{{policy}}/{route}", f"/{route}"):
            router.add_api_route(path, endpoint(route, handler), methods=["POST"])
    return router
