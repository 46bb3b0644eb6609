"""The composition root: builds every part and passes it in. Start and stop order stand here, once."""

from __future__ import annotations

import asyncio
import functools
import tempfile
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio.to_thread
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware

from app.api import openapi, problems
from app.api.access import admin_guard, data_guard
from app.api.admin import admin_router
from app.api.data import data_router
from app.api.health import health_router
from app.api.policies import policies_router
from app.api.uploads import uploads_router
from app.batching.batcher import Batcher
from app.errors import SwapRefused, UnusablePolicy
from app.metrics import Metrics
from app.service import Policy, Service
from app.settings import PolicyFolder, Settings
from app.swap.manager import Manager
from app.swap.source import Source
from app.swap.store import Store
from app.swap.upload import Uploads
from app.swap.watch import watch
from app.validate import InputReader
from saver.artifact import CHECKPOINTS_FOLDER, IncompleteError, check_is_export
from saver.hush import hushed


@dataclass(frozen=True)
class Server:
    """The HTTP application and the service behind it."""

    app: FastAPI
    service: Service


@asynccontextmanager
async def open_server(settings: Settings) -> AsyncIterator[Server]:
    """Loads every policy, then serves; on leaving, finishes what was accepted and stops the threads.

    Raises:
      UnusablePolicy: a folder is no policy; nothing was served.
    """
    for named in settings.policies:
        _check_at_once(named)
    async with AsyncExitStack() as stack:
        metrics = Metrics()
        # Each watcher waits in one of anyio's threads: the others should not wait for it.
        anyio.to_thread.current_default_thread_limiter().total_tokens += len(settings.policies)
        control_lane = stack.enter_context(ThreadPoolExecutor(1, "control"))
        policies = {}
        for named in settings.policies:
            policy = await _open_policy(named, settings, metrics, control_lane, stack)
            policies[policy.name] = policy
        service = Service(policies, settings.deadline_ms, settings.rows_limit)
        yield Server(build_app(service, metrics, settings), service)


def _check_at_once(named: PolicyFolder) -> None:
    """Tells a mistyped folder without waiting for TensorFlow."""
    try:
        check_is_export(named.folder)
    except IncompleteError as error:
        raise UnusablePolicy(str(error)) from None


async def _open_policy(
    named: PolicyFolder,
    settings: Settings,
    metrics: Metrics,
    control_lane: ThreadPoolExecutor,
    stack: AsyncExitStack,
) -> Policy:
    """One policy with its manager and batcher; entered into `stack` in start order, left in reverse."""
    with hushed():  # here and not at the top: `--help` and a wrong option need no TensorFlow
        from app.workshop.workshop import Workshop

    in_control_lane = functools.partial(asyncio.get_running_loop().run_in_executor, control_lane)
    try:
        workshop = await in_control_lane(Workshop, named.folder)
    except UnusablePolicy:
        raise
    except Exception as error:  # manifests and graphs can be wrong in more ways than are foreseen
        raise UnusablePolicy(f"{named.folder} cannot be opened: {type(error).__name__}: {error}") from error
    of_policy = metrics.policy(named.name)
    store = stack.enter_context(Store(_state_folder(settings, stack) / named.name).opened())
    of_uploads = _upload_folders(named, settings)
    source = Source(named.folder, workshop.identify, of_uploads)
    manager = Manager(named.name, workshop, source, store, control_lane, of_policy)
    try:
        await manager.start()
    except SwapRefused as refusal:
        raise UnusablePolicy(f"{named.folder}: {refusal}") from refusal
    stack.push_async_callback(manager.close)
    data_lane = stack.enter_context(ThreadPoolExecutor(1, f"data-{named.name}"))
    batcher = Batcher(
        named.name,
        lambda: manager.active.lease(),
        functools.partial(_with_initial_state, workshop.spec),
        data_lane,
        of_policy,
        settings.waiting_room_requests,
    )
    stack.push_async_callback(batcher.close)
    if settings.watch:
        # The folder of checkpoints may not be there yet, so that the one above it is watched.
        above = [folder.parent for folder in source.folders if folder not in of_uploads]
        folders = {folder for folder in (named.folder, *above, *of_uploads) if folder.is_dir()}
        watching = asyncio.create_task(watch(manager, sorted(folders)))
        stack.push_async_callback(_cancelled, watching)
    return Policy(
        named.name,
        workshop.spec,
        workshop.serving,
        InputReader(workshop.spec, rows_limit=settings.rows_limit, strict_bounds=settings.strict_bounds),
        manager,
        batcher,
        of_policy,
        "the only engine of this version of the server",
        Uploads([named.folder / CHECKPOINTS_FOLDER, *of_uploads], settings.upload_limit_bytes, manager.check),
    )


def _state_folder(settings: Settings, stack: AsyncExitStack) -> Path:
    """Where the server keeps what survives a restart; without one, a folder that goes with the process."""
    if settings.state_dir:
        return Path(settings.state_dir).expanduser().absolute()
    try:
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="policy-server.")))
    except OSError as error:
        raise UnusablePolicy(f"no folder for temporary files ({error}); --state-dir names another") from None


def _upload_folders(named: PolicyFolder, settings: Settings) -> list[Path]:
    """Where uploads go when the policy's own folder cannot be written; made now, so that it can be watched."""
    if not settings.state_dir:
        return []
    folder = Path(settings.state_dir).expanduser().absolute() / named.name / "uploads"
    folder.mkdir(parents=True, exist_ok=True)
    return [folder]


def build_app(service: Service, metrics: Metrics, settings: Settings) -> FastAPI:
    """The HTTP application over a service."""
    app: FastAPI = FastAPIOffline(
        title="Policy server",
        description="TF-Agents policies over HTTP. `observation` is all that a request needs.",
        redoc_url=None,
    )
    guard = data_guard(settings.data_token)
    app.include_router(data_router(service, metrics, guard, settings.body_limit_bytes))
    app.include_router(policies_router(service, guard))
    only_admins = admin_guard(settings.admin_token)
    app.include_router(admin_router(service, only_admins))
    app.include_router(uploads_router(service, only_admins))
    app.include_router(health_router(metrics))
    problems.install(app)
    if settings.cors_origins:
        origins = [origin.strip() for origin in settings.cors_origins.split(",")]
        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])
    fixed_routes = app.openapi

    @functools.cache
    def whole_document() -> dict[str, Any]:
        return openapi.document(fixed_routes(), service.policies)

    app.openapi = whole_document  # type: ignore[method-assign]
    return app


def _with_initial_state(spec: Any, inputs: Any, initial: Any) -> Any:
    return inputs | spec.state_inputs(initial)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
