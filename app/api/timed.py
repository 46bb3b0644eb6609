"""Routes whose requests are timed: what reads a body also has the times of its job noted, for those requests alone.

The cycles stay what they are: in CPython a second class that goes through the same code slows it down for all.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from app.api.request_cycle import Large, Route
from app.batching.timing import Timing, timing_of_task


def timed(route: Route, timing: Timing, metrics: Any = None) -> Route:
    """Returns the route for one request, whose times are noted in `timing`. `metrics`: in the place of its own."""
    service, limit, at_once, parse, asks = route.large
    large = Large(service, limit, partial(_noted, timing, at_once), parse, partial(_noted, timing, asks))
    return Route(partial(_noted, timing, route.read), route.writes, metrics or route.metrics, large, route.cycle)


def timed_for_task(route: Route) -> Route:
    """Returns the route for the running task: one that is timed where the task's request is."""
    timing = timing_of_task.get()
    return route if timing is None else timed(route, timing)


def _noted(timing: Timing, read: Any, body: Any) -> Any:
    """Reads, and has the times of what is asked noted."""
    pending = read(body)
    job = getattr(pending, "job", None)
    if job is not None:
        pending.policy.batcher.time(job, timing)
    elif (follows := getattr(pending, "timed", None)) is not None:  # a step of a sequence, which a task answers
        return follows(timing)
    return pending
