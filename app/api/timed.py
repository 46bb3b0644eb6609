"""Routes whose requests are timed: what reads a body also has the times of its job noted, for those requests alone.

The cycles stay what they are: in CPython a second class that goes through the same code slows it down for all.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from app.api.request_cycle import Large, Route
from app.batching.timing import Timing, timing_of_task


def timed(route: Route, timing: Timing) -> Route:
    """Returns the route for one request, whose times are noted in `timing`."""
    service, limit, at_once, parse, asks = route.large
    large = Large(service, limit, partial(_read, timing, at_once), parse, partial(_read, timing, asks))
    return Route(partial(_read, timing, route.read), route.writes, route.metrics, large, route.cycle)


def timed_for_task(route: Route) -> Route:
    """Returns the route for the running task: one that is timed where the task's request is."""
    timing = timing_of_task.get()
    return route if timing is None else timed(route, timing)


def _read(timing: Timing, read: Any, body: Any) -> Any:
    return noted(read(body), timing)


def noted(pending: Any, timing: Timing) -> Any:
    """Has the times of what was asked noted, and returns it."""
    job = getattr(pending, "job", None)
    if job is not None:
        pending.policy.batcher.time(job, timing)
    elif (follows := getattr(pending, "timed", None)) is not None:  # a step of a sequence, which a task answers
        return follows(timing)
    return pending
