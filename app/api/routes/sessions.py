"""The routes of sessions, per policy and for the default one; most steps come by the fast path instead."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from fastapi import APIRouter, Depends, Request, Response

from app.api.access import Guard, client_of
from app.api.endpoint import CoroutineCycle, MakeCycle, endpoint
from app.api.request_cycle import Receiver
from app.api.routes.data import data_paths
from app.errors import DoesNotFit
from app.inference.policy import Policy
from app.inference.service import Service
from app.metrics import DataMetrics, Metrics
from app.sessions.reading import check_run_id
from app.sessions.record import Answer
from app.sessions.sessions import Sessions
from app.wire.codecs import Codec

BEGIN, STEP = "sessions", "sessions/action"


def sessions_router(service: Service, sessions: Sessions, metrics: Metrics, guard: Guard) -> APIRouter:
    """Makes the routes; their OpenAPI is made per policy, see `app/api/openapi/document.py`."""
    router = APIRouter(dependencies=[Depends(guard)], include_in_schema=False)

    async def begin(request: Request, policy: Policy, reads: Codec, writes: Codec, body: bytes) -> Response:
        id_, answer = await sessions.begin(policy, reads, writes, body, client_of(request))
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

    begins = endpoint(service, metrics, BEGIN, _cycles(begin))
    steps = endpoint(service, metrics, STEP, _cycles(step))
    for path in data_paths(BEGIN, "{policy}"):
        router.add_api_route(path, begins, methods=["POST"])
        router.add_api_route(path + "/{id}/action", steps, methods=["POST"])
        router.add_api_route(path + "/{id}", describe, methods=["GET"])
        router.add_api_route(path + "/{id}", end, methods=["DELETE"])
    return router


def _cycles(respond: Callable[[Request, Policy, Codec, Codec, bytes], Coroutine[Any, Any, Response]]) -> MakeCycle:
    def make(
        request: Request, policy: Policy, reads: Codec, writes: Codec, counts: DataMetrics, receiver: Receiver
    ) -> CoroutineCycle:
        return CoroutineCycle(partial(respond, request, policy, reads, writes), counts, receiver)

    return make


def _response(answer: Answer, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(answer.body, status, headers, answer.media_type)
