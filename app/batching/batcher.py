"""Zero-wait batches for one policy: an idle engine takes what is there; what arrives meanwhile goes next.

The event loop owns the queue. A call that is known to be short runs on it, between two rounds of reading requests; any
other runs in the policy's data thread. A pause is a gate before both: it closes between batches.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from time import perf_counter
from typing import TypeAlias

import numpy as np

from app.batching.call_times import CallTimes
from app.batching.recorder import Recorder
from app.batching.rule import INITIAL_STATE, Job, Pause, Result, next_batch
from app.engine.base import Engine, InputRefused
from app.engine.chunks import join, split
from app.errors import (
    DeadlinePassed,
    DoesNotFit,
    EngineFailed,
    NotReady,
    Overloaded,
    PolicyServerError,
    Problem,
    TooOld,
    WeightsGone,
)
from app.metrics import PolicyMetrics
from app.versions.lease import LoadedVersion
from app.wire.tensors import Arrays

log = logging.getLogger("policy_server.batching")

# A batch of this many rows costs milliseconds for small policies: more would make the next ones wait.
MOST_ROWS = 4096
# A row's rounding may depend on the shape of its call and on its place in it: jobs that must come out the same
# at any load run in calls of this size.
SEEDED_BATCH_ROWS = 16
# Handing a call to a thread and its answer back takes some 100 µs, of which the event loop spends half.
INLINE_S = 0.0003
# Inputs, rows, the initial policy state where they begin with it, and which rows do, where not all of them → all inputs
# that the functions take: `Defaults.complete`.
Complete: TypeAlias = "Callable[..., Arrays]"


class Batcher:
    """Runs the jobs of the policy `name` in batches, each batch on one version.

    `lease()` gives the active version, to be entered for the length of a batch; `complete` adds what requests have left
    out. A call expected to take at most `inline_s` seconds runs on the event loop, any other in `executor`. `fields`:
    what a refusal names where the policy has refused its inputs.
    """

    def __init__(
        self,
        name: str,
        lease: Callable[[], LoadedVersion[Engine]],
        complete: Complete,
        executor: Executor,
        metrics: PolicyMetrics,
        queue: int,
        inline_s: float = INLINE_S,
        fields: str = "observation",
    ) -> None:
        self._name = name
        self._lease = lease
        self._complete = complete
        self._executor = executor
        self._metrics = metrics
        self._queue = queue
        self._inline_s = inline_s
        self._fields = fields
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Job] = deque()
        self._in_thread: Sequence[Job] = ()
        self._running: asyncio.Task[None] | None = None
        self._next_step: asyncio.Handle | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._expires_at = math.inf
        # Of the next batch. One lets a single request through: where rows depend on each other, none shares a call.
        self._most_rows = MOST_ROWS
        self._call_times: dict[str, CallTimes] = {}
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
        """Puts a job into the queue; its waiter is told the answer, or that the deadline has passed.

        Raises:
          Overloaded: the room is full.
          NotReady: see `check_open`.
        """
        if self._paused or self._closed:
            self.check_open()
        if len(self._waiting) >= self._queue:
            self._waiting = deque(waiting for waiting in self._waiting if not waiting.waiter.done())
            if len(self._waiting) >= self._queue:
                raise Overloaded(f"{len(self._waiting)} requests wait already; try again")
        self._waiting.append(job)
        if self._running is not None or self._paused:
            self._expire_from(job.deadline)
        elif self._next_step is None:
            self._next_step = self._loop.call_soon(self._step)

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

        WAIT keeps in the queue what is there and what comes. REJECT refuses what comes and what an earlier
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
        if mode is Pause.REJECT:
            await self._finished()
        elif self._running is not None:
            await asyncio.wait({self._running})
        self._expire_at_all()
        return self._paused

    def resume(self) -> None:
        """Opens the gate; what waits goes on at once, on the weights that serve now."""
        self._paused = None
        self._metrics.paused(False)
        self._go_on()

    def stop_holding(self) -> None:
        """The server stops: what a pause holds is refused now, and from now on nothing is held."""
        self._stopping = True
        if self._paused is Pause.WAIT:
            self._refuse_waiting("the server is stopping")

    async def close(self) -> None:
        """Finishes what was accepted and is not held by a pause, then takes nothing more."""
        self.stop_holding()
        self._closed = True
        await self._finished()
        if self._expiry is not None:
            self._expiry.cancel()

    async def _finished(self) -> None:
        """Returns when nothing waits any more but what a pause holds."""
        while self._running is not None or (self._waiting and self._paused is not Pause.WAIT):
            if self._running is not None:
                await asyncio.wait({self._running})
            elif self._closed or self._paused:
                self._go_on()
                await asyncio.sleep(0)
            else:
                return  # the pause was ended meanwhile

    def _refuse_waiting(self, reason: str) -> None:
        while self._waiting:
            _fail(self._waiting.popleft(), NotReady(reason))

    # From here on: which batch runs where.

    def _go_on(self) -> None:
        if self._waiting and self._next_step is None and self._running is None:
            self._next_step = self._loop.call_soon(self._step)

    def _step(self) -> None:
        """Runs the next batch, or has it run; between two batches the event loop does what else there is to do."""
        self._next_step = None
        if self._paused is Pause.WAIT or self._running is not None:
            return
        batch, expired = next_batch(self._waiting, self._most_rows, self._loop.time())
        for job in expired:
            _fail(job, DeadlinePassed("the deadline passed while the request waited for its batch"))
        if batch:
            try:
                self._run(batch)
            except Exception as error:  # a bug of ours: this batch fails, and those that wait go on
                _fail_all(batch, error)
        self._go_on()

    def _run(self, batch: Sequence[Job]) -> None:
        wanted = batch[0].loaded
        if wanted is not None and wanted.retired:
            raise WeightsGone(f"the weights of version {wanted.version.name} are not kept any more")
        with wanted or self._lease() as loaded:
            jobs = _new_enough(batch, loaded.version.train_step, loaded.version.name)
            call_times = self._call_times.setdefault(loaded.engine.name, CallTimes())
            rows = _rows(jobs)
            apart = bool(loaded.version.dependent_rows)
            self._most_rows = 1 if apart else MOST_ROWS
            if jobs and call_times.expected_s(jobs[0].function, rows) <= self._inline_s:
                self._tell(loaded, jobs, rows, _compute(loaded.engine, jobs, rows, self._complete, call_times, apart))
            elif jobs:
                self._in_thread = jobs
                loaded.acquire()
                self._running = self._loop.create_task(self._run_in_thread(loaded, jobs, rows, call_times))
                self._expire_at_all()

    async def _run_in_thread(
        self, loaded: LoadedVersion[Engine], jobs: Sequence[Job], rows: int, call_times: CallTimes
    ) -> None:
        """Takes over one lease of the version."""
        try:
            apart = bool(loaded.version.dependent_rows)
            work = self._loop.run_in_executor(
                self._executor, _compute, loaded.engine, jobs, rows, self._complete, call_times, apart
            )
            self._tell(loaded, jobs, rows, await work)
        except Exception as error:  # as in `_step`
            _fail_all(jobs, error)
        finally:
            loaded.release()
            self._running, self._in_thread = None, ()
            self._go_on()

    def _tell(
        self, loaded: LoadedVersion[Engine], jobs: Sequence[Job], rows: int, outcomes: Sequence[Arrays | Exception]
    ) -> None:
        self._metrics.batch(rows)
        self._record(jobs[0], outcomes[0])
        version = loaded.version
        name, train_step, digest = version.name, version.train_step, version.digest
        for job, outcome in zip(jobs, outcomes, strict=True):
            if job.waiter.done():
                continue
            if isinstance(outcome, InputRefused):
                problem = Problem(self._fields, f"the policy refused it: {outcome}", "an input it accepts")
                job.waiter.set_exception(DoesNotFit([problem]))
            elif isinstance(outcome, Exception):
                job.waiter.set_exception(outcome)
            else:
                job.waiter.set_result(Result(outcome, name, train_step, digest))

    def _record(self, job: Job, outcome: Arrays | Exception) -> None:
        now = self._loop.time()
        if self._recorder.wants(now) and job.function != INITIAL_STATE and not isinstance(outcome, Exception):
            whole = self._complete(job.inputs, job.rows, {} if job.needs_state else None)
            self._recorder.offer(whole, outcome, now)

    # Deadlines of those that wait, or whose batch runs elsewhere: one timer for all of them.

    def _expire_at_all(self) -> None:
        for job in (*self._waiting, *self._in_thread):
            self._expire_from(job.deadline)

    def _expire_from(self, deadline: float) -> None:
        if deadline < self._expires_at:
            if self._expiry is not None:
                self._expiry.cancel()
            # Kept here: uvloop's handle of a call that is due at once does not tell when.
            self._expires_at = deadline
            self._expiry = self._loop.call_at(deadline, self._expire)

    def _expire(self) -> None:
        self._expiry, self._expires_at = None, math.inf
        now = self._loop.time()
        why = f": policy {self._name} is paused" if self._paused else ""
        left = []
        for job in (*self._waiting, *self._in_thread):
            if job.deadline <= now:
                _fail(job, DeadlinePassed(f"no answer before the deadline{why}"))
            elif not job.waiter.done():
                left.append(job.deadline)
        if left:
            self._expire_from(min(left))


def _new_enough(batch: Sequence[Job], train_step: int, version: str) -> list[Job]:
    """Those that may run on the version; the others are told."""
    jobs = []
    for job in batch:
        if job.min_train_step is not None and train_step < job.min_train_step:
            _fail(job, TooOld(f"version {version} has train step {train_step}"))
        else:
            jobs.append(job)
    return jobs


def _compute(
    engine: Engine, jobs: Sequence[Job], rows: int, complete: Complete, call_times: CallTimes, apart: bool
) -> Sequence[Arrays | Exception]:
    """One call for all jobs; where it fails, or they are to be `apart`, one call for each: only the guilty fail."""
    if len(jobs) == 1 or not apart:
        try:
            began = perf_counter()
            outcomes = _call(engine, jobs, rows, complete, apart)
            call_times.note(jobs[0].function, rows, perf_counter() - began)
            return outcomes
        except Exception as error:
            if len(jobs) == 1:
                return [_explained(error)]
    each: list[Arrays | Exception] = []
    for job in jobs:
        try:
            each.append(_call(engine, [job], job.rows, complete, apart)[0])
        except Exception as error:
            each.append(_explained(error))
    return each


def _call(engine: Engine, jobs: Sequence[Job], rows: int, complete: Complete, apart: bool) -> list[Arrays]:
    function = jobs[0].function
    if function == INITIAL_STATE:
        outputs = engine.initial_state(rows)
    else:
        inputs = _gathered(engine, jobs, rows, complete)
        fixed = jobs[0].isolated and not apart
        outputs = _run_isolated(engine, function, inputs) if fixed else engine.run(function, inputs)
    if len(jobs) == 1:
        return [outputs]
    shares, start = [], 0
    for job in jobs:
        end = start + job.rows
        shares.append({name: array[start:end] for name, array in outputs.items()})
        start = end
    return shares


def _gathered(engine: Engine, jobs: Sequence[Job], rows: int, complete: Complete) -> Arrays:
    """The inputs of all jobs, one below the other. What is left out is added once where all leave out the same."""
    first = jobs[0]
    if len(jobs) == 1:
        return _completed(engine, first, complete)
    names = first.inputs.keys()
    if all(_alike(first, job) and job.inputs.keys() == names for job in jobs):
        together = _concatenated([job.inputs for job in jobs])
        return complete(together, rows, engine.initial_state(rows) if first.needs_state else None)
    return _concatenated([_completed(engine, job, complete) for job in jobs])


def _alike(first: Job, job: Job) -> bool:
    """Whether what they leave out can be added to both at once."""
    return job.needs_state is first.needs_state and job.reset_mask is first.reset_mask is None


def _completed(engine: Engine, job: Job, complete: Complete) -> Arrays:
    initial = engine.initial_state(job.rows) if job.needs_state else None
    return complete(job.inputs, job.rows, initial, *([] if job.reset_mask is None else [job.reset_mask]))


def _concatenated(inputs: Sequence[Arrays]) -> Arrays:
    return {name: np.concatenate([one[name] for one in inputs]) for name in inputs[0]}


def _run_isolated(engine: Engine, function: str, inputs: Arrays) -> Arrays:
    """Calls of exactly `SEEDED_BATCH_ROWS` rows: row i has the same place in a call of the same shape each time."""
    rows = len(next(iter(inputs.values())))
    return join([engine.run(function, piece) for piece in split(inputs, SEEDED_BATCH_ROWS)], rows)


def _rows(jobs: Sequence[Job]) -> int:
    return sum([job.rows for job in jobs])


def _explained(error: Exception) -> Exception:
    """What a caller is told, but for inputs that the policy refused: they need the names of its fields."""
    if isinstance(error, (PolicyServerError, InputRefused)):
        return error
    log.error("the engine failed", exc_info=error)
    return EngineFailed(f"the policy failed: {type(error).__name__}")


def _fail_all(jobs: Sequence[Job], error: Exception) -> None:
    explained = _explained(error)
    for job in jobs:
        _fail(job, explained)


def _fail(job: Job, error: Exception) -> None:
    if not job.waiter.done():
        job.waiter.set_exception(error)
