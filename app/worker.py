"""The worker process: HTTP, batching, engines; started by the control process.

`python -m app.worker LINK LISTENER… LEVEL FORM NUMBER`: the log's level and form, and which worker it is.

The composition root of this process; that of the control process is `app/control/server.py`.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    gc.disable()  # until it listens: it would look at what is imported again and again, for 60 ms of a core

import uvloop

from app import logs, tasks
from app.api.application import build_app
from app.api.connection_limits import HttpLimits, SharedLimits
from app.api.console import Pages
from app.api.fast_path import FastPath
from app.api.models import Models
from app.api.openpi import OpenPi
from app.api.protocol import protocol_with
from app.api.server import HttpServer
from app.artifacts.bundle import Bundle, Graph
from app.batching.batcher import Batcher
from app.batching.job_queue import BatcherParts
from app.batching.rule import Pause
from app.batching.turns import Turns
from app.experience.writing import StepWriters
from app.inference.policy import Policy
from app.inference.service import Service
from app.inference.spec_parts import AllSpecParts
from app.inputs.defaults import Defaults
from app.inputs.names import asked_fields
from app.memory import FreedMemory
from app.metrics import Metrics
from app.offload import Offload
from app.rpc.control import RemoteManager
from app.rpc.link import Link
from app.rpc.messages import FleetStatus, Offer, TrafficFigures, TrafficPlan, WorkerFigures
from app.rpc.recorder import RemoteRecorder
from app.sessions.sessions import Sessions
from app.sessions.stores import store_for
from app.settings import PolicyFolder, Settings, telemetry_variables, traces_are_sent
from app.traffic.arms import Arms
from app.uploads.upload import Uploads, upload_places
from app.versions.active import LoadedVersions
from app.versions.loader import BundleLoader
from app.wire.tensors import Arrays
from saver.artifact import PolicySpec

if TYPE_CHECKING:
    from app.api.traced import TracedRequests

# CPython's default generation-0 threshold is 700 allocations. A batch of observations as JSON has hundreds of lists,
# which are gone with their request; cycles, which the collector is for, are rare.
_COLLECT_AFTER = 20_000


class Worker:
    """Answers the calls of the control process: `open` first, then the rest, and `stop` last.

    Policies are opened before it listens, and later on where they could not be at the start.
    """

    def __init__(self, listeners: Sequence[socket.socket]) -> None:
        self._listeners = listeners
        self._stack = AsyncExitStack()
        self._policies = AsyncExitStack()
        self._stopped = False
        self._traced: TracedRequests | None = None
        self._service: Service
        self._sessions: Sessions | None = None
        self._settings: Settings
        self._metrics: Metrics
        self._fast_path: FastPath
        self._limits: SharedLimits
        self._http: HttpServer
        self._pages: Pages
        self._recorder: RemoteRecorder | None = None
        self.link: Link

    async def open(self, settings: Settings, recorder: Path | None = None) -> None:
        """Builds everything but the policies. `recorder`: where the recorder's socket lies, where there is one."""
        self._settings, self._metrics = settings, Metrics()
        self._turns = Turns(asyncio.get_running_loop())
        self._spec_parts = AllSpecParts.under(settings)
        metrics, offload, memory = self._metrics, Offload(), FreedMemory()
        self._stack.callback(offload.close)
        self._stack.callback(memory.close)
        # A stack of its own, below all that uses policies: one that was opened late is closed after its requests too.
        self._stack.push_async_callback(self._policies.aclose)
        self._service = Service([p.name for p in settings.policies], settings.deadline_ms, settings.rows_limit, offload)
        self._service.fleet = FleetStatus() if settings.fleet_url else None
        writers = StepWriters(settings, metrics, self._turns.cork)
        self._stack.callback(writers.close)
        self._sessions = Sessions(self._service, store_for(settings), rows_limit=settings.rows_limit, writers=writers)
        self._stack.push_async_callback(self._sessions.close)
        self._pages = Pages(lambda number: self.link.call("console", number))
        self._recorder = RemoteRecorder(recorder) if recorder is not None else None
        app = build_app(self._service, self._sessions, metrics, settings, self._pages, self._recorder)
        if traces_are_sent(settings, telemetry_variables()):
            from app.api.traced import open_traces  # of an extra

            self._traced = open_traces(app, telemetry_variables(), self._stack)
        fast_path, crosses_origins = self._traced.fast_path if self._traced else FastPath, bool(settings.cors_origins)
        self._fast_path = fast_path(
            self._service, self._sessions, metrics, token=settings.data_token, crosses_origins=crosses_origins
        )
        openpi = OpenPi(self._service, metrics, settings, writers)
        self._sessions.also_kept = openpi.keeps
        self._fast_path.websockets = openpi
        self._limits = SharedLimits(HttpLimits.of(settings), memory)
        self._http = HttpServer(
            app,
            protocol_with(self._fast_path, self._limits, self._turns.cork),
            settings.root_path,
            _grace_s(settings),
            trusted_proxies=settings.trusted_proxies,
        )
        metrics.measure_with(functools.partial(_measure, metrics, self._service, self._limits))
        tidied = self._sessions.tidy_now_and_then(lambda count: metrics.sessions(count, settings.sessions_limit))
        for beside in (metrics.flush_now_and_then(), memory.give_back_now_and_then(), tidied):
            self._stack.push_async_callback(tasks.end, asyncio.create_task(beside))

    async def open_policy(self, name: str, offer: Offer) -> None:
        """Loads a policy that is offered, and answers requests for it from now on.

        Raises:
          SwapRefused: this process cannot load it.
        """
        named = next(named for named in self._settings.policies if named.name == name)
        named = replace(named, series=offer.series)
        policy = await self._opened(named, offer)
        assert self._sessions is not None, "open comes first"
        self._service.add(policy)
        self._sessions.add(policy)
        self._fast_path.add(policy)

    async def fail(self, failures: Mapping[str, str]) -> None:
        """Records why policies are not open: the reasons by name, of all that are not."""
        self._service.fail(failures)

    async def listen(self) -> None:
        """Returns when connections are accepted."""
        # All objects so far stay: without this, Python's collector goes through them again and again, and with
        # TensorFlow in the process no answer leaves for 100 ms meanwhile.
        gc.collect()
        gc.freeze()
        gc.set_threshold(_COLLECT_AFTER, *gc.get_threshold()[1:])
        gc.enable()
        self._stack.push_async_callback(self._http.stop)
        await self._http.start(self._listeners)
        if self._settings.grpc_port:
            await self._start_grpc()

    async def _start_grpc(self) -> None:
        from app.api import grpc_calls, grpc_server  # of an extra, and some 20 MB

        assert self._sessions is not None, "open comes first"
        models, note = Models(self._service, self._sessions), self._pages.note_call
        parts = grpc_calls.WorkerParts(models, self._limits.unfinished, self._metrics, self._settings, note)
        server = grpc_server.GrpcServer(parts, _grace_s(self._settings), self._traced)
        await server.start()
        self._stack.push_async_callback(server.stop)

    async def stop(self) -> None:
        """Answers what was accepted, and closes everything."""
        if self._sessions is not None:
            self._service.refuse_paused()
            self._pages.close()
            if self._recorder is not None:
                await self._recorder.close()
        await self._stack.aclose()
        self._stopped = True

    async def over(self) -> None:
        """Returns when the control process has gone; it ends this process by going.

        A worker that was stopped has nothing left to do by then. One that was not belongs to a server that was killed:
        it exits at once, as if it had been killed too.
        """
        await self.link.lost()
        if not self._stopped:
            os._exit(1)

    async def prepare(self, policy: str, graph: Graph, bundle: Bundle) -> None:
        """See `LoadedVersions.prepare`."""
        await self._service.policy(policy).versions.prepare(graph, bundle)

    async def activate(self, policy: str, name: str, digest: str) -> None:
        """See `LoadedVersions.activate`; what was held goes on."""
        served = self._service.policy(policy)
        served.versions.activate(name, digest)
        served.batcher.release()

    async def drained(self, policy: str) -> None:
        """See `LoadedVersions.drained`."""
        await self._service.policy(policy).versions.drained()

    async def pause(self, policy: str, mode: str) -> None:
        """See `Batcher.pause`."""
        await self._service.policy(policy).batcher.pause(Pause(mode))

    async def resume(self, policy: str) -> None:
        """See `Batcher.resume`."""
        self._service.policy(policy).batcher.resume()

    async def hold(self, policy: str, seconds: float) -> None:
        """See `Batcher.hold`."""
        await self._service.policy(policy).batcher.hold(seconds)

    async def release(self, policy: str) -> None:
        """See `Batcher.release`."""
        self._service.policy(policy).batcher.release()

    async def recorded(self, policy: str) -> list[Arrays]:
        """See `Batcher.recorded`."""
        return self._service.policy(policy).batcher.recorded()

    async def retained(self, policy: str) -> list[str]:
        """See `LoadedVersions.retained`."""
        return list(self._service.policy(policy).versions.retained)

    async def traffic(self, policy: str, plan: TrafficPlan) -> None:
        """See `Arms.follow`."""
        served = self._service.policy(policy)
        await served.arms.follow(plan)
        served.batcher.traffic = served.arms if plan.arms else None

    async def traffic_figures(self, policy: str) -> TrafficFigures:
        """See `Arms.take_figures`."""
        return self._service.policy(policy).arms.take_figures()

    async def fleet(self, status: FleetStatus) -> None:
        """Takes what the server's fleet knows of it."""
        self._service.fleet = status

    async def figures(self, spread: bool = False) -> WorkerFigures:
        """Returns what has happened here since the last call."""
        assert self._sessions is not None, "open comes first"
        are_kept = self._sessions.can_step_at_once or self._settings.session_url
        count = self._metrics.open_sessions if are_kept else None
        spreads = self._sessions.spread() if spread else None
        return WorkerFigures(self._metrics.take_recent(), count, self._pages.count, self._pages.take_calls(), spreads)

    async def alive(self) -> None:
        """Answers, which a process that hangs does not."""

    def _retains(self, policy: str, digest: str) -> bool:
        return self._sessions is not None and self._sessions.retains(policy, digest)

    async def _opened(self, named: PolicyFolder, offer: Offer) -> Policy:
        """Makes a policy of its parts; closed with the stack, in reverse order."""
        name, spec, settings = named.name, offer.graph.spec, self._settings
        manager = RemoteManager(name, self.link, settings.swap_deadline_ms / 1000)
        versions = await self._versions(name, offer)
        self._policies.callback((arms := Arms(versions)).close)
        folders = upload_places(named, settings.state_dir)
        parts = self._spec_parts.of(spec, offer.graph.serving)
        return Policy(
            name=name,
            spec=spec,
            serving=offer.graph.serving,
            typed_decoder=parts.typed_decoder,
            reader=parts.reader,
            templates=parts.templates,
            versions=versions,
            arms=arms,
            manager=manager,
            batcher=self._batcher(name, spec, parts.defaults, versions),
            metrics=self._metrics.policy(name),
            uploads=Uploads(folders, settings.upload_limit_bytes, manager.check),
            body_limit_bytes=settings.body_limit_bytes,
        )

    async def _versions(self, name: str, offer: Offer) -> LoadedVersions:
        executor = self._policies.enter_context(ThreadPoolExecutor(1, f"load-{name}"))
        retains = functools.partial(self._retains, name)
        versions = LoadedVersions(BundleLoader(), executor, retains, self._settings.retained_versions)
        await versions.load_first(offer.name, offer.graph, offer.bundle)
        return versions

    def _batcher(self, name: str, spec: PolicySpec, defaults: Defaults, versions: LoadedVersions) -> Batcher:
        parts = BatcherParts(
            name,
            versions,
            defaults.complete,
            self._policies.enter_context(ThreadPoolExecutor(1, f"data-{name}")),
            self._metrics.policy(name),
            self._settings.queue_limit_requests,
            fields=asked_fields(spec),
            spread=bool(self._settings.experience_dir),
            turns=self._turns,
        )
        batcher = Batcher(parts)
        self._policies.push_async_callback(batcher.close)
        return batcher


