"""The control process: starts the workshop and the fronts, and decides which versions serve.

The composition root of the control way, and the start and stop order of the whole server; `app/front.py` is that of
the data way. Nothing here imports TensorFlow or answers HTTP: this process is the one that must not fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio.to_thread

from app.errors import LinkLost, SwapRefused, UnusablePolicy
from app.folders.checkpoints import Identity, identify
from app.folders.foreign import hint_for
from app.folders.series import resolved
from app.metrics import Metrics
from app.processes.child import Child, Keeper
from app.settings import PolicyFolder, Settings, SettingsError
from app.swap.manager import Manager
from app.swap.remote import Offer, RemoteFront, RemoteWorkshop, WorkshopCalls, manager_calls
from app.swap.source import Source, checkpoint_folders
from app.swap.store import Store
from app.swap.upload import upload_folders
from app.swap.watch import FolderWatcher, follow
from saver.artifact import IncompleteError, check_is_export

# Beyond a front's own grace for what was accepted.
_FAREWELL_S = 5.0


@asynccontextmanager
async def open_server(settings: Settings, listener: socket.socket) -> AsyncIterator[Mapping[str, Manager]]:
    """Serves within; on leaving, what was accepted is finished and every process ended.

    Args:
      settings: what the server was told.
      listener: bound; every front accepts connections from it.

    Yields:
      The managers, by policy; every front serves what they say.

    Raises:
      UnusablePolicy: a folder is no policy; nothing was served.
      SettingsError: another server listens there.
    """
    settings = replace(settings, policies=tuple(resolved(named) for named in settings.policies))
    for named in settings.policies:
        _check_at_once(named)
    async with AsyncExitStack() as stack:
        metrics = Metrics()
        calls = WorkshopCalls()
        end_workshop = await _start_workshop(settings, metrics, calls, stack)
        managers: dict[str, Manager] = {}
        opened = asyncio.Event()
        fronts = _keepers_of_fronts(settings, listener, managers, opened, metrics)

        async def end_fronts() -> None:
            listener.close()  # or it would still be connected to when no front listens any more
            await asyncio.gather(*(keeper.close() for keeper in fronts))

        stack.push_async_callback(end_fronts)
        # They import what they need while the policies are opened.
        starting = asyncio.gather(*(keeper.start() for keeper in fronts))
        try:
            await _open_managers(settings, managers, metrics, calls, stack, end_workshop)
            stack.push_async_callback(end_fronts)  # once more: they end before the managers that they ask
            listener.listen()
            opened.set()
            await starting
        except OSError as error:
            raise SettingsError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from error
        except (LinkLost, SwapRefused) as error:
            raise UnusablePolicy(f"a front cannot begin: {error}") from error
        finally:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
        if settings.watch:
            watcher = _start_watcher(stack)
            for named in settings.policies:
                _follow(named, settings, managers[named.name], watcher, stack)
        yield managers


def _check_at_once(named: PolicyFolder) -> None:
    """Tells a mistyped folder without waiting for TensorFlow."""
    try:
        check_is_export(named.folder)
    except IncompleteError as error:
        raise UnusablePolicy(f"{error}{hint_for(named.folder)}") from None


async def _start_workshop(
    settings: Settings, metrics: Metrics, calls: WorkshopCalls, stack: AsyncExitStack
) -> Callable[[], Awaitable[None]]:
    """Returns what ends it; done also when the stack is left."""

    async def begin(child: Child) -> None:
        calls.begin(child)

    arguments = (settings.engine, settings.log_level)
    keeper = Keeper(
        "the workshop process",
        lambda: Child.start("app.workshop", arguments, {}),
        begin,
        lambda child: child.end(),
        lambda: metrics.restarted("workshop"),
    )

    async def end() -> None:
        calls.close()
        await keeper.close()

    stack.push_async_callback(end)
    await keeper.start()
    return end


def _keepers_of_fronts(
    settings: Settings,
    listener: socket.socket,
    managers: Mapping[str, Manager],
    opened: asyncio.Event,
    metrics: Metrics,
) -> list[Keeper]:
    async def start() -> Child:
        return await Child.start("app.front", (), manager_calls(managers), [listener])

    async def begin(child: Child) -> None:
        await opened.wait()
        await _begin_front(child, settings, managers)

    async def end(child: Child) -> None:
        with contextlib.suppress(LinkLost, TimeoutError):
            async with asyncio.timeout(settings.deadline_ms / 1000 + _FAREWELL_S):
                await child.link.call("stop")
        await child.end()

    def restarted() -> None:
        metrics.restarted("front")

    return [Keeper(f"front {number + 1}", start, begin, end, restarted) for number in range(settings.workers)]


async def _begin_front(child: Child, settings: Settings, managers: Mapping[str, Manager]) -> None:
    """Has it load what serves; it answers only once it takes part in every swap, with the version that serves then."""
    with contextlib.ExitStack() as stack:
        offers = {name: stack.enter_context(manager.offered()) for name, manager in managers.items()}
        loads = {name: Offer(version.name, graph, bundle) for name, (version, graph, bundle) in offers.items()}
        await child.link.call("open", settings, loads)
        for name, manager in managers.items():
            await manager.admit(RemoteFront(name, child.link), offers[name][0].key)
    await child.link.call("listen")


async def _open_managers(
    settings: Settings,
    managers: dict[str, Manager],
    metrics: Metrics,
    calls: WorkshopCalls,
    stack: AsyncExitStack,
    end_workshop: Callable[[], Awaitable[None]],
) -> None:
    state = _state_folder(settings, stack)
    lane = ThreadPoolExecutor(1, "control")
    # In a thread: what the lane still does may wait for this loop (see `_identifier`).
    stack.push_async_callback(asyncio.to_thread, lane.shutdown)
    loop = asyncio.get_running_loop()
    closing = AsyncExitStack()
    stack.push_async_callback(closing.aclose)
    stack.push_async_callback(end_workshop)  # before the managers: what they wait for will not come any more
    for named in settings.policies:
        store = stack.enter_context(Store(state / named.name, settings.engine).opened())
        more = [*upload_folders(named, settings.state_dir), *([named.series] if named.series else [])]
        source = Source(named.folder, _identifier(calls, store, loop), more)
        workshop = RemoteWorkshop(named.name, calls)
        manager = Manager(named.name, named.folder, workshop, source, store, lane, metrics.policy(named.name))
        try:
            await manager.start()
        except SwapRefused as refusal:
            raise UnusablePolicy(f"{named.folder}: {refusal}") from refusal
        except UnusablePolicy:
            raise
        except Exception as error:  # manifests and graphs can be wrong in more ways than are foreseen
            raise UnusablePolicy(f"{named.folder} cannot be opened: {type(error).__name__}: {error}") from error
        closing.push_async_callback(manager.close)
        managers[named.name] = manager


def _identifier(
    calls: WorkshopCalls, store: Store, loop: asyncio.AbstractEventLoop
) -> Callable[[Path, float], Identity]:
    """Tells what a checkpoint is, from the control lane; the workshop reads the train step where nothing else tells."""

    def train_step_in(folder: Path, digest: str) -> int:
        known = store.train_step(digest)
        if known is not None:
            return known
        train_step: int = asyncio.run_coroutine_threadsafe(calls.call("train_step_in", folder), loop).result()
        return train_step

    return lambda folder, rest_s: identify(folder, rest_s, train_step_in)


def _start_watcher(stack: AsyncExitStack) -> FolderWatcher:
    # It waits in one of anyio's threads: whoever else uses them should not wait for it.
    anyio.to_thread.current_default_thread_limiter().total_tokens += 1
    watcher = FolderWatcher()
    stack.push_async_callback(_cancelled, asyncio.create_task(watcher.run()))
    return watcher


def _follow(
    named: PolicyFolder, settings: Settings, manager: Manager, watcher: FolderWatcher, stack: AsyncExitStack
) -> None:
    # The folder of checkpoints may not be there yet, so that the one above it is watched too.
    folders = {named.series or named.folder, *upload_folders(named, settings.state_dir)}
    for checkpoints in checkpoint_folders(named.folder):
        folders |= {checkpoints, checkpoints.parent}
    changed = watcher.add(sorted(folders))
    manager.watched = True
    stack.push_async_callback(_cancelled, asyncio.create_task(follow(manager, changed)))


def _state_folder(settings: Settings, stack: AsyncExitStack) -> Path:
    """Where the server keeps what survives a restart; without one, a folder that goes with the process."""
    if settings.state_dir:
        return Path(settings.state_dir).expanduser().absolute()
    try:
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="policy-server.")))
    except OSError as error:
        raise UnusablePolicy(f"no folder for temporary files ({error}); --state-dir names another") from None


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
