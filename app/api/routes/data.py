"""The data routes: action, distribution and get_initial_state, per policy and for the default one.

They are declared to FastAPI here. Most requests never get there: see `app/api/fast_path.py`, which answers alike.
"""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import APIRouter, Depends, Request, Response

from app.api.access import Guard
from app.api.endpoint import Ask, answering
from app.inference.policy import Policy
from app.inference.service import Service
from app.metrics import Metrics
from app.wire.codecs import Codec

ROUTES = ("action", "distribution", "get_initial_state")


def data_paths(route: str, policy: str) -> Iterator[str]:
    """Where a route is: under the name of a policy, and for the default one."""
    yield f"/v1/policies/{policy}/{route}"
    yield f"/{route}"


def data_router(service: Service, metrics: Metrics, guard: Guard) -> APIRouter:
    """The routes; their OpenAPI is made per policy, see `app/api/openapi/document.py`."""
    router = APIRouter(dependencies=[Depends(guard)], include_in_schema=False)

    def asking(route: str) -> Ask:
        async def ask(_: Request, policy: Policy, reads: Codec, writes: Codec, body: bytes) -> Response:
            pending = await service.read_any(policy, route, reads, body)
            result = await service.answered(pending)
            return Response(await service.written(pending, result, writes), media_type=writes.media_type)

        return ask

    for route in ROUTES:
        for path in data_paths(route, "{policy}"):
            router.add_api_route(path, answering(service, metrics, route, asking(route)), methods=["POST"])
    return router
