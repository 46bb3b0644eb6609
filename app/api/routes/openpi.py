"""The paths of OpenPI's WebSockets, for requests that do not ask for one: the handshake itself never comes here."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from app.api.access import Guard
from app.errors import NotWebSocket
from app.inference.service import Service


def openpi_router(service: Service, guard: Guard, at_root: str) -> APIRouter:
    """Makes the routes. `at_root`: the name of the policy at `/`; "" leaves that path free."""
    router = APIRouter(tags=["data"], dependencies=[Depends(guard)])

    @router.get("/v1/policies/{policy}/openpi", summary="Open a WebSocket for a client of OpenPI")
    async def openpi(policy: str) -> None:
        service.policy(policy)
        raise NotWebSocket("OpenPI is spoken on a WebSocket: expected the header fields of its handshake")

    if at_root:

        @router.get("/", include_in_schema=False)
        async def root() -> None:
            await openpi(at_root)

    return router
