"""Zero-wait batches for one policy: an idle engine takes what is there; what arrives meanwhile goes next.

The event loop owns the queue. A call that is known to be short runs on it, between rounds of reading requests, or as
soon as its request is read where those come one at a time; any other runs in the policy's data thread. A pause is a
gate before all: it closes between batches. Which jobs make a batch: `app.batching.rule`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from time import perf_counter

from app.batching.batch import Batch, new_enough, whole
from app.batching.call_times import CallTimes
from app.batching.compute import Complete, Outcomes
from app.batching.deadlines import Deadlines
from app.batching.delivery import Traffic, deliver, fallen_back, refuse_gone, without_failed
from app.batching.failures import fail, fail_all
from app.batching.input_sample import InputSample
from app.batching.rule import INITIAL_STATE, Gathered, Job, Pause, next_batch
from app.batching.timing import Timing
from app.batching.turns import Arrivals, Turns
from app.engine.base import Engine
from app.errors import DeadlinePassed, NotReady, Overloaded
from app.metrics import PolicyMetrics
from app.versions.lease import LoadedVersion
from app.wire.tensors import Arrays

# A batch of this many rows costs milliseconds for small policies: more would make the next ones wait.
MOST_ROWS = 4096
# Handing a call to a thread and its answer back takes some 100 µs, of which the event loop spends half.
INLINE_S = 0.0003
# To gather fewer takes as long as it saves.
_MANY = 4


@dataclass(frozen=True)
class BatcherParts:
    """The collaborators and limits of a batcher.

    `active()` gives the version that serves; `complete` adds what requests have left out. `queue_limit`: the most jobs
    that wait. `inline_s`: which calls run on the event loop, see `Batch.is_short`; any other runs in `executor`.
    `fields`: what a refusal names where the policy has refused its inputs. `spread`: how a few inputs are kept, see
    `InputSample`. `turns`: those of the event loop, for all batchers on it.
    """

    name: str
    active: Callable[[], LoadedVersion[Engine]]
    complete: Complete
    executor: Executor
    metrics: PolicyMetrics
    queue_limit: int
    inline_s: float = INLINE_S
    fields: str = "observation"
    spread: bool = False
    turns: Turns | None = None


class Batcher:
    """Runs the jobs of one policy in batches, each batch on one version. `traffic`: None where nothing is tried."""

    def __init__(self, parts: BatcherParts) -> None:
        self._parts = parts
        self.traffic: Traffic | None = None
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Job] = deque()
        self._in_thread: Sequence[Job] = ()
        self._running: asyncio.Task[None] | None = None
        self._deadlines = Deadlines(self._loop, lambda: (*self._waiting, *self._in_thread), self._why_late)
        # Of the next batch. One lets a single request through: where rows depend on each other, none shares a call.
        self._most_rows = MOST_ROWS
        self._call_times: defaultdict[str, CallTimes] = defaultdict(CallTimes)
        self._sample = InputSample(parts.spread)
        self._paused: Pause | None = None
        self._released: asyncio.Event | None = None
        self._is_due = self._stopping = self._closed = False
        self._gathered: Gathered | None = None
        self._has_many = False  # whether the last batch had
        self._turns = parts.turns or Turns(self._loop)
        self._arrivals = Arrivals(self._turns)
        self._timed = 0  # jobs that are timed and not in a batch so far; those that nobody waits for any more, too

    @property
    def paused(self) -> Pause | None:
        """The pause in force; None while requests are answered."""
        return self._paused

    def recorded(self) -> list[Arrays]:
        """Returns a few inputs of requests that were answered: see `InputSample.rows`."""
        return self._sample.rows()

    def measure(self) -> None:
        """Records how many requests wait."""
        waiting = sum(job.requests for job in self._waiting)
        self._parts.metrics.queue(waiting, self._parts.queue_limit)

    def submit(self, job: Job, alone: bool = False) -> None:
        """Puts a job into the queue; one that is `alone` runs now, where nothing else waits or runs: see `Arrivals`.

        Raises:
          Overloaded: the queue is full.
          NotReady: see `check_open`.
        """
        if self._paused or self._closed:
            self.check_open()
        is_busy = self._waiting or self._running or self._released or self._paused
        if alone and not is_busy and self._arrivals.is_alone():
            if (delivery := self._computed([job])) is not None:
                delivery()
            self._arrivals.note_alone()  # after the answer has left
            return
        if len(self._waiting) >= self._parts.queue_limit:
            self._waiting = deque(waiting for waiting in self._waiting if not waiting.waiter.done())
            if len(self._waiting) >= self._parts.queue_limit:
                raise Overloaded(f"{len(self._waiting)} requests wait already; try again")
        self._waiting.append(job)
        if self._running is not None or self._paused:
            self._deadlines.watch(job.deadline)
        elif not self._is_due:
            self._go_on()

    def gathers(self, gathered: Gathered) -> bool:
        """Returns whether one more request may join those, whose job is submitted at the end of this turn."""
        if self._gathered is gathered:
            return len(gathered) + len(self._waiting) < self._parts.queue_limit
        if not self._has_many or self._gathered is not None or self.traffic is not None:
            return False
        if self._paused or self._closed or self._running or self._released or self._arrivals.is_alone():
            return False
        self._gathered = gathered
        if not self._is_due:
            self._is_due = True
            self._turns.add(self)
        return True

    def _submit_gathered(self) -> None:
        gathered, self._gathered = self._gathered, None
        if gathered is not None and (job := gathered.job()) is not None:
            self._waiting.append(job)
            if self._running is not None or self._paused:
                self._deadlines.watch(job.deadline)

    def time(self, job: Job, timing: Timing) -> None:
        """Has the times of a job that is about to be submitted noted."""
        self._timed += 1
        timing.policy, timing.function, timing.rows = self._parts.name, job.function, job.rows
        timing.queued_at = perf_counter()
        job.timing = timing

    def check_open(self) -> None:
        """Raises where no jobs are taken at all.

        Raises:
          NotReady: the policy is paused and refuses them, or the server is stopping.
        """
        if self._closed or (self._paused and self._stopping):
            raise NotReady("the server is stopping")
        if self._paused is Pause.REJECT:
            raise NotReady(f"policy {self._parts.name} is paused")

    async def pause(self, mode: Pause) -> Pause | None:
        """Closes the gate and returns when no batch runs any more.

        WAIT keeps in the queue what is there and what comes. REJECT refuses what comes and what an earlier
        WAIT has kept; it finishes what was accepted while the policy was not paused. Left early, the gate stays closed.

        Returns:
          The pause that is in force then: another one, or none, where somebody else was faster.

        Raises:
          NotReady: the server is stopping.
        """
        if self._stopping:
            raise NotReady("the server is stopping")
        before, self._paused = self._paused, mode
        self._parts.metrics.paused(True)
        if before is Pause.WAIT and mode is Pause.REJECT:
            self._refuse_waiting(f"policy {self._parts.name} is paused")
        if mode is Pause.REJECT:
            await self._finished()
        elif self._running is not None:
            await asyncio.wait({self._running})
        self._deadlines.watch_all()
        return self._paused

    def resume(self) -> None:
        """Opens the gate; what waits goes on at once, on the weights that serve now."""
        self._paused = None
        self._parts.metrics.paused(False)
        self._go_on()

    async def hold(self, seconds: float) -> None:
        """Has requests wait until `release`, or for so long; returns when no batch runs any more."""
        self.release()
        self._released = released = asyncio.Event()
        while self._running is not None:
            await asyncio.wait({self._running})
        # What comes meanwhile waits as it does for a batch in the thread.
        self._running = self._loop.create_task(self._held(released, seconds))
        self._deadlines.watch_all()

    def release(self) -> None:
        """Ends a hold, on the weights that serve now."""
        if self._released is not None:
            self._released.set()

    async def _held(self, released: asyncio.Event, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await released.wait()
        self._running = None
        if self._released is released:  # else the next hold has begun
            self._released = None
        self._go_on()

    def refuse_paused(self) -> None:
        """Refuses what waits for the end of a pause, and from now on whatever comes in one: the server stops."""
        self._stopping = True
        if self._paused is Pause.WAIT:
            self._refuse_waiting("the server is stopping")

    async def close(self) -> None:
        """Finishes what was accepted and does not wait for the end of a pause, then takes nothing more."""
        self.refuse_paused()
        self._closed = True
        await self._finished()
        self._deadlines.close()

    async def _finished(self) -> None:
        """Returns when nothing waits any more but for the end of a pause."""
        self._submit_gathered()
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
            fail(self._waiting.popleft(), NotReady(reason))

    def _go_on(self) -> None:
        if self._waiting and not self._is_due and self._running is None:
            self._is_due = True
            self._turns.add(self)

    def compute(self) -> Callable[[], None] | None:
        """See `Due`; between two batches the event loop does what else there is to do."""
        if self._gathered is not None:
            self._submit_gathered()
        self._is_due = False
        if self._paused is Pause.WAIT or self._running is not None or self._released is not None:
            return None
        jobs, expired = next_batch(self._waiting, self._most_rows, self._loop.time())
        for job in expired:
            fail(job, DeadlinePassed("the deadline passed while the request waited for its batch"))
        requests = len(jobs) if len(jobs) != 1 else jobs[0].requests
        self._arrivals.note(requests)
        self._has_many = requests >= _MANY
        return self._computed(jobs) if jobs else None

    def takes_more(self) -> bool:
        """See `Due`: rows that depend on each other, and an isolated job's, share no call."""
        if self._gathered is not None and len(self._gathered) > 1:
            return True
        return len(self._waiting) > 1 < self._most_rows and not self._waiting[0].isolated

    def _computed(self, jobs: Sequence[Job]) -> Callable[[], None] | None:
        """Runs a batch, or has it run; returns what delivers it."""
        try:
            return self._run(jobs)
        except Exception as error:  # a bug of ours: this batch fails, and those that wait go on
            fail_all(jobs, error)
            return None
        finally:
            self._go_on()

    def _run(self, waited: Sequence[Job]) -> Callable[[], None] | None:
        loaded = waited[0].loaded or self._parts.active()
        version = loaded.version
        if loaded.retired:
            self._waiting.extendleft(refuse_gone(version, waited))
            return None
        self._most_rows = 1 if version.dependent_rows else MOST_ROWS
        jobs = new_enough(waited, version.train_step, version.name)
        if version.dependent_rows:
            jobs = whole(jobs)
        if not jobs:
            return None
        batch = Batch(loaded, jobs, self._call_times[loaded.engine.name])
        if self._timed:
            self._timed -= batch.time()
        if batch.is_short(self._parts.inline_s):
            # Without a lease: nothing but other batches runs on the event loop until it is delivered.
            return partial(self._deliver, batch, batch.compute(self._parts.complete))
        self._in_thread = jobs
        loaded.acquire()
        self._running = self._loop.create_task(self._run_in_thread(batch))
        self._deadlines.watch_all()
        return None

    async def _run_in_thread(self, batch: Batch) -> None:
        """Takes over one lease of the version."""
        try:
            outcomes = await self._loop.run_in_executor(self._parts.executor, batch.compute, self._parts.complete)
            self._turns.deliver([partial(self._deliver, batch, outcomes)])
        except Exception as error:  # as in `_computed`
            fail_all(batch.jobs, error)
        finally:
            batch.loaded.release()
            self._running, self._in_thread = None, ()
            self._go_on()

    def _deliver(self, batch: Batch, outcomes: Outcomes) -> None:
        jobs = batch.jobs
        try:
            self._record(jobs[0], outcomes[0], now := self._loop.time())
            if jobs[0].loaded is not None:
                jobs, outcomes, failed = without_failed(jobs, outcomes)
                self._waiting.extendleft(fallen_back(failed))
            if self.traffic is not None:
                self.traffic.delivers(batch.loaded, jobs, outcomes, now, bool(self._waiting))
            self._turns.cork.expect(batch.requests, batch.rows)
            deliver(batch.loaded.version, jobs, outcomes, self._parts.fields)
            self._parts.metrics.batch(batch.rows, batch.call_times.take_last())
        except Exception as error:  # as in `_computed`
            fail_all(jobs, error)
        finally:
            self._go_on()

    def _why_late(self) -> str:
        return f": policy {self._parts.name} is paused" if self._paused else ""

    def _record(self, job: Job, outcome: Arrays | Exception, now: float) -> None:
        if self._sample.wants(now) and job.function != INITIAL_STATE and not isinstance(outcome, Exception):
            whole = self._parts.complete(job.inputs, job.rows, {} if job.needs_state else None)
            self._sample.offer(whole, outcome, now)
