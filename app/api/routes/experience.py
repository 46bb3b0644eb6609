"""The route of experience, per policy and for the default one: rows behind a cursor, for whoever trains."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Depends, Request, Response

from app.api.access import Guard
from app.api.disconnect import giving_up_with_client
from app.api.problems import problem_response
from app.api.routes.data import data_paths
from app.errors import ClientGone, Unsupported
from app.experience.query import read_query
from app.inference.service import Service
from app.rpc.recorder import RemoteRecorder
from app.settings import variable
from app.wire.codecs import JSON, MSGPACK, writer_of

EXPERIENCE = "experience"
_HEADERS = {"Cache-Control": "no-store"}


def experience_router(service: Service, recorder: RemoteRecorder | None, guard: Guard) -> APIRouter:
    """Makes the routes; their OpenAPI is made per policy, see `app/api/openapi/document.py`.

    `recorder`: None where no experience is recorded.
    """
    router = APIRouter(dependencies=[Depends(guard)], include_in_schema=False)

    async def read(request: Request) -> Response:
        policy = service.policy(request.path_params.get("policy"))
        if not policy.spec.takes_time_step:
            raise Unsupported(f"policy {policy.name} takes no time steps: it has no sessions, and no experience")
        if recorder is None:
            raise Unsupported(f"no experience is recorded: {variable('experience_dir')} is not set")
        writes = writer_of(request.headers.get("accept", ""), JSON)
        query = read_query(request.query_params.multi_items(), as_msgpack=writes is MSGPACK)
        reading = asyncio.ensure_future(recorder.read(policy.name, query))

        def give_up() -> None:
            reading.cancel()

        with giving_up_with_client(request, give_up):
            try:
                body = await reading
            except asyncio.CancelledError:
                if not reading.cancelled():
                    raise
                return problem_response(ClientGone("the client went away before there were rows"))
        return Response(body, headers=_HEADERS, media_type=writes.media_type)

    for path in data_paths(EXPERIENCE, "{policy}"):
        router.add_api_route(path, read, methods=["GET"])
    return router
