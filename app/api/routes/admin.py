"""The admin routes: reload, rollback, pause, resume and versions. `app/api/audit.py` logs every call."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Depends, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, StrictBool, StrictStr, ValidationError

from app.api.access import Guard
from app.api.body_bytes import read_body
from app.batching.rule import Pause
from app.errors import DoesNotFit, Problem
from app.inference.service import Service
from app.rpc.messages import SHOWN, Swapped
from app.wire import json_body

M = TypeVar("M", bound=BaseModel)

# A reload names a checkpoint: more than this is no such request.
_BODY_LIMIT_BYTES = 64 * 1024
_MOST_FIELDS = 20


class Reload(BaseModel):
    """Which weights to serve: a checkpoint by name (and stay there), the newest one, or a re-exported graph."""

    model_config = ConfigDict(extra="forbid")

    checkpoint: StrictStr | None = None
    export: StrictBool = False


class Reloaded(BaseModel):
    """What serves now and what served before; `took_ms` until no batch ran on the older weights.

    `members`: in a fleet, on how many servers.
    """

    version: str
    train_step: int
    previous: str
    took_ms: float
    members: int | None = None


class PauseHow(BaseModel):
    """What to do with requests meanwhile: hold them until their deadline, or refuse new ones."""

    model_config = ConfigDict(extra="forbid")

    mode: Literal["wait", "reject"] = "wait"


class Paused(BaseModel):
    """The pause that is in force; null for none. `members`: in a fleet, on how many servers."""

    paused: Literal["wait", "reject"] | None
    members: int | None = None


class VersionRow(BaseModel):
    """One version; `seen_at` is Unix time in seconds."""

    version: str
    digest: str
    state: str
    reason: str
    train_step: int
    engine: str
    seen_at: float


class Versions(BaseModel):
    """Versions, the latest seen first: `limit` of them behind the first `offset`, and the one that serves."""

    versions: list[VersionRow]
    versions_total: int


def admin_router(service: Service, guard: Guard) -> APIRouter:
    """Makes the routes under /admin; all need the admin token."""
    router = APIRouter(prefix="/admin/policies", tags=["admin"], dependencies=[Depends(guard)])

    @router.post(
        "/{policy}/reload",
        response_model=Reloaded,
        response_model_exclude_unset=True,
        summary="Serve other weights",
        openapi_extra=body_of(Reload),
    )
    async def reload(policy: str, request: Request) -> dict[str, Any]:
        manager = service.policy(policy).manager
        wanted = await read_admin(request, Reload)
        if wanted.export and wanted.checkpoint is not None:
            raise DoesNotFit([Problem("export", "true beside a checkpoint", "one of the two")])
        return reloaded_json(await (manager.reload_export() if wanted.export else manager.reload(wanted.checkpoint)))

    @router.post(
        "/{policy}/rollback",
        response_model=Reloaded,
        response_model_exclude_unset=True,
        summary="Back to the version that served before",
    )
    async def rollback(policy: str) -> dict[str, Any]:
        return reloaded_json(await service.policy(policy).manager.rollback())

    @router.post(
        "/{policy}/pause",
        response_model=Paused,
        response_model_exclude_unset=True,
        summary="Stop answering; swaps go on",
        openapi_extra=body_of(PauseHow),
    )
    async def pause(policy: str, request: Request) -> dict[str, Any]:
        how = await read_admin(request, PauseHow)
        return await _paused(service, policy, await service.pause(service.policy(policy), Pause(how.mode)))

    @router.post("/{policy}/resume", response_model=Paused, response_model_exclude_unset=True, summary="Answer again")
    async def resume(policy: str) -> dict[str, Any]:
        await service.policy(policy).manager.resume()
        return await _paused(service, policy, None)

    @router.get("/{policy}/versions", response_model=Versions, summary="The versions seen")
    async def versions(
        policy: str, limit: Annotated[int, Query(ge=1, le=1000)] = SHOWN, offset: Annotated[int, Query(ge=0)] = 0
    ) -> dict[str, Any]:
        status = await service.policy(policy).manager.status(limit, offset)
        return {name: status[name] for name in ("versions", "versions_total")}

    return router


def reloaded_json(swapped: Swapped) -> dict[str, Any]:
    """Returns the fields of `Reloaded`."""
    return {
        "version": swapped.version,
        "train_step": swapped.train_step,
        "previous": swapped.previous,
        "took_ms": round(swapped.took_ms, 3),
        **_members(swapped.members),
    }


async def _paused(service: Service, policy: str, mode: str | None) -> dict[str, Any]:
    count = await service.policy(policy).manager.members() if service.fleet is not None else 0
    return {"paused": mode, **_members(count)}


def _members(count: int) -> dict[str, int]:
    return {"members": count} if count else {}


async def read_admin(request: Request, model: type[M]) -> M:
    """Reads the body as `model`, whatever content type curl gave it; an empty one has only defaults."""
    fields = json_body.decode(await read_body(request, _BODY_LIMIT_BYTES))
    if len(fields) > _MOST_FIELDS:  # each would be a finding of its own
        raise DoesNotFit([Problem("body", f"{len(fields)} fields", f"some of {', '.join(model.model_fields)}")])
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from None


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """Returns the part of the OpenAPI document that says what a body may be."""
    schema = model.model_json_schema()
    inlined = _without_refs(schema, schema.pop("$defs", {}))
    return {"requestBody": {"content": {"application/json": {"schema": inlined}}}}


def _without_refs(schema: Any, named: dict[str, Any]) -> Any:
    """A schema in which the models that it refers to stand themselves: in the document, paths lead elsewhere."""
    if isinstance(schema, list):
        return [_without_refs(part, named) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _without_refs(named[schema["$ref"].rpartition("/")[2]], named)
    return {key: _without_refs(part, named) for key, part in schema.items()}
