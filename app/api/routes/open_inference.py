"""The routes of the Open Inference Protocol v2: health, metadata, statistics, inference, and the repository.

Most infer requests take `app/api/fast_path.py` instead, which has the same `Route` answer.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

from fastapi import APIRouter, Depends, Request, Response

from app import __version__
from app.api.access import Guard
from app.api.bodies import read_body
from app.api.foreign import answer_by
from app.api.models import JSON_LENGTH, AwaitedInference, Models, ServedModel
from app.api.problems import status_of
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
    models = Models(service, sessions)

    async def asked(request: Request) -> tuple[ServedModel, LoadedVersion[Any] | None]:
        """Returns the model of a path, and the version, where it names one; raises as `Models.model`."""
        served = models.model(request.path_params["model"])
        version = request.path_params.get("version")
        return served, None if version is None else await loaded_of(served.model.policy, version)

    async def server() -> Response:
        return _json({"name": "policy_server", "version": __version__, "extensions": EXTENSIONS})

    async def listed() -> Response:
        return _json({"models": [model.model.name for policy in service.policies for model in models.all_of(policy)]})

    async def metadata(request: Request) -> Response:
        served, _ = await asked(request)
        return _json(metadata_of(served.model))

    async def config(request: Request) -> Response:
        served, _ = await asked(request)
        return _json(config_of(served.model))

    async def ready(request: Request) -> Response:
        served, _ = await asked(request)
        return _json({"name": served.model.name, "ready": True})

    async def statistics(request: Request) -> Response:
        if "model" in request.path_params:
            found = [(await asked(request))[0]]
        else:
            found = [model for policy in service.policies for model in models.all_of(policy)]
        return _json(statistics_of([served.model for served in found], metrics.samples))

    async def infer(request: Request) -> Response:
        started = perf_counter()
        try:
            served, loaded = await asked(request)
            route = served.route(metrics, _json_length(request), loaded)
        except Exception as error:
            metrics.data("", "v2/action").answered(status_of(error), perf_counter() - started)
            raise
        host = request.client.host if request.client is not None else ""
        return await answer_by(request, service, route, AwaitedInference(host))

    async def index(request: Request) -> Response:
        wanted = json_body.decode(await read_body(request, SMALL_BYTES))
        return _json(index_of(service.describe_all(), bool(wanted.get("ready", False))))

    router.add_api_route("", server)
    router.add_api_route("/models", listed)
    router.add_api_route("/models/stats", statistics)
    router.add_api_route("/repository/index", index, methods=["POST"])
    for path in ("/models/{model}", "/models/{model}/versions/{version}"):
        router.add_api_route(path, metadata)
        router.add_api_route(f"{path}/config", config)
        router.add_api_route(f"{path}/ready", ready)
        router.add_api_route(f"{path}/stats", statistics)
        router.add_api_route(f"{path}/infer", infer, methods=["POST"])
    return router


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
