"""The control process: starts the builder and the workers, and decides which versions serve.

The composition root of the control way, and the start and stop order of the whole server; `app/worker.py` is that of
the data way. Nothing here imports TensorFlow or answers HTTP: this process is the one that must not fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import anyio.to_thread

from app.artifacts.checkpoint import Identity, identify
from app.artifacts.temporary import emptied, own_folder
from app.control.handlers import manager_calls
from app.control.manager import Manager
from app.control.openings import Changed, Open, Openings, RunningWorkers
from app.control.probe_file import ProbeFile
from app.control.progress import Progress, Showing
from app.control.source import Source, checkpoint_folders
from app.control.state_dir import StateDir
from app.control.watch import FolderWatcher, follow
from app.errors import LinkLost, SwapRefused, UnusablePolicy
from app.metrics import Metrics
from app.rpc.builder import BuilderCalls, RemoteBuilder
from app.rpc.child import Child, Keeper
from app.settings import PolicyFolder, Settings, SettingsError
from app.sockets import admit_nobody
from app.uploads.upload import upload_folders

# Beyond a worker's own grace for what was accepted.
_FAREWELL_S = 5.0
# It has nothing to finish. While it imports TensorFlow, which takes seconds, it does not see that its link is closed.
_END_BUILDER_S = 0.5


@asynccontextmanager
async def open_server(settings: Settings, listener: socket.socket) -> AsyncIterator[Openings]:
    """Serves within; on leaving, what was accepted is finished and every process ended.

    Args:
      settings: what the server was told.
      listener: bound; every worker accepts connections from it.

    Yields:
      The policies that are open, which every worker serves, and those that failed, which are tried again.

    Raises:
      UnusablePolicy: not one policy can be opened; nothing was served.
      SettingsError: another server listens there, or the file of probe inputs cannot be used.
    """
    given = _probe_file(settings)
    async with AsyncExitStack() as stack:
        metrics, progress = Metrics(), Showing()
        openings = Openings(settings.policies, metrics, progress)
        openings.check_at_once()
        showing = stack.enter_context(ExitStack())
        showing.enter_context(progress.bar(len(settings.policies) - len(openings.failures)))
        calls = BuilderCalls()
        progress.note("starts TensorFlow")
        own = _own_folder(stack)
        end_builder = await _start_builder(settings, metrics, calls, progress, stack, own / ".builder")
        opened = asyncio.Event()
        told = RunningWorkers(openings)
        workers = _keepers_of_workers(settings, listener, openings, told, opened, metrics)

        async def end_workers() -> None:
            admit_nobody(listener)
            listener.close()  # or it would still be connected to when no worker listens any more
            await asyncio.gather(*(keeper.close() for keeper in workers))

        stack.push_async_callback(end_workers)
        # They import what they need while the policies are opened.
        starting = asyncio.gather(*(keeper.start() for keeper in workers))
        try:
            state = Path(settings.state_dir).expanduser().absolute() if settings.state_dir else own
            open_one, closing = _opener(state, settings, given, metrics, calls, stack)
            stack.push_async_callback(end_builder)  # before the managers: what they wait for will not come any more
            await openings.open_all(open_one, closing)
            stack.push_async_callback(end_workers)  # once more: they end before the managers that they ask
            listener.listen()
            progress.note(f"{settings.workers} worker{'s load' if settings.workers > 1 else ' loads'} what serves")
            opened.set()
            await starting
        except OSError as error:
            raise SettingsError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from error
        except (LinkLost, SwapRefused) as error:
            raise UnusablePolicy(f"a worker cannot begin: {error}") from error
        finally:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
        showing.close()
        if settings.watch:
            _watch_all(settings, openings, told, partial(openings.try_again, open_one, closing), stack)
        yield openings


def _watch_all(
    settings: Settings,
    openings: Openings,
    told: RunningWorkers,
    try_again: Callable[[Changed], Coroutine[None, None, None]],
    stack: AsyncExitStack,
) -> None:
    """Follows the folders of policies that are open, and of those that failed until they are."""
    watcher = _start_watcher(stack)

    def follow_folders(named: PolicyFolder) -> None:
        if named.name in openings.managers:
            _follow(openings.opened[named.name], settings, openings.managers[named.name], watcher, stack)

    async def changed(named: PolicyFolder) -> None:
        await told.tell(named.name)
        follow_folders(named)

    for named in settings.policies:
        follow_folders(named)
    if openings.failures:
        stack.push_async_callback(_cancelled, asyncio.create_task(try_again(changed)))


def _probe_file(settings: Settings) -> ProbeFile | None:
    if not settings.probe_inputs:
        return None
    return ProbeFile(Path(settings.probe_inputs), [named.name for named in settings.policies])


async def _start_builder(
    settings: Settings,
    metrics: Metrics,
    calls: BuilderCalls,
    progress: Progress,
    stack: AsyncExitStack,
    folder: Path,
) -> Callable[[], Awaitable[None]]:
    """Returns what ends it; done also when the stack is left. `folder` is for its temporary files."""

    async def step(policy: str, name: str, seconds: float) -> None:
        progress.step(policy, name, seconds)

    async def begin(child: Child) -> None:
        calls.begin(child)

    async def start() -> Child:
        await asyncio.to_thread(emptied, folder)
        arguments = (settings.engine, settings.log_level, str(folder))
        return await Child.start("app.builder", arguments, {"step": step}, stalled_s=settings.stalled_s)

    keeper = Keeper(
        "the builder process",
        start,
        begin,
        lambda child: child.end(_END_BUILDER_S),
        lambda: metrics.restarted("builder"),
    )

    async def end() -> None:
        calls.close()
        await keeper.close()

    stack.push_async_callback(end)
    await keeper.start()
    return end


def _keepers_of_workers(
    settings: Settings,
    listener: socket.socket,
    openings: Openings,
    told: RunningWorkers,
    opened: asyncio.Event,
    metrics: Metrics,
) -> list[Keeper]:
    async def start() -> Child:
        return await Child.start("app.worker", (), manager_calls(openings.managers), [listener], settings.stalled_s)

    async def begin(child: Child) -> None:
        await opened.wait()
        await told.begin(child, settings)
        child.watch("alive")

    async def end(child: Child) -> None:
        with contextlib.suppress(LinkLost, TimeoutError):
            async with asyncio.timeout(settings.deadline_ms / 1000 + _FAREWELL_S):
                await child.link.call("stop")
        await child.end()

    def restarted() -> None:
        metrics.restarted("worker")

    return [Keeper(f"worker {number + 1}", start, begin, end, restarted) for number in range(settings.workers)]


def _opener(
    state: Path,
    settings: Settings,
    given: ProbeFile | None,
    metrics: Metrics,
    calls: BuilderCalls,
    stack: AsyncExitStack,
) -> tuple[Open, AsyncExitStack]:
    """What opens one policy, which keeps its state in a folder in `state`, and what the open ones are closed by."""
    executor = ThreadPoolExecutor(1, "control")
    # In a thread: what the thread still does may wait for this loop (see `_identifier`).
    stack.push_async_callback(asyncio.to_thread, executor.shutdown)
    loop = asyncio.get_running_loop()
    closing = AsyncExitStack()
    stack.push_async_callback(closing.aclose)

    async def open_one(named: PolicyFolder, own: AsyncExitStack) -> Manager:
        state_dir = own.enter_context(StateDir(state / named.name, settings.engine).opened())
        more = [*upload_folders(named, settings.state_dir), *([named.series] if named.series else [])]
        source = Source(named.folder, _identifier(calls, state_dir, loop), more)
        builder = RemoteBuilder(named.name, calls, lambda spec: given.inputs(named.name, spec) if given else ())
        manager = Manager(named.name, named.folder, builder, source, state_dir, executor, metrics.policy(named.name))
        await manager.start()
        own.push_async_callback(manager.close)
        return manager

    return open_one, closing


def _identifier(
    calls: BuilderCalls, state_dir: StateDir, loop: asyncio.AbstractEventLoop
) -> Callable[[Path, float], Identity]:
    """What identifies a checkpoint, in the control thread; the builder reads a train step that nothing else says."""

    def train_step_in(folder: Path, digest: str) -> int:
        known = state_dir.train_step(digest)
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
    changed = watcher.add(sorted(folders), manager.changed)
    manager.watched = True
    stack.push_async_callback(_cancelled, asyncio.create_task(follow(manager, changed)))


def _own_folder(stack: AsyncExitStack) -> Path:
    """A folder that goes with this process."""
    try:
        return stack.enter_context(own_folder("policy-server-state."))
    except OSError as error:
        raise UnusablePolicy(f"no folder for temporary files ({error}); TMPDIR names another") from None


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
