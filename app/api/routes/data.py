"""The data routes: action, distribution and get_initial_state, per policy and for the default one.

They are declared to FastAPI here. Most requests take `app/api/fast_path.py` instead, which has the same cycle answer.
"""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import APIRouter, Depends, Request

from app.api.access import Guard
from app.api.endpoint import MakeCycle, endpoint
from app.api.request_cycle import Receiver, RequestCycle, data_route
from app.api.timed import timed_for_task
from app.inference.policy import Policy
from app.inference.service import Service
from app.metrics import DataMetrics, Metrics
from app.wire.codecs import Codec

ROUTES = ("action", "distribution", "get_initial_state")


def data_paths(route: str, policy: str) -> Iterator[str]:
    """Yields the paths of a route: under the name of a policy, and for the default one."""
    yield f"/v1/policies/{policy}/{route}"
    yield f"/{route}"


def data_router(service: Service, metrics: Metrics, guard: Guard) -> APIRouter:
    """Makes the routes; their OpenAPI is made per policy, see `app/api/openapi/document.py`."""
    router = APIRouter(dependencies=[Depends(guard)], include_in_schema=False)

    def cycles(route: str) -> MakeCycle:
        def make(
            _: Request, policy: Policy, reads: Codec, writes: Codec, counts: DataMetrics, receiver: Receiver
        ) -> RequestCycle:
            made = data_route(service, policy, route, counts, reads, writes)
            return RequestCycle(timed_for_task(made), receiver)

        return make

    for route in ROUTES:
        for path in data_paths(route, "{policy}"):
            router.add_api_route(path, endpoint(service, metrics, route, cycles(route)), methods=["POST"])
    return router