def _measure(metrics: Metrics, service: Service, shared: SharedLimits) -> None:
    metrics.buffered(shared.unfinished.total_bytes, shared.unread.total_bytes, shared.buffered_bytes)
    for policy in service.policies:
        policy.batcher.measure()


def _grace_s(settings: Settings) -> int:
    """Returns how long accepted requests have to be answered: a client that never ends one must not block the stop."""
    return -(-settings.deadline_ms // 1000) + 1


async def run(link: int, listeners: Sequence[int]) -> None:
    """Answers the control process until it stops this one, or is gone. Takes the numbers of open sockets."""
    worker = Worker([socket.socket(fileno=number) for number in listeners])
    calls = (
        worker.open, worker.open_policy, worker.fail, worker.listen, worker.stop, worker.prepare, worker.activate,
        worker.drained, worker.pause, worker.resume, worker.hold, worker.release, worker.recorded,
        worker.retained, worker.traffic, worker.traffic_figures, worker.fleet, worker.figures, worker.alive,
    )  # fmt: skip
    worker.link = await Link.over(socket.socket(fileno=link), {call.__name__: call for call in calls})
    await worker.over()


def main() -> None:
    """Runs until the control process stops it."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)  # the control process decides when to stop
    *ends, level, form, number = sys.argv[1:]
    logs.configure(level, form, process="worker", worker=int(number))
    link, *listeners = map(int, ends)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(link, listeners))


if __name__ == "__main__":
    main()
