"""The HTTP application: routes, middleware and the OpenAPI document, over a service."""

from __future__ import annotations

import functools
from typing import Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware

from app import __version__
from app.api import problems
from app.api.access import admin_guard, data_guard
from app.api.audit import Audited
from app.api.console import Pages
from app.api.openapi.document import document
from app.api.routes.admin import admin_router
from app.api.routes.console import console_router
from app.api.routes.data import data_router
from app.api.routes.experience import experience_router
from app.api.routes.fleet import fleet_router
from app.api.routes.health import health_router
from app.api.routes.open_inference import health_of_protocol, open_inference_router, repository_router
from app.api.routes.openpi import openpi_router
from app.api.routes.policies import policies_router
from app.api.routes.sessions import sessions_router
from app.api.routes.tensorflow_serving import models_route
from app.api.routes.traffic import traffic_router
from app.api.routes.uploads import uploads_router
from app.api.server_timing import ServerTiming
from app.inference.service import Service
from app.metrics import Metrics
from app.rpc.recorder import RemoteRecorder
from app.sessions.sessions import Sessions
from app.settings import Settings


def build_app(
    service: Service,
    sessions: Sessions,
    metrics: Metrics,
    settings: Settings,
    pages: Pages,
    recorder: RemoteRecorder | None = None,
) -> FastAPI:
    """Builds the HTTP application over a service. `pages`: those of the console that are open."""
    app: FastAPI = FastAPIOffline(
        title="Policy server",
        version=__version__,
        description="TF-Agents policies over HTTP. `observation` is all that a request needs.",
        redoc_url=None,
        redirect_slashes=False,  # they would lead to whatever host the request names
    )
    guard = data_guard(settings.data_token)
    app.include_router(data_router(service, metrics, guard))
    app.include_router(sessions_router(service, sessions, metrics, guard))
    app.include_router(experience_router(service, recorder, guard))
    app.include_router(policies_router(service, guard))
    only_admins = admin_guard(settings.admin_token)
    app.include_router(admin_router(service, only_admins))
    app.include_router(traffic_router(service, only_admins))
    app.include_router(uploads_router(service, only_admins))
    app.include_router(fleet_router(service, only_admins))
    app.include_router(health_router(service, metrics))
    app.router.routes.append(models_route(service, metrics, guard))
    app.include_router(health_of_protocol(service))
    app.include_router(open_inference_router(service, sessions, metrics, guard))
    app.include_router(repository_router(service, only_admins))
    app.include_router(openpi_router(service, guard, settings.openpi))
    app.include_router(console_router(pages, guard, at_root=not settings.openpi))
    problems.install(app)
    if settings.cors_origins:
        origins = [origin.strip() for origin in settings.cors_origins.split(",")]
        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])
    app.add_middleware(Audited, note=pages.note_call)
    app.add_middleware(ServerTiming)
    fixed_routes = functools.cache(app.openapi)

    described: list[str] = []

    def whole_document() -> dict[str, Any]:
        """Makes the document, again if another policy has been opened since."""
        policies = service.policies
        names = [policy.name for policy in policies]
        if app.openapi_schema is None or names != described:
            base = {**fixed_routes()}
            tokens = {"admin_token": bool(settings.admin_token), "data_token": bool(settings.data_token)}
            app.openapi_schema = document(base, policies, service.default, **tokens)
            described[:] = names
        return app.openapi_schema

    app.openapi = whole_document  # type: ignore[method-assign]
    return app
