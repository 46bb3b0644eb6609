"""The routes of sessions, per policy and for the default one; most steps come by the direct way instead."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Depends, Request, Response

from app.api.access import Guard
from app.api.bodies import read_body
from app.api.presence import given_up_with_its_client
from app.api.problems import problem_response, status_of
from app.errors import DoesNotFit
from app.metrics import Metrics
from app.policy import Policy
from app.service import Service
from app.sessions.reading import check_run_id
from app.sessions.record import Answer
from app.sessions.sessions import Sessions
from app.wire.codecs import Codec, reader_of, writer_of

BEGIN, STEP = "sessions", "sessions/action"
PATHS = ("/v1/policies/{policy}/sessions", "/sessions")
# What a request with a body asks: its policy, codecs and body → the answer.
_Asked = Callable[[Request, Policy, Codec, Codec, bytes], Awaitable[Response]]


def sessions_router(service: Service, sessions: Sessions, metrics: Metrics, guard: Guard, body_limit: int) -> APIRouter:
    """The routes; their OpenAPI is made per policy, see `app/api/openapi.py`."""
    router = APIRouter(dependencies=[Depends(guard)], include_in_schema=False)

    def counted(route: str, ask: _Asked) -> Callable[[Request], Awaitable[Response]]:
        async def respond(request: Request) -> Response:
            began = time.perf_counter()
            known = ""
            try:
                policy = service.policy(request.path_params.get("policy"))
                known = policy.name
                reads = reader_of(request.headers.get("content-type", ""))
                writes = writer_of(request.headers.get("accept", ""), reads)
                body = await read_body(request, body_limit)
                with given_up_with_its_client(request):
                    response = await ask(request, policy, reads, writes, body)
            except Exception as error:
                response = problem_response(error)
                metrics.data(known, route).answered(status_of(error), time.perf_counter() - began)
            else:
                metrics.data(known, route).answered(response.status_code, time.perf_counter() - began)
            return response

        return respond

    async def begin(request: Request, policy: Policy, reads: Codec, writes: Codec, body: bytes) -> Response:
        id_, answer = await sessions.begin(policy, reads, writes, body)
        location = f"{request.scope.get('root_path', '')}/v1/policies/{policy.name}/sessions/{id_}"
        return _response(answer, 201, {"Location": location})

    async def step(request: Request, policy: Policy, reads: Codec, writes: Codec, body: bytes) -> Response:
        return _response(await sessions.step(policy, request.path_params["id"], reads, writes, body))

    async def describe(request: Request) -> dict[str, Any]:
        policy = service.policy(request.path_params.get("policy"))
        return await sessions.describe(policy, request.path_params["id"])

    async def end(request: Request) -> Response:
        policy = service.policy(request.path_params.get("policy"))
        run_id = request.query_params.get("run_id")
        if run_id is not None and (problem := check_run_id(run_id)):
            raise DoesNotFit([problem])
        await sessions.end(policy, request.path_params["id"], run_id)
        return Response(status_code=204)

    for path in PATHS:
        router.add_api_route(path, counted(BEGIN, begin), methods=["POST"])
        router.add_api_route(path + "/{id}/action", counted(STEP, step), methods=["POST"])
        router.add_api_route(path + "/{id}", describe, methods=["GET"])
        router.add_api_route(path + "/{id}", end, methods=["DELETE"])
    return router


def _response(answer: Answer, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(answer.body, status, headers, answer.media_type)
