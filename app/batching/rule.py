"""Which waiting jobs make the next batch. Pure: time is passed in."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Protocol

import msgspec

from app.batching.timing import Timing
from app.engine.base import Engine
from app.versions.lease import LoadedVersion
from app.wire.tensors import Array, Arrays

# The function that takes no inputs: so many rows of the initial policy state.
INITIAL_STATE = "get_initial_state"


class Pause(StrEnum):
    """A mode of pausing: WAIT keeps requests until their deadline, REJECT refuses new ones."""

    WAIT = "wait"
    REJECT = "reject"


class Result(msgspec.Struct, frozen=True):
    """A job's rows of each output, and the version that computed them: its name, train step and digest."""

    outputs: Arrays
    version: str
    train_step: int
    digest: str = ""


class Waiter(Protocol):
    """The party that waits for a job: a future, or a request on a connection."""

    def done(self) -> bool:
        """Returns whether the waiter is finished: answered, failed or disconnected."""

    def set_result(self, result: Result) -> None:
        """Answers it."""

    def set_exception(self, error: Exception) -> None:
        """Fails it."""


class Each(Exception):
    """In place of one outcome of a job: those of its requests, which were computed one by one. `outcomes`: in order."""

    def __init__(self, outcomes: Sequence[Any]) -> None:
        super().__init__("each of them by itself")
        self.outcomes = outcomes


class Gathered(Protocol):
    """Requests that have come in this turn of the event loop, and are computed when it is over."""

    def submit(self, batcher: Any) -> None:
        """Submits those of one policy now."""


class Nobody:
    """The waiter of a job that was not submitted yet."""

    def done(self) -> bool:
        """See `Waiter`."""
        return True

    def set_result(self, result: Result) -> None:
        """See `Waiter`."""

    def set_exception(self, error: Exception) -> None:
        """See `Waiter`."""


_NOBODY = Nobody()


class Job(msgspec.Struct, eq=False):
    """The share that a request has in a batch, or several requests of one row each.

    `inputs` are those that were sent; what they leave out has defaults. `needs_state`: its rows start from the initial
    policy state. `min_train_step`: it may not run on older weights. `isolated`: its rows run in calls of their own,
    of a fixed size, so that no neighbour changes their rounding. `reset_mask`: [rows] booleans, where only these rows
    start from the initial policy state. `loaded`: the version that it has to run on; None takes the one that serves.
    `falls_back`: where `loaded` has gone or fails, the version that serves answers; `failed` says why it did.
    `timing`: where its times are noted, if anywhere; see `Batcher.time`. `requests`: so many have become this job.
    The rest is known when it is submitted: `asked_at` and `deadline` are on the event loop's clock, in seconds;
    `waiter` gets a `Result`, or the error.
    """

    function: str
    inputs: Arrays
    rows: int
    needs_state: bool = False
    min_train_step: int | None = None
    isolated: bool = False
    reset_mask: Array | None = None
    loaded: LoadedVersion[Engine] | None = None
    falls_back: bool = False
    failed: str = ""
    asked_at: float = 0.0
    deadline: float = math.inf
    waiter: Waiter = _NOBODY
    timing: Timing | None = None
    requests: int = 1


def next_batch(waiting: deque[Job], most_rows: int, now: float) -> tuple[list[Job], list[Job]]:
    """Takes jobs from the head of `waiting`.

    The first job that still counts decides the function; jobs of the same function join in order of arrival
    up to `most_rows` (the first always goes, however large). An isolated job is a batch of its own.
    The others keep their places.

    Returns:
      (batch, expired): expired jobs passed their deadline while they waited. Jobs nobody waits for are dropped.
    """
    if len(waiting) == 1 and not waiting[0].waiter.done() and waiting[0].deadline > now:
        return [waiting.popleft()], []  # the usual case, in less time
    batch: list[Job] = []
    expired: list[Job] = []
    left: list[Job] = []
    first: Job | None = None
    rows = 0
    while waiting:
        job = waiting.popleft()
        if job.waiter.done():
            continue
        if job.deadline <= now:
            expired.append(job)
        elif first is None or (
            job.function == first.function
            and job.loaded is first.loaded
            and not job.isolated
            and rows + job.rows <= most_rows
        ):
            first = first or job
            batch.append(job)
            rows += job.rows
            if rows >= most_rows or job.isolated:
                break
        else:
            left.append(job)
    waiting.extendleft(reversed(left))
    return batch, expired
