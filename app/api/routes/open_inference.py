"""The routes of the Open Inference Protocol v2: health, metadata, statistics, inference, and the repository.

Most infer requests take `app/api/fast_path.py` instead, which has the same `Route` answer.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

from fastapi import APIRouter, Depends, Request, Response

from app import __version__
from app.api.access import Guard, client_of
from app.api.body_bytes import read_body
from app.api.foreign import answer_by
from app.api.models import JSON_LENGTH, AwaitedInference, Models, ServedModel
from app.api.problems import kind_of, status_of
from app.dialects.open_inference import EXTENSIONS
from app.dialects.open_inference_metadata import (
    config_of,
    index_of,
    loaded_of,
    metadata_of,
    statistics_of,
)
from app.errors import NotJson, Unsupported
from app.inference.service import Service
from app.metrics import Metrics
from app.sessions.sessions import Sessions
from app.versions.lease import LoadedVersion
from app.wire import json_body
from app.wire.limits import SMALL_BYTES


def health_of_protocol(service: Service) -> APIRouter:
    """Makes the routes that are open to all."""
    router = APIRouter(prefix="/v2/health", include_in_schema=False)

    @router.get("/live")
    async def live() -> Response:
        return Response(media_type="application/json")

    @router.get("/ready")
    async def ready() -> Response:
        return Response(status_code=503 if service.failed else 200, media_type="application/json")

    return router


def open_inference_router(service: Service, sessions: Sessions, metrics: Metrics, guard: Guard) -> APIRouter:
    """Makes the routes that need the data token, where there is one."""
    router = APIRouter(prefix="/v2", dependencies=[Depends(guard)], include_in_schema=False)
    endpoints = _Endpoints(service, Models(service, sessions), metrics)
    router.add_api_route("", endpoints.server)
    router.add_api_route("/models", endpoints.listed)
    router.add_api_route("/models/stats", endpoints.statistics)
    router.add_api_route("/repository/index", endpoints.index, methods=["POST"])
    for path in ("/models/{model}", "/models/{model}/versions/{version}"):
        router.add_api_route(path, endpoints.metadata)
        router.add_api_route(f"{path}/config", endpoints.config)
        router.add_api_route(f"{path}/ready", endpoints.ready)
        router.add_api_route(f"{path}/stats", endpoints.statistics)
        router.add_api_route(f"{path}/infer", endpoints.infer, methods=["POST"])
    return router


class _Endpoints:
    """What answers at each path."""

    def __init__(self, service: Service, models: Models, metrics: Metrics) -> None:
        self._service = service
        self._models = models
        self._metrics = metrics

    async def server(self) -> Response:
        return _json({"name": "policy_server", "version": __version__, "extensions": EXTENSIONS})

    async def listed(self) -> Response:
        return _json({"models": [served.model.name for served in self._all()]})

    async def metadata(self, request: Request) -> Response:
        served, _ = await self._asked(request)
        return _json(metadata_of(served.model))

    async def config(self, request: Request) -> Response:
        served, _ = await self._asked(request)
        return _json(config_of(served.model))

    async def ready(self, request: Request) -> Response:
        served, _ = await self._asked(request)
        return _json({"name": served.model.name, "ready": True})

    async def statistics(self, request: Request) -> Response:
        found = [(await self._asked(request))[0]] if "model" in request.path_params else self._all()
        return _json(statistics_of([served.model for served in found], self._metrics.samples))

    async def index(self, request: Request) -> Response:
        wanted = json_body.decode(await read_body(request, SMALL_BYTES))
        return _json(index_of(self._service.describe_all(), bool(wanted.get("ready", False))))

    async def infer(self, request: Request) -> Response:
        started = perf_counter()
        try:
            served, loaded = await self._asked(request)
            route = served.route(self._metrics, _json_length(request), loaded)
        except Exception as error:
            self._metrics.data("", "v2/action").refused(kind_of(error), status_of(error), perf_counter() - started)
            raise
        return await answer_by(request, self._service, route, AwaitedInference(client_of(request)))

    def _all(self) -> list[ServedModel]:
        return [model for policy in self._service.policies for model in self._models.all_of(policy)]

    async def _asked(self, request: Request) -> tuple[ServedModel, LoadedVersion[Any] | None]:
        """Returns the model of a path, and the version, where it names one; raises as `Models.model`."""
        served = self._models.model(request.path_params["model"])
        version = request.path_params.get("version")
        return served, None if version is None else await loaded_of(served.model.policy, version)


def repository_router(service: Service, guard: Guard) -> APIRouter:
    """Makes the routes that need the admin token."""
    router = APIRouter(prefix="/v2/repository/models", dependencies=[Depends(guard)], include_in_schema=False)

    @router.post("/{model}/load")
    async def load(model: str, request: Request) -> Response:
        """Serves the newest weights, as the own reload does with an empty body."""
        policy = service.policy(model)
        wanted = json_body.decode(await read_body(request, SMALL_BYTES))
        if wanted.get("parameters"):
            raise Unsupported("parameters: a policy is loaded as its folder has it")
        await policy.manager.reload(None)
        return Response(media_type="application/json")

    @router.post("/{model}/unload")
    async def unload(model: str) -> Response:
        policy = service.policy(model)
        raise Unsupported(f"policy {policy.name} is served as long as the server runs")

    return router


def _json_length(request: Request) -> int | None:
    """Returns the length of the JSON in the body, where the request says one; raises NotJson where it is none."""
    values = request.headers.getlist(JSON_LENGTH.decode())
    if not values:
        return None
    if len(values) > 1 or not (values[0].isascii() and values[0].isdigit()) or len(values[0]) > 12:
        raise NotJson(f"Inference-Header-Content-Length: {', '.join(values)[:40]!r}, expected a number of bytes")
    return int(values[0])


def _json(structure: Any) -> Response:
    return Response(json_body.encode(structure), media_type="application/json")
