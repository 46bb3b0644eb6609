"""Cycles whose requests are timed: mixed into whatever kind of cycle answers a route, for those requests alone."""

from __future__ import annotations

import functools
from typing import Any

from app.api.request_cycle import Receiver, RequestCycle, Route
from app.batching.rule import Result
from app.batching.timing import Timing, timing_of_task
from app.inference.service import Service


class Observed(RequestCycle):
    """Has the times of its request noted in `timing`: the task's, where there is one."""

    def __init__(self, route: Route, receiver: Receiver) -> None:
        super().__init__(route, receiver)
        self.timing = timing_of_task.get() or Timing()

    def _put(self, service: Service, pending: Any, now: float) -> None:
        job = getattr(pending, "job", None)
        if job is not None:
            pending.policy.batcher.time(job, self.timing)
        token = timing_of_task.set(self.timing)  # for the tasks that it may start
        try:
            super()._put(service, pending, now)
        finally:
            timing_of_task.reset(token)

    def set_result(self, result: Result) -> None:
        """See `Waiter`."""
        self.timing.ended()
        super().set_result(result)

    def set_exception(self, error: Exception) -> None:
        """See `Waiter`."""
        self.timing.ended()
        self.timing.error = type(error).__name__
        super().set_exception(error)


@functools.cache
def mixed(mixin: Any, kind: Any) -> Any:
    """Returns the kind of cycle with the mixin before it."""
    return type(f"{mixin.__name__}{kind.__name__}", (mixin, kind), {})


def kind_for_task(kind: Any) -> Any:
    """Returns the kind of cycle for the running task: one that is timed where the task's request is."""
    return kind if timing_of_task.get() is None else mixed(Observed, kind)
