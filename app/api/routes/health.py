"""Alive, ready, and the metrics: for orchestrators, open to all."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from app.inference.service import Service
from app.metrics import Metrics


def health_router(service: Service, metrics: Metrics) -> APIRouter:
    """Makes the routes. The server listens once each policy that can be opened has weights; others make it unready."""
    router = APIRouter(tags=["health"])

    @router.head("/livez", include_in_schema=False)
    @router.get("/livez", summary="The process answers")
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @router.get("/healthz", summary="The same for OpenPI's clients")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @router.head("/readyz", include_in_schema=False)
    @router.get("/readyz", summary="Some weights of every policy serve")
    async def readyz() -> JSONResponse:
        if failed := service.failed:
            # Their names alone: the reasons contain paths, and this route is open to all.
            return JSONResponse({"status": "not ready", "failed": failed}, 503)
        fleet = service.fleet
        if fleet is None:
            return JSONResponse({"status": "ready"})
        # Members ask each other for it while Redis is out of reach: see `app/fleet/peers.py`.
        known = {"member": fleet.member, "reaches": fleet.reaches, "applied": dict(fleet.applied)}
        if not fleet.ready:
            return JSONResponse({"status": "not ready: it does not take part in its fleet", "fleet": known}, 503)
        return JSONResponse({"status": "ready", "fleet": known})

    @router.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def prometheus() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return router
