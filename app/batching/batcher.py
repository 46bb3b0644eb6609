"""Zero-wait batches for one policy: an idle engine takes what is there; what arrives meanwhile goes next.

The event loop owns the queue; the engine runs in the policy's data lane, one thread. A pause is a gate between the
two: it closes between batches.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager

import numpy as np

from app.batching.recorder import Recorder
from app.batching.rule import INITIAL_STATE, Job, Pause, Result, next_batch
from app.engine.base import Arrays, Engine, InputRefused
from app.engine.chunks import join, split
from app.errors import DeadlinePassed, DoesNotFit, EngineFailed, NotReady, Overloaded, Problem, TooOld
from app.metrics import PolicyMetrics
from app.swap.lease import Slot

log = logging.getLogger("policy_server.batching")

# A batch of this many rows costs milliseconds for small policies: more would make the next ones wait.
MOST_ROWS = 4096
# A row's rounding may depend on the shape of its call and on its place in it: jobs that must come out the same
# at any load run in calls of this size.
ALONE_ROWS = 16
AddState = Callable[[Arrays, Arrays], Arrays]


class Batcher:
    """Runs the jobs of the policy `name` in batches, each batch on one version.

    `lease()` gives the active slot for the length of a batch; `add_state(inputs, initial)` puts initial states
    into inputs under the names that the functions take them by.
    """

    def __init__(
        self,
        name: str,
        lease: Callable[[], AbstractContextManager[Slot[Engine]]],
        add_state: AddState,
        lane: Executor,
        metrics: PolicyMetrics,
        waiting_room: int,
    ) -> None:
        self._name = name
        self._lease = lease
        self._add_state = add_state
        self._lane = lane
        self._metrics = metrics
        self._waiting_room = waiting_room
        self._waiting: deque[Job] = deque()
        self._running: asyncio.Task[None] | None = None
        self._recorder = Recorder()
        self._paused: Pause | None = None
        self._stopping = False
        self._closed = False

    @property
    def paused(self) -> Pause | None:
        """What is done with requests meanwhile; None while they are answered."""
        return self._paused

    def recorded(self) -> list[Arrays]:
        """A few inputs of requests that were answered: see `Recorder.rows`."""
        return self._recorder.rows()

    def submit(self, job: Job) -> None:
        """Puts a job into the waiting room; its future gets the answer.

        Raises:
          Overloaded: the room is full.
          NotReady: see `check_open`.
        """
        self.check_open()
        if len(self._waiting) >= self._waiting_room:
            self._waiting = deque(waiting for waiting in self._waiting if not waiting.done.done())
        if len(self._waiting) >= self._waiting_room:
            raise Overloaded(f"{len(self._waiting)} requests wait already; try again")
        self._waiting.append(job)
        self._start()

    def check_open(self) -> None:
        """Whether jobs are taken at all.

        Raises:
          NotReady: the policy is paused and refuses them, or the server is stopping.
        """
        if self._closed or (self._paused and self._stopping):
            raise NotReady("the server is stopping")
        if self._paused is Pause.REJECT:
            raise NotReady(f"policy {self._name} is paused")

    async def pause(self, mode: Pause) -> Pause | None:
        """Closes the gate and returns when no batch runs any more.

        WAIT keeps in the waiting room what is there and what comes. REJECT refuses what comes and what an earlier
        WAIT held; it finishes what was accepted while the policy was not paused. Left early, the gate stays closed.

        Returns:
          The pause that is in force then: another one, or none, where somebody else was faster.

        Raises:
          NotReady: the server is stopping.
        """
        if self._stopping:
            raise NotReady("the server is stopping")
        before, self._paused = self._paused, mode
        self._metrics.paused(True)
        if before is Pause.WAIT and mode is Pause.REJECT:
            self._refuse_waiting(f"policy {self._name} is paused")
        if self._running is not None:
            await asyncio.wait({self._running})
        return self._paused

    def resume(self) -> None:
        """Opens the gate; what waits goes on at once, on the weights that serve now."""
        self._paused = None
        self._metrics.paused(False)
        self._start()

    def stop_holding(self) -> None:
        """The server stops: what a pause holds is refused now, and from now on nothing is held."""
        self._stopping = True
        if self._paused is Pause.WAIT:
            self._refuse_waiting("the server is stopping")

    async def close(self) -> None:
        """Finishes what was accepted and is not held by a pause, then takes nothing more."""
        self.stop_holding()
        self._closed = True
        if self._running is not None:
            await self._running

    def _start(self) -> None:
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())

    def _refuse_waiting(self, reason: str) -> None:
        while self._waiting:
            _fail(self._waiting.popleft(), NotReady(reason))

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting and self._paused is not Pause.WAIT:
            batch, expired = next_batch(self._waiting, MOST_ROWS, loop.time())
            for job in expired:
                _fail(job, DeadlinePassed("the deadline passed while the request waited for its batch"))
            try:
                if batch:
                    with self._lease() as slot:
                        await self._run_on(slot, batch)
            except Exception as error:  # a bug of ours: this batch fails, and those that wait go on
                for job in batch:
                    _fail(job, _explained(error))

    async def _run_on(self, slot: Slot[Engine], batch: Sequence[Job]) -> None:
        version = slot.version
        jobs = []
        for job in batch:
            if job.min_train_step is not None and version.train_step < job.min_train_step:
                _fail(job, TooOld(f"version {version.name} has train step {version.train_step}"))
            else:
                jobs.append(job)
        if not jobs:
            return
        outcomes = await asyncio.get_running_loop().run_in_executor(
            self._lane, _compute, slot.engine, jobs, self._add_state
        )
        self._metrics.batch(sum(job.rows for job in jobs))
        self._record(jobs[0], outcomes[0])
        for job, outcome in zip(jobs, outcomes, strict=True):
            if isinstance(outcome, Exception):
                _fail(job, outcome)
            elif not job.done.done():
                job.done.set_result(Result(outcome, version.name, version.train_step))

    def _record(self, job: Job, outcome: Arrays | Exception) -> None:
        if job.function != INITIAL_STATE and not isinstance(outcome, Exception):
            self._recorder.offer(job.inputs, outcome, asyncio.get_running_loop().time())


def _compute(engine: Engine, jobs: Sequence[Job], add_state: AddState) -> list[Arrays | Exception]:
    """One call for all jobs; where it fails, one call for each, so that only the guilty fail. In the lane."""
    try:
        return list(_call(engine, jobs, add_state))
    except Exception as error:
        if len(jobs) == 1:
            return [_explained(error)]
    outcomes: list[Arrays | Exception] = []
    for job in jobs:
        try:
            outcomes.append(_call(engine, [job], add_state)[0])
        except Exception as error:
            outcomes.append(_explained(error))
    return outcomes


def _call(engine: Engine, jobs: Sequence[Job], add_state: AddState) -> list[Arrays]:
    inputs = [_with_state(engine, job, add_state) for job in jobs]
    together = inputs[0] if len(inputs) == 1 else _concatenate(inputs)
    function = jobs[0].function
    if function == INITIAL_STATE:
        outputs = engine.initial_state(sum(job.rows for job in jobs))
    else:
        outputs = _run_alone(engine, function, together) if jobs[0].alone else engine.run(function, together)
    if len(jobs) == 1:
        return [outputs]
    ends = np.cumsum([job.rows for job in jobs])
    return [
        {name: array[end - job.rows : end] for name, array in outputs.items()}
        for job, end in zip(jobs, ends, strict=True)
    ]


def _run_alone(engine: Engine, function: str, inputs: Arrays) -> Arrays:
    """Calls of exactly `ALONE_ROWS` rows: row i has the same place in a call of the same shape, whatever is around."""
    rows = len(next(iter(inputs.values())))
    return join([engine.run(function, piece) for piece in split(inputs, ALONE_ROWS)], rows)


def _concatenate(inputs: Sequence[Arrays]) -> Arrays:
    return {name: np.concatenate([one[name] for one in inputs]) for name in inputs[0]}


def _with_state(engine: Engine, job: Job, add_state: AddState) -> Arrays:
    return add_state(job.inputs, engine.initial_state(job.rows)) if job.needs_state else job.inputs


def _explained(error: Exception) -> Exception:
    if isinstance(error, InputRefused):
        return DoesNotFit([Problem("observation", f"the policy refused it: {error}", "an input it accepts")])
    log.error("the engine failed", exc_info=error)
    return EngineFailed(f"the policy failed: {type(error).__name__}")


def _fail(job: Job, error: Exception) -> None:
    if not job.done.done():
        job.done.set_exception(error)
