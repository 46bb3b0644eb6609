"""The admin route that takes a checkpoint as a tar."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel

from app.api.access import Guard
from app.api.body_bytes import body_parts
from app.api.routes.admin import Reloaded, reloaded_json
from app.errors import UnknownMediaType
from app.inference.service import Service
from app.wire import json_body

# The last is what curl sends unasked.
_TAR_TYPES = ("", "application/x-tar", "application/octet-stream", "application/x-www-form-urlencoded")
_TAR_BODY = {
    "requestBody": {
        "required": True,
        "description": "an uncompressed tar of `variables/…`, with or without `checkpoint.json`",
        "content": {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}},
    }
}


class Uploaded(BaseModel):
    """What was stored."""

    version: str
    train_step: int
    digest: str


def uploads_router(service: Service, guard: Guard) -> APIRouter:
    """Makes the route; it needs the admin token."""
    router = APIRouter(prefix="/admin/policies", tags=["admin"], dependencies=[Depends(guard)])

    @router.put(
        "/{policy}/checkpoints/{name}",
        status_code=201,
        response_model=Uploaded,
        responses={200: {"model": Reloaded, "description": "With `activate`: it serves"}},
        summary="Store a checkpoint, and serve it with `activate`",
        openapi_extra=_TAR_BODY,
    )
    async def upload(policy: str, name: str, request: Request, activate: bool = False) -> Response:
        served = service.policy(policy)
        _check_media_type(request)
        stored = await served.uploads.store(name, body_parts(request, served.uploads.limit))
        if service.fleet is not None:
            await served.manager.share_upload(name, stored.digest)
        if activate:
            return _json(reloaded_json(await served.manager.reload(name)), 200)
        return _json(vars(stored), 201)

    return router


def _check_media_type(request: Request) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in _TAR_TYPES:
        raise UnknownMediaType(f"content type {media_type!r}, expected application/x-tar")


def _json(structure: Any, status: int) -> Response:
    return Response(json_body.encode(structure), status, media_type="application/json")
