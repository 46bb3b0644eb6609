"""The jobs of one policy that wait for a batch, and when they may be in one.

The event loop owns the queue. A pause is a gate before all of it: it closes between batches.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

from app.batching.compute import Complete
from app.batching.deadlines import Deadlines
from app.batching.delivery import Traffic
from app.batching.failures import fail, guarded
from app.batching.rule import Gathered, Job, Pause
from app.batching.timing import Timing
from app.batching.turns import Arrivals, Turns
from app.engine.base import Engine
from app.errors import NotReady, Overloaded
from app.metrics import PolicyMetrics
from app.versions.lease import LoadedVersion

# Handing a call to a thread and its answer back takes some 100 µs, of which the event loop spends half.
INLINE_S = 0.0003


class Versions(Protocol):
    """What knows the version that serves."""

    @property
    def active(self) -> LoadedVersion[Engine]:
        """That version."""


@dataclass(frozen=True)
class BatcherParts:
    """The collaborators and limits of a batcher.

    `versions`: those of the policy; `complete` adds what requests have left out. `queue_limit`: the most jobs
    that wait. `inline_s`: which calls run on the event loop, see `Batch.is_short`; any other runs in `executor`.
    `fields`: what a refusal names where the policy has refused its inputs. `spread`: how a few inputs are kept, see
    `InputSample`. `turns`: those of the event loop, for all batchers on it.
    """

    name: str
    versions: Versions
    complete: Complete
    executor: Executor
    metrics: PolicyMetrics
    queue_limit: int
    inline_s: float = INLINE_S
    fields: str = "observation"
    spread: bool = False
    turns: Turns | None = None


class JobQueue:
    """The half of a batcher that takes jobs. `traffic`: None where nothing is tried."""

    def __init__(self, parts: BatcherParts) -> None:
        self._parts = parts
        self.traffic: Traffic | None = None
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Job] = deque()
        self._in_thread: Sequence[Job] = ()
        self._running: asyncio.Task[None] | None = None
        self._deadlines = Deadlines(self._loop, lambda: (*self._waiting, *self._in_thread), self._why_late)
        self._gathered: Gathered | None = None
        self._gathered_count = 0
        self._paused: Pause | None = None
        self._released: asyncio.Event | None = None
        self._is_due = self._stopping = self._closed = False
        self.turns = parts.turns or Turns(self._loop)
        self._arrivals = Arrivals(self.turns)
        self._timed = 0  # jobs that are timed and not in a batch so far; those that nobody waits for any more, too

    @property
    def paused(self) -> Pause | None:
        """The pause in force; None while requests are answered."""
        return self._paused

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
        gathered = self._gathered_count
        if len(self._waiting) + gathered >= self._parts.queue_limit:
            self._waiting = deque(waiting for waiting in self._waiting if not waiting.waiter.done())
            if len(self._waiting) + gathered >= self._parts.queue_limit:
                raise Overloaded(f"{len(self._waiting) + gathered} requests wait already; try again")
        self._put(job)

    def gathers(self, gathered: Gathered) -> bool:
        """Returns whether one more request may wait there for the end of the turn; it counts as one that waits here."""
        if self._gathered is None:
            if not self.turns.crowded or self._closed or not self._is_free():
                return False
            if self._parts.versions.active.version.dependent_rows:  # none of these would share a call
                return False
        if len(self._waiting) + self._gathered_count >= self._parts.queue_limit:
            return False
        self._gathered = gathered
        self._gathered_count += 1
        return True

    def submit_gathered(self, job: Job) -> None:
        """Puts the job of what was gathered into the queue."""
        self.end_gathering()
        self._put(job)

    def end_gathering(self) -> None:
        """Notes that what was gathered is no longer: it becomes a job now, or was computed, or has failed."""
        self._gathered, self._gathered_count = None, 0

    def _is_free(self) -> bool:
        """Whether a job of the version that serves may run as the next batch, and nothing else is asked beside it."""
        return self._running is None and self._released is None and self._paused is None and self.traffic is None

    def _put(self, job: Job) -> None:
        self._waiting.append(job)
        if self._running is not None or self._paused:
            self._deadlines.watch(job.deadline)
        elif not self._is_due:
            self._go_on()

    def _submit_what_was_gathered(self) -> None:
        if self._gathered is not None:
            guarded(self._gathered.submit, self)

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
        self._submit_what_was_gathered()
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
        self._submit_what_was_gathered()
        self.refuse_paused()
        self._closed = True
        await self._finished()
        self._deadlines.close()

    async def _finished(self) -> None:
        """Returns when nothing waits any more but for the end of a pause."""
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
            self.turns.add(self)

    def _why_late(self) -> str:
        return f": policy {self._parts.name} is paused" if self._paused else ""

    def _computed(self, jobs: Sequence[Job]) -> Callable[[], None] | None:
        """Runs a batch, or has it run; returns what delivers it."""
        raise NotImplementedError

    def compute(self) -> Callable[[], None] | None:
        """See `Due`."""
        raise NotImplementedError

    def takes_more(self) -> bool:
        """See `Due`."""
        raise NotImplementedError
