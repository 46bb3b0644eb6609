"""The members of a fleet, for operators; and files, for the other members: see `app/fleet/transfer.py`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from app.api.access import Guard
from app.api.problems import problem_response
from app.errors import NotReady, UnknownVersion
from app.fleet.paths import FILES_PATH, MACHINE_HEADER, UPLOADS_PATH, machine, reload_path
from app.fleet.stream import STREAM, files_in, head_of, stream_of
from app.inference.service import Service

# A member that is new to many others gives to these first, which give it on.
_MOST_AT_ONCE = 2


class MemberPolicy(BaseModel):
    """One policy of a member: the version that it serves, and how far it is with a change."""

    version: str
    state: str


class MemberRow(BaseModel):
    """One member; `since` is Unix time in seconds."""

    id: str
    url: str
    since: float
    policies: dict[str, MemberPolicy]


class FleetAnswer(BaseModel):
    """The servers that change weights as one."""

    fleet: str
    members: list[MemberRow]


class Announced(BaseModel):
    """A checkpoint that was uploaded to another member."""

    digest: str


class Wanted(BaseModel):
    """A checkpoint by its name, or the newest."""

    checkpoint: str | None = None


def fleet_router(service: Service, guard: Guard) -> APIRouter:
    """Makes the routes; the first needs the admin token, the second the fleet's secret."""
    router = APIRouter()
    giving: set[Given] = set()
    here = machine()

    @router.get(
        "/admin/fleet",
        response_model=FleetAnswer,
        tags=["admin"],
        dependencies=[Depends(guard)],
        summary="The servers of this one's fleet",
    )
    async def members() -> dict[str, Any]:
        return await service.policy(None).manager.describe_fleet()

    @router.post(UPLOADS_PATH, include_in_schema=False)
    async def uploaded(policy: str, name: str, announced: Announced, request: Request) -> dict[str, str]:
        await service.policy(policy).manager.take_upload(name, announced.digest, _secret(request))
        return {"version": name}

    @router.post(reload_path("{policy}", "find"), include_in_schema=False)
    async def find(policy: str, wanted: Wanted, request: Request) -> dict[str, int | None]:
        manager = service.policy(policy).manager
        return {"train_step": await manager.find(wanted.checkpoint, _secret(request))}

    @router.post(reload_path("{policy}", "reload"), include_in_schema=False)
    async def reload(policy: str, wanted: Wanted, request: Request) -> dict[str, Any]:
        manager = service.policy(policy).manager
        return vars(await manager.reload_for(wanted.checkpoint, _secret(request)))

    @router.get(FILES_PATH, include_in_schema=False)
    async def given(policy: str, kind: str, name: str, request: Request) -> Response:
        folder, compared = await service.policy(policy).manager.given(kind, name, _secret(request))
        try:
            files = await asyncio.to_thread(files_in, folder)
        except OSError:
            raise UnknownVersion(f"{name} has just gone") from None
        if request.headers.get(MACHINE_HEADER, "-") == here:
            return JSONResponse({"folder": str(folder), "files": files, "compared": compared})
        return Given(folder, files, giving)

    return router


def _secret(request: Request) -> str:
    return request.headers.get("authorization", "").removeprefix("Bearer ")


class Given(StreamingResponse):
    """The files of a folder; 503 where so many are `giving` already.

    Nothing is waited for between the look and the entry: of three that ask at the same instant, one is sent away.
    """

    def __init__(self, folder: Path, files: Mapping[str, int], giving: set[Given]) -> None:
        length = len(head_of(files)) + sum(files.values())
        headers = {"Content-Length": str(length)}
        super().__init__(_in_thread(stream_of(folder, files)), headers=headers, media_type=STREAM)
        self._giving = giving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers."""
        if len(self._giving) >= _MOST_AT_ONCE:
            await problem_response(NotReady("it gives to others now", 1))(scope, receive, send)
            return
        self._giving.add(self)
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._giving.remove(self)


async def _in_thread(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Yields pieces; they are read in a thread of its own, for a disk may be slow."""
    loop = asyncio.get_running_loop()
    executor = ThreadPoolExecutor(1, "give")
    try:
        while piece := await loop.run_in_executor(executor, next, pieces, b""):
            yield piece
    finally:
        executor.shutdown(wait=False)  # where it is left early, the loop is not to wait for the disk
