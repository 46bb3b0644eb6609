"""The deadlines of jobs that wait, or whose batch runs elsewhere: one timer for all of them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable

from app.batching.failures import fail
from app.batching.rule import Job
from app.errors import DeadlinePassed


class Deadlines:
    """Fails each job at its deadline.

    Args:
      loop: on whose clock the deadlines are.
      jobs: returns those that are neither answered nor failed yet; others among them are passed over.
      reason: returns what the refusal says beside that there is no answer.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, jobs: Callable[[], Iterable[Job]], reason: Callable[[], str]
    ) -> None:
        self._loop = loop
        self._jobs = jobs
        self._reason = reason
        self._timer: asyncio.TimerHandle | None = None
        # Stored here: uvloop's handle of a call that is due at once does not give its time.
        self._expires_at = math.inf

    def watch(self, deadline: float) -> None:
        """Sees to a job of this deadline from now on."""
        if deadline < self._expires_at:
            if self._timer is not None:
                self._timer.cancel()
            self._expires_at = deadline
            self._timer = self._loop.call_at(deadline, self._expire)

    def watch_all(self) -> None:
        """Sees to all jobs from now on."""
        for job in self._jobs():
            self.watch(job.deadline)

    def close(self) -> None:
        """Stops the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self) -> None:
        self._timer, self._expires_at = None, math.inf
        now = self._loop.time()
        reason = self._reason()
        left = []
        for job in self._jobs():
            if job.deadline <= now:
                fail(job, DeadlinePassed(f"no answer before the deadline{reason}"))
            elif not job.waiter.done():
                left.append(job.deadline)
        if left:
            self.watch(min(left))
