"""What is served: the list of policies, each one's description, train step and metadata."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel

from app.api.access import Guard
from app.inference.service import Service
from app.wire import json_body


class PolicyBrief(BaseModel):
    """One row of the list. `reason`: why it cannot be opened, where it is not ready; its version is empty then."""

    name: str
    version: str
    train_step: int
    engine: str
    ready: bool
    reason: str = ""


class PolicyList(BaseModel):
    """The policies served; the first is the default."""

    policies: list[PolicyBrief]


class TrainStep(BaseModel):
    """What the active checkpoint says."""

    train_step: int


class Metadata(BaseModel):
    """What the active checkpoint says."""

    metadata: dict[str, Any]


def policies_router(service: Service, guard: Guard) -> APIRouter:
    """Makes the read-only routes; none of them waits for an engine."""
    router = APIRouter(prefix="/v1/policies", tags=["policies"], dependencies=[Depends(guard)])

    @router.get("", response_model=PolicyList, summary="The policies served")
    async def list_policies() -> Response:
        return _json({"policies": service.describe_all()})

    @router.get("/{policy}", summary="Everything about one policy")
    async def describe(policy: str) -> Response:
        return _json(await service.describe(service.policy(policy)))

    @router.get("/{policy}/train_step", response_model=TrainStep, summary="Train step of the active weights")
    async def train_step(policy: str) -> Response:
        return _json({"train_step": service.policy(policy).versions.active.version.train_step})

    @router.get("/{policy}/metadata", response_model=Metadata, summary="Metadata of the active weights")
    async def metadata(policy: str) -> Response:
        return _json({"metadata": service.policy(policy).versions.active.version.metadata})

    return router


def _json(structure: Any) -> Response:
    try:
        body = json_body.encode(structure)
    except TypeError:  # metadata of others may contain integers of any size, and half of a surrogate pair
        body = json.dumps(structure).encode()
    return Response(body, media_type="application/json")
