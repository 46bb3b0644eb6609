"""Zero-wait batches for one policy: an idle engine takes what is there; what arrives meanwhile goes next.

The event loop owns the queue. A call that is known to be short runs on it, between rounds of reading requests, or as
soon as its request is read where those come one at a time; any other runs in the policy's data thread. A pause is a
gate before all: it closes between batches. Which jobs make a batch: `app.batching.rule`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter

from app.batching.batch import Batch, most_s, new_enough
from app.batching.call_times import CallTimes
from app.batching.compute import Outcomes
from app.batching.delivery import deliver, fallen_back, refuse_gone, without_failed
from app.batching.failures import fail, fail_all
from app.batching.input_sample import InputSample
from app.batching.job_queue import BatcherParts, JobQueue
from app.batching.rule import INITIAL_STATE, Job, Pause, Result, next_batch
from app.errors import DeadlinePassed
from app.wire.tensors import Arrays

# A batch of this many rows costs milliseconds for small policies: more would make the next ones wait.
MOST_ROWS = 4096


class Batcher(JobQueue):
    """Runs the jobs of one policy in batches, each batch on one version."""

    def __init__(self, parts: BatcherParts) -> None:
        super().__init__(parts)
        # Of the next batch. One lets a single request through: where rows depend on each other, none shares a call.
        self._most_rows = MOST_ROWS
        # By the name of an engine, and a function.
        self._call_times: defaultdict[tuple[str, str], CallTimes] = defaultdict(CallTimes)
        self._sample = InputSample(parts.spread)

    def recorded(self) -> list[Arrays]:
        """Returns a few inputs of requests that were answered: see `InputSample.rows`."""
        return self._sample.rows()

    def compute(self) -> Callable[[], None] | None:
        """See `Due`; between two batches the event loop does what else there is to do."""
        self._is_due = False
        if self._paused is Pause.WAIT or self._running is not None or self._released is not None:
            return None
        jobs, expired = next_batch(self._waiting, self._most_rows, self._loop.time())
        for job in expired:
            fail(job, DeadlinePassed("the deadline passed while the request waited for its batch"))
        requests = sum([job.requests for job in jobs])
        self._arrivals.note(requests)
        self.turns.requests += requests
        return self._computed(jobs) if jobs else None

    def takes_more(self) -> bool:
        """See `Due`: rows that depend on each other, and an isolated job's, share no call."""
        return len(self._waiting) > 1 < self._most_rows and not self._waiting[0].isolated

    def compute_gathered(self, job: Job, now: float) -> Result | None:
        """Computes a job of what was gathered, as the whole of a batch, in less time than `compute` takes.

        Returns:
          What is to be delivered before anything else runs on the event loop. None where the job is to be submitted: it
          has to wait, its call takes long or fails, or some outputs have other rows, and a usual batch finds out why.
        """
        loaded, rows, parts = self._parts.versions.active, job.rows, self._parts
        version, engine = loaded.version, loaded.engine
        call_times = self._call_times[engine.name, job.function]
        if self._waiting or job.deadline <= now or version.dependent_rows or not self._is_free():
            return None
        if call_times.expected_s(rows) > most_s(job.requests, parts.inline_s):
            return None
        started_at = perf_counter()
        try:
            initial = engine.initial_state(rows) if job.needs_state else None
            outputs = engine.run(job.function, parts.complete(job.inputs, rows, initial))
        except Exception:
            return None
        seconds = perf_counter() - started_at
        for array in outputs.values():
            if len(array) != rows:
                return None
        self.end_gathering()
        call_times.note(rows, seconds)
        self._record(job, outputs, now)
        self._arrivals.note(job.requests)
        self.turns.requests += job.requests
        parts.metrics.batch(rows, seconds)
        return Result(outputs, version.name, version.train_step, version.digest)

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
        loaded = waited[0].loaded or self._parts.versions.active
        version = loaded.version
        if loaded.retired:
            self._waiting.extendleft(refuse_gone(version, waited))
            return None
        self._most_rows = 1 if version.dependent_rows else MOST_ROWS
        jobs = new_enough(waited, version.train_step, version.name)
        if not jobs:
            return None
        batch = Batch(loaded, jobs, self._call_times[loaded.engine.name, jobs[0].function])
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
            self.turns.deliver([partial(self._deliver, batch, outcomes)])
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
            self.turns.cork.expect(batch.requests, batch.rows)
            deliver(batch.loaded.version, jobs, outcomes, self._parts.fields)
            self._parts.metrics.batch(batch.rows, batch.seconds)
        except Exception as error:  # as in `_computed`
            fail_all(jobs, error)
        finally:
            self._go_on()

    def _record(self, job: Job, outcome: Arrays | Exception, now: float) -> None:
        if now >= self._sample.due and job.function != INITIAL_STATE and not isinstance(outcome, Exception):
            whole = self._parts.complete(job.inputs, job.rows, {} if job.needs_state else None)
            self._sample.offer(whole, outcome, now)
