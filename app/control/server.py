"""The control process: starts the builder and the workers, and decides which versions serve.

The composition root of the control process, and the start and stop order of the whole server; `app/worker.py` is that
of a worker. Nothing here imports TensorFlow or answers HTTP: this process is the one that must not fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread

from app import tasks
from app.artifacts.temporary import emptied, own_folder
from app.control.assembly import build_manager
from app.control.console import Console
from app.control.console_view import Parts
from app.control.handlers import manager_calls
from app.control.history import History
from app.control.identifier import identifier
from app.control.manager import Manager
from app.control.memory_use import memory_limit, record_memory
from app.control.openings import Openings, RunningWorkers
from app.control.probe_file import ProbeFile
from app.control.progress import Showing
from app.control.recording import RecorderProcess
from app.control.source import Source, checkpoint_folders
from app.control.state_dir import StateDir
from app.control.swap_log import SwapLog
from app.control.watch import FolderWatcher, follow
from app.errors import LinkLost, SwapRefused, UnusablePolicy
from app.metrics import Metrics
from app.rpc.builder import BuilderCalls, RemoteBuilder
from app.rpc.child import Child, Keeper
from app.rpc.messages import FleetStatus
from app.settings import PolicyFolder, Settings, SettingsError
from app.sockets import address_of, admit_nobody
from app.uploads.upload import upload_folders, upload_places

if TYPE_CHECKING:
    from app.control.fleet_policy import FleetPolicy
    from app.fleet.fleet import Fleet

# Beyond a worker's own grace for what was accepted.
_FAREWELL_S = 5.0
# It has nothing to finish. While it imports TensorFlow, which takes seconds, it does not see that its link is closed.
_END_BUILDER_S = 0.5
# Where a policy serves, only steps of a swap that take so long are worth a line: a trainer may publish every second.
_LONG_STEP_S = 1.0


@asynccontextmanager
async def open_server(settings: Settings, listeners: Sequence[socket.socket]) -> AsyncIterator[Openings]:
    """Serves within; on leaving, what was accepted is finished and every process ended.

    Args:
      settings: those of the whole server.
      listeners: bound, the one with a port first; every worker accepts connections from them.

    Yields:
      The policies that are open, which every worker serves, and those that failed, which are tried again.

    Raises:
      UnusablePolicy: not one policy can be opened; nothing was served.
      SettingsError: another server listens there, or the file of probe inputs cannot be used.
    """
    server = Server(settings, listeners)
    try:
        await server.start()
        yield server.openings
    finally:
        await server.close()


class Server:
    """All processes of a server, and the policies that they serve. Event loop only; started and closed once.

    Raises:
      SettingsError: the file of probe inputs cannot be used.
    """

    def __init__(self, settings: Settings, listeners: Sequence[socket.socket]) -> None:
        self._settings = settings
        self._listeners = listeners
        self._probe_file = _probe_file(settings)
        self._metrics = Metrics()
        self._progress = Showing(as_text=settings.log_format == "text")
        self.openings = Openings(settings.policies, self._metrics, self._progress)
        self._opened = asyncio.Event()
        self._running = RunningWorkers(self.openings)
        self._calls = BuilderCalls()
        self._builder: Keeper | None = None
        self._recorder: RecorderProcess | None = None
        self._fleet: Fleet | None = None
        self._swaps = SwapLog()
        self._in_fleet: dict[str, FleetPolicy] = {}
        self._workers = [self._worker(number) for number in range(settings.workers)]
        shown = (settings, self.openings, self._running, self._swaps, self._metrics)
        self._console = Console(Parts(*shown, fleet=lambda: self._fleet, recorder=lambda: self._recorder))
        self._executor = ThreadPoolExecutor(1, "control")
        self._folder = ExitStack()
        self._state = Path()
        self._managers = AsyncExitStack()
        self._watching = AsyncExitStack()

    async def start(self) -> None:
        """Starts everything, in this order: see `open_server`."""
        self.openings.check_at_once()
        with self._progress.bar(len(self._settings.policies) - len(self.openings.failures)):
            self._progress.note("starts TensorFlow")
            own = _own_folder(self._folder)
            await self._start_builder(own / ".builder")
            self._measure_memory()
            await self._serve(own)
        if self._settings.watch:
            self._watch()

    async def close(self) -> None:
        """Ends everything, in this order; each step is taken, whatever becomes of those before it."""
        order = (
            self._watching.aclose,
            self._end_workers,  # before the managers, which they call
            self._console.close,  # behind the workers, whose pages follow it
            self._leave_fleet,  # behind the workers: until then a change waits for them
            self._end_recorder,  # behind the workers: what they have answered is recorded
            self._end_builder,  # before the managers: what they wait for will not come any more
            self._managers.aclose,
            self._end_executor,
        )
        with self._folder:
            async with AsyncExitStack() as steps:
                for step in reversed(order):
                    steps.push_async_callback(step)

    async def _start_builder(self, folder: Path) -> None:
        """Starts the builder, whose temporary files lie in `folder`."""
        settings = self._settings

        async def steps(policy: str, done: Sequence[tuple[str, float]]) -> None:
            for name, seconds in done:
                if seconds >= _LONG_STEP_S or not self._swaps.serves(policy):
                    self._progress.step(policy, name, seconds)
                self._swaps.step(policy, name, seconds)

        async def start() -> Child:
            await asyncio.to_thread(emptied, folder)
            arguments = (settings.engine, settings.log_level, settings.log_format, str(folder))
            return await Child.start("app.builder", arguments, {"steps": steps}, stalled_s=settings.stalled_s)

        async def prepare(child: Child) -> None:
            self._calls.use(child)

        self._builder = Keeper(
            "the builder process",
            start,
            prepare,
            lambda child: child.end(_END_BUILDER_S),
            lambda _: self._metrics.restarted("builder"),
        )
        await self._builder.start()

    def _measure_memory(self) -> None:
        assert self._builder is not None, "it is started first"
        self._metrics.limits(memory_limit(), self._settings.checkpoint_expected_s)
        kept = {"builder": [self._builder], "worker": self._workers}
        self._watch_in(asyncio.create_task(record_memory(self._metrics, kept)))

    async def _end_builder(self) -> None:
        self._calls.close()
        if self._builder is not None:
            await self._builder.close()

    async def _start_recorder(self, folder: Path) -> None:
        if self._settings.experience_dir:
            self._recorder = RecorderProcess(self._settings, folder, self.openings.managers, self._metrics)
            await self._recorder.start()

    async def _end_recorder(self) -> None:
        if self._recorder is not None:
            await self._recorder.keeper.close()

    def _worker(self, number: int) -> Keeper:
        settings = self._settings

        async def start() -> Child:
            handlers = {**manager_calls(self.openings.managers, self._in_fleet), "console": self._console.after}
            arguments = (settings.log_level, settings.log_format, str(number + 1))
            return await Child.start("app.worker", arguments, handlers, self._listeners, settings.stalled_s)

        async def prepare(child: Child) -> None:
            await self._opened.wait()
            await self._running.start(child, settings, self._recorder.folder if self._recorder else None)
            child.watch("alive")

        async def end(child: Child) -> None:
            with contextlib.suppress(LinkLost, TimeoutError):
                async with asyncio.timeout(settings.deadline_ms / 1000 + _FAREWELL_S):
                    await child.link.call("stop")
            await child.end()

        return Keeper(f"worker {number + 1}", start, prepare, end, self._running.ended)

    async def _end_workers(self) -> None:
        for listener in self._listeners:
            admit_nobody(listener)
            listener.close()  # or it would still be connected to when no worker listens any more
        await asyncio.gather(*(keeper.close() for keeper in self._workers))

    async def _serve(self, own: Path) -> None:
        """Opens the policies, and has the workers listen. `own`: where their state lies if no setting names a folder.

        Raises:
          UnusablePolicy: not one can be opened, or a worker cannot serve them.
          SettingsError: another server listens there.
        """
        settings = self._settings
        # They import what they need while the policies are opened.
        starting = asyncio.gather(*(keeper.start() for keeper in self._workers))
        try:
            self._join_fleet()
            self._state = Path(settings.state_dir).absolute() if settings.state_dir else own
            await self.openings.open_all(self._open_policy, self._managers)
            await self._start_recorder(own / ".recorder")
            for listener in self._listeners:
                listener.listen()
            self._progress.note(
                f"{settings.workers} worker{'s load' if settings.workers > 1 else ' loads'} what serves"
            )
            self._opened.set()
            await starting
        except OSError as error:
            raise SettingsError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from error
        except (LinkLost, SwapRefused) as error:
            raise UnusablePolicy(f"a worker cannot start: {error}") from error
        finally:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)

    async def _open_policy(self, named: PolicyFolder, own: AsyncExitStack) -> Manager:
        """Opens one policy; what it leaves to be closed goes onto `own`."""
        settings = self._settings
        state_dir = own.enter_context(StateDir(self._state / named.name, settings.engine).opened())
        identify = identifier(self._calls, state_dir, asyncio.get_running_loop())
        more = [*upload_folders(named, settings.state_dir), *([named.series] if named.series else [])]
        source = Source(named.folder, identify, more)
        given = self._probe_file
        builder = RemoteBuilder(named.name, self._calls, lambda spec: given.inputs(named.name, spec) if given else ())
        history = History(named.name, self._metrics.policy(named.name), self._swaps.observe)
        manager = build_manager(named, builder, source, state_dir, self._executor, history)
        await manager.start()
        own.push_async_callback(manager.close)
        if self._fleet is not None:
            from app.background import give_way
            from app.control.fleet_files import FleetFiles
            from app.control.fleet_policy import FleetPolicy

            executor = own.enter_context(ThreadPoolExecutor(2, f"fleet-{named.name}", give_way))
            places = upload_places(named, settings.state_dir)
            files = FleetFiles(self._fleet, manager, state_dir, places, executor)
            self._in_fleet[named.name] = policy = FleetPolicy(self._fleet, manager, files)
            await policy.join()
        return manager

    def _join_fleet(self) -> None:
        """Takes up the lease of a member, where a fleet is named: nothing of it is imported otherwise."""
        settings = self._settings
        if settings.fleet_url:
            from app.fleet.fleet import Fleet
            from app.fleet.store import FleetStore

            store = FleetStore(settings.fleet_url, settings.fleet)
            url = settings.advertise or address_of(self._listeners[0])
            self._fleet = Fleet(store, settings.fleet, url, self._publish)
            self._fleet.start()

    async def _publish(self, status: FleetStatus, members: int) -> None:
        self._metrics.fleet(members, status.leased)
        for policy, epoch in status.applied.items():
            self._metrics.policy(policy).epoch(epoch)
        await self._running.broadcast("fleet", status)

    async def _leave_fleet(self) -> None:
        if self._fleet is not None:
            await self._fleet.close()

    async def _end_executor(self) -> None:
        # In a thread: what the executor still does may wait for this loop (see `identifier`).
        await asyncio.to_thread(self._executor.shutdown)

    def _watch(self) -> None:
        """Follows the folders of policies that are open, and of those that failed until they are."""
        # It waits in one of anyio's threads: whoever else uses them should not wait for it.
        anyio.to_thread.current_default_thread_limiter().total_tokens += 1
        watcher = FolderWatcher()
        self._watch_in(asyncio.create_task(watcher.run()))

        def follow_folders(named: PolicyFolder) -> None:
            if named.name in self.openings.managers:
                self._follow(self.openings.opened[named.name], self.openings.managers[named.name], watcher)

        async def changed(named: PolicyFolder) -> None:
            await self._running.notify(named.name)
            if self._recorder is not None and named.name in self.openings.managers:
                await self._recorder.add(named.name)
            follow_folders(named)

        for named in self._settings.policies:
            follow_folders(named)
        if self.openings.failures:
            self._watch_in(asyncio.create_task(self.openings.try_again(self._open_policy, self._managers, changed)))

    def _follow(self, named: PolicyFolder, manager: Manager, watcher: FolderWatcher) -> None:
        # The folder of checkpoints may not be there yet, so that the one above it is watched too.
        checkpoints = checkpoint_folders(named.folder)
        folders = {named.series or named.folder, *checkpoints, *upload_folders(named, self._settings.state_dir)}
        changed = watcher.add(sorted(folders), manager.changed, {folder.parent for folder in checkpoints})
        manager.watch()
        self._watch_in(asyncio.create_task(follow(manager, changed)))

    def _watch_in(self, task: asyncio.Task[None]) -> None:
        self._watching.push_async_callback(tasks.end, task)


def _probe_file(settings: Settings) -> ProbeFile | None:
    if not settings.probe_inputs:
        return None
    return ProbeFile(Path(settings.probe_inputs), [named.name for named in settings.policies])


def _own_folder(stack: ExitStack) -> Path:
    """A folder that goes with this process."""
    try:
        return stack.enter_context(own_folder("policy-server-state."))
    except OSError as error:
        raise UnusablePolicy(f"no folder for temporary files ({error}); TMPDIR names another") from None
