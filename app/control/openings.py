"""Policies that are open, and those that could not be opened: these are shown as failed, and tried again.

One policy that cannot be opened does not keep the others from serving. A policy that failed is opened when its folder
has changed and come to rest, and serves from then on as if it had been there at the start.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import AsyncExitStack
from typing import Any

from app.artifacts.export import check_folder
from app.artifacts.series import resolved, stamp_with_series
from app.control.manager import Manager
from app.control.progress import Progress
from app.errors import LinkLost, PolicyServerError, SwapRefused, UnusablePolicy, readable
from app.logs import about
from app.metrics import Metrics
from app.rpc.child import Child
from app.rpc.messages import Offer, WorkerFigures
from app.rpc.worker import RemoteWorker
from app.settings import PolicyFolder, SettingsError

log = logging.getLogger("policy_server.start")

# How often the folders of policies that failed are checked; one is tried when two checks in a row find it the same.
_LOOK_EVERY_S = 0.5
_SOON_S = 0.5
# Opens one policy; what it leaves to be closed goes onto the stack.
Open = Callable[[PolicyFolder, AsyncExitStack], Awaitable[Manager]]
# Is called with a policy that was tried again, whether it is open now or fails for another reason.
Changed = Callable[[PolicyFolder], Awaitable[None]]


class Openings:
    """All policies of a server. `managers` are those that are open, `failures` says why the others are not.

    `opened`: the folders of those that are open, which for a folder of exports is the newest that was there.
    `metrics`: of the server.
    """

    def __init__(self, policies: Iterable[PolicyFolder], metrics: Metrics, progress: Progress) -> None:
        self.managers: dict[str, Manager] = {}
        self.failures: dict[str, str] = {}
        self.opened: dict[str, PolicyFolder] = {}
        self._policies = {named.name: named for named in policies}
        self.metrics = metrics
        self._progress = progress
        # Taken before each try, so that what changes meanwhile is seen.
        self._stamps = {name: stamp_with_series(named.folder) for name, named in self._policies.items()}

    def check_at_once(self) -> None:
        """Finds mistyped folders without waiting for TensorFlow.

        Raises:
          UnusablePolicy: no other policy is left.
        """
        for name, named in self._policies.items():
            try:
                check_folder(resolved(named).folder)
            except UnusablePolicy as error:
                self._fail(name, str(error))
        self._check_any_left()

    async def open_all(self, open_one: Open, stack: AsyncExitStack) -> None:
        """Opens all that have not failed yet.

        Raises:
          UnusablePolicy: none can be opened.
        """
        for name, named in self._policies.items():
            if name not in self.failures:
                await self._open(named, open_one, stack)
        self._check_any_left()

    async def try_again(self, open_one: Open, stack: AsyncExitStack, changed: Changed) -> None:
        """Opens policies that failed when their folders change; runs until it is cancelled.

        `changed` is called with each, whether it is open now or fails for another reason.
        """
        last = dict(self._stamps)
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            for name in list(self.failures):
                named = self._policies[name]
                stamp = await asyncio.to_thread(stamp_with_series, named.folder)
                settled, last[name] = stamp == last[name], stamp
                if not settled or stamp == self._stamps[name]:
                    continue
                self._stamps[name] = stamp
                try:
                    await self._open(named, open_one, stack)
                    await changed(named)
                except Exception:  # a bug of ours: the others are to be tried all the same
                    log.exception("%s: cannot be tried again", name, extra=about(name))

    async def _open(self, named: PolicyFolder, open_one: Open, stack: AsyncExitStack) -> None:
        began = time.perf_counter()
        self._progress.opens(named.name, str(named.folder))
        async with AsyncExitStack() as own:
            try:
                named = await asyncio.to_thread(resolved, named)
                await asyncio.to_thread(check_folder, named.folder)
                manager = await open_one(named, own)
            except SettingsError as error:
                self._fail(named.name, str(error))
            except PolicyServerError as error:
                text = str(error)
                self._fail(named.name, text if str(named.folder) in text else f"{named.folder}: {text}")
            except Exception as error:  # manifests and graphs can be wrong in more ways than are foreseen
                self._fail(named.name, f"{named.folder} cannot be opened: {type(error).__name__}: {error}")
            else:
                stack.push_async_callback(own.pop_all().aclose)
                self.managers[named.name], self.opened[named.name] = manager, named
                self.failures.pop(named.name, None)
                self.metrics.ready(named.name, True)
                version = manager.active
                what = f"version {version.name}, engine {version.engine}"
                self._progress.opened(named.name, what, time.perf_counter() - began)

    def _fail(self, name: str, reason: str) -> None:
        self.failures[name] = reason = readable(reason)
        self.metrics.ready(name, False)
        if len(self._policies) > 1:  # a server of this one alone ends with the reason
            self._progress.failed(name, reason)

    def _check_any_left(self) -> None:
        if len(self.failures) < len(self._policies):
            return
        reasons = list(self.failures.values())
        if len(reasons) == 1:
            raise UnusablePolicy(reasons[0])
        each = "; ".join(f"{name}: {reason}" for name, reason in self.failures.items())
        raise UnusablePolicy(f"none of {len(reasons)} policies can be served: {each}")


class RunningWorkers:
    """The workers that answer now, which also serve what is opened later."""

    def __init__(self, openings: Openings) -> None:
        self._openings = openings
        self._workers: list[Child] = []
        self._sent: dict[str, tuple[Any, ...]] = {}
        self._under_way: set[asyncio.Task[Any]] = set()
        self._asked: dict[Child, asyncio.Task[WorkerFigures]] = {}

    async def start(self, worker: Child, *settings: Any) -> None:
        """Has a worker load what serves, and listen: it takes part in every swap by then.

        A swap that is under way is not waited for.
        """
        known: set[str] = set()
        await worker.call("open", *settings)
        # What is opened meanwhile, too; between the last check and the next line nothing else runs.
        while missing := [name for name in self._openings.managers if name not in known]:
            for name in missing:  # one by one: TensorFlow does not like to load two at once
                await self._open_in(worker, name)
            known.update(missing)
            await worker.call("fail", dict(self._openings.failures))
        self._workers = [*(one for one in self._workers if not one.is_gone), worker]
        for name, args in self._sent.items():
            await worker.call(name, *args)
        await worker.call("listen")

    def ended(self, how: str) -> None:
        """Counts a worker that has ended; where it crashed, what was tried in it may be why."""
        self._openings.metrics.restarted("worker")
        for manager in self._openings.managers.values():
            manager.traffic.worker_ended(how)

    async def broadcast(self, name: str, *args: Any) -> None:
        """Calls all workers, and those that start later; one that does not answer at once is not waited for."""
        self._sent[name] = args
        if calls := [self._begun(worker.call(name, *args)) for worker in self._workers]:
            await asyncio.wait(calls, timeout=_SOON_S)

    async def figures(self, spread: bool) -> list[WorkerFigures]:
        """Returns what has happened in the workers since they were asked last; one that has ended is forgotten.

        What a worker does not answer at once is returned by a later call: it counts from zero again.
        """
        for worker in self._workers:
            if worker not in self._asked:
                self._asked[worker] = self._begun(worker.link.call("figures", spread))
        if self._asked:
            await asyncio.wait(self._asked.values(), timeout=_SOON_S)
        answers = [(worker, task) for worker, task in self._asked.items() if task.done()]
        for worker, task in answers:
            del self._asked[worker]
            if isinstance(task.exception(), LinkLost) and worker in self._workers:
                self._workers.remove(worker)
        return [task.result() for _, task in answers if task.exception() is None]

    def _begun(self, call: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A call that goes on when it is waited for no more; how it ends is for whoever asks."""
        task = asyncio.create_task(call)
        self._under_way.add(task)
        task.add_done_callback(self._end)
        return task

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # or it would be logged as one that nobody has asked for

    @property
    def count(self) -> int:
        """How many workers answer, as far as is known."""
        return len(self._workers)

    async def notify(self, name: str) -> None:
        """Reports to all workers that a policy is open now, or why it still is not."""
        for worker in list(self._workers):
            try:
                if name in self._openings.managers:
                    await self._open_in(worker, name)
                await worker.call("fail", dict(self._openings.failures))
            except LinkLost:
                self._workers.remove(worker)  # its successor learns of it when it starts
            except SwapRefused as error:
                log.error("%s: a worker cannot load it: %s", name, error, extra=about(name))
                await worker.call("fail", {**self._openings.failures, name: f"this worker cannot load it: {error}"})

    async def _open_in(self, worker: Child, name: str) -> None:
        manager = self._openings.managers[name]
        with manager.admission.offered() as (version, graph, bundle):
            await worker.call(
                "open_policy", name, Offer(version.name, graph, bundle, self._openings.opened[name].series)
            )
            await manager.admission.admit(RemoteWorker(name, worker), version.key)
