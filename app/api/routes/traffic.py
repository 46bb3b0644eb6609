"""The routes under /admin for versions that are tried beside the active one: a canary, and a shadow."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, StrictStr

from app.api.access import Guard
from app.api.routes.admin import Reloaded, body_of, read_admin, reloaded_json
from app.inference.service import Service
from app.rpc.messages import ArmWish, TrafficWish

_Share = Annotated[StrictFloat, Field(ge=0, le=1)]
# A mean return of -1 may drop to -101. By more it is no rule any more, and the numbers of the test get too large.
_MOST_DROP = 100.0


class Canary(BaseModel):
    """A checkpoint that gets a share of the sessions that begin.

    `promote_after_episodes`: it becomes active once so many of its episodes have ended. `stop_if_return_drops`: it is
    refused once its mean return is lower by more than this share of the active version's, with 95 % confidence.
    """

    model_config = ConfigDict(extra="forbid")

    checkpoint: StrictStr
    share: _Share
    promote_after_episodes: Annotated[StrictInt, Field(ge=1)] | None = None
    stop_if_return_drops: Annotated[StrictFloat, Field(ge=0, le=_MOST_DROP)] | None = None


class Shadow(BaseModel):
    """A checkpoint that is asked a share of what the active version is asked, and answers nobody."""

    model_config = ConfigDict(extra="forbid")

    checkpoint: StrictStr
    share: _Share = 1.0


class TrafficBody(BaseModel):
    """What is to be tried beside the active version; what is left out is tried no more."""

    model_config = ConfigDict(extra="forbid")

    canary: Canary | None = None
    shadow: Shadow | None = None


class Figures(BaseModel):
    """What an arm has come to, since the canary is tried.

    `episodes`: those that have ended after they began in this time; `mean_return` and its standard error `stderr` are
    of those with rewards. `failures`: requests that it could not answer, and the active version did. Times are in
    milliseconds, until the answer was known.
    """

    sessions: int = 0
    episodes: int = 0
    mean_return: float | None = None
    stderr: float | None = None
    mean_length: float | None = None
    answers: int = 0
    failures: int = 0
    p50_ms: float | None = None
    p99_ms: float | None = None


class ActiveArm(Figures):
    """The active version."""

    version: str
    train_step: int


class CanaryArm(ActiveArm):
    """The canary, and what was asked for; `began_at` is Unix time."""

    share: float
    began_at: float
    promote_after_episodes: int | None = None
    stop_if_return_drops: float | None = None


class ShadowArm(ActiveArm):
    """The shadow, and how its answers compare with those that were sent.

    `compared`: rows, of which the share `agreement` has the same action; `skipped`: rows that it was not asked, so that
    others are answered. `mean_kl`: of the distributions, in nats; `infinite_kl`: rows where that is infinite.
    """

    share: float
    began_at: float
    compared: int = 0
    agreement: float | None = None
    max_difference: float | None = None
    mean_kl: float | None = None
    infinite_kl: int | None = None
    skipped: int = 0


class DecisionRow(BaseModel):
    """How the trial of the last canary ended, why and when (Unix time), and what both arms had come to.

    "stop": its version is refused; "promote": it serves; "end": an operator has had another one serve.
    """

    action: Literal["stop", "promote", "end"]
    version: str
    reason: str
    at: float
    active: Figures | None = None
    canary: Figures | None = None


class TrafficReport(BaseModel):
    """The arms that there are, and the last decision. What is not known is left out."""

    active: ActiveArm
    canary: CanaryArm | None = None
    shadow: ShadowArm | None = None
    decision: DecisionRow | None = None


def traffic_router(service: Service, guard: Guard) -> APIRouter:
    """Makes the routes; all need the admin token."""
    router = APIRouter(prefix="/admin/policies", tags=["admin"], dependencies=[Depends(guard)])

    @router.put(
        "/{policy}/traffic",
        response_model=TrafficReport,
        response_model_exclude_unset=True,
        summary="Try versions beside the active one",
        openapi_extra=body_of(TrafficBody),
    )
    async def put_traffic(policy: str, request: Request) -> dict[str, Any]:
        manager = service.policy(policy).manager
        body = await read_admin(request, TrafficBody)
        canary = None if body.canary is None else ArmWish(**body.canary.model_dump())
        shadow = None if body.shadow is None else ArmWish(**body.shadow.model_dump())
        return await manager.put_traffic(TrafficWish(canary, shadow))

    @router.get(
        "/{policy}/traffic",
        response_model=TrafficReport,
        response_model_exclude_unset=True,
        summary="What the versions beside the active one have come to",
    )
    async def traffic(policy: str) -> dict[str, Any]:
        return await service.policy(policy).manager.traffic()

    @router.post(
        "/{policy}/traffic/promote",
        response_model=Reloaded,
        response_model_exclude_unset=True,
        summary="Make the canary the active version",
    )
    async def promote(policy: str) -> dict[str, Any]:
        return reloaded_json(await service.policy(policy).manager.promote())

    return router
