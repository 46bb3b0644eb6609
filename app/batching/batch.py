"""Jobs that run together, on one version."""

from __future__ import annotations

from collections.abc import Sequence

from app.batching.call_times import CallTimes
from app.batching.compute import Complete, Outcomes, compute
from app.batching.failures import fail
from app.batching.rule import Job
from app.batching.timing import BatchTiming
from app.engine.base import Engine
from app.errors import TooOld
from app.versions.lease import LoadedVersion

# Reading so many requests and answering them takes the event loop longer than a short call. What has piled up in a
# stall would be handed to a thread again and again, and hardly get less.
_JOBS_A_SHARE, _MOST_SHARES = 32, 8


class Batch:
    """Jobs of one function, and the version that they run on.

    Args:
      loaded: the version.
      jobs: that are to run on it, one at least; see `new_enough`.
      call_times: how long calls of that function of its engine take.

    Attributes:
      engine: that of the version; or one that notes its calls, in a batch that is timed.
      rows: of all jobs.
      requests: how many have become these.
      seconds: that its call took; None before it, and where it failed or each job took one of its own.
    """

    __slots__ = ("_call_times", "engine", "jobs", "loaded", "requests", "rows", "seconds")

    def __init__(self, loaded: LoadedVersion[Engine], jobs: Sequence[Job], call_times: CallTimes) -> None:
        self.loaded = loaded
        self.engine: Engine = loaded.engine
        self.jobs = jobs
        self.rows = sum([job.rows for job in jobs])
        self.requests = sum([job.requests for job in jobs])
        self._call_times = call_times
        self.seconds: float | None = None

    def is_short(self, inline_s: float) -> bool:
        """Returns whether its call may run on the event loop: see `most_s`."""
        return self._call_times.expected_s(self.rows) <= most_s(self.requests, inline_s)

    def time(self) -> int:
        """Has its times noted where jobs ask for that; returns how many do."""
        timings = [job.timing for job in self.jobs if job.timing is not None]
        if timings:
            self.engine = BatchTiming(self.loaded, timings, self.requests, self.rows)
        return len(timings)

    def compute(self, complete: Complete) -> Outcomes:
        """Runs it: see `compute`. `complete`: adds what jobs leave out."""
        apart = bool(self.loaded.version.dependent_rows)
        outcomes, self.seconds = compute(self.engine, self.jobs, self.rows, complete, apart)
        if self.seconds is not None:
            self._call_times.note(self.rows, self.seconds)
        if isinstance(self.engine, BatchTiming):
            self.engine.batch_ended()
        return outcomes


def most_s(requests: int, inline_s: float) -> float:
    """Returns how many seconds a call for these may take on the event loop: `inline_s`, or as much for every 32."""
    return min(max(1.0, requests / _JOBS_A_SHARE), _MOST_SHARES) * inline_s


def new_enough(jobs: Sequence[Job], train_step: int, version: str) -> list[Job]:
    """Returns those that may run on the version; the others are refused."""
    taken = []
    for job in jobs:
        if job.min_train_step is not None and train_step < job.min_train_step:
            fail(job, TooOld(f"version {version} has train step {train_step}"))
        else:
            taken.append(job)
    return taken
