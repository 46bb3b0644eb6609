"""When a request waited, when its batch ran and when the engine did: noted for those requests alone that ask for it."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from time import perf_counter
from typing import Any

import numpy as np

from app.engine.base import Engine
from app.versions.lease import LoadedVersion
from app.wire.tensors import Arrays


class Timing:
    """The times of one request; in seconds of `perf_counter`, 0 where it has not come so far.

    `batch`: the one that it was part of.
    """

    policy = function = ""
    rows = 0
    queued_at = 0.0
    batch: BatchTiming | None = None


class BatchTiming:
    """The times of one batch; stands for the engine meanwhile, whose calls it notes.

    `timings`: of its requests that are timed; `requests` and `rows` are those of all.
    """

    ended_at = engine_started_at = engine_ended_at = engine_s = 0.0
    calls = 0

    def __init__(self, loaded: LoadedVersion[Engine], timings: list[Timing], requests: int, rows: int) -> None:
        self.version, self.timings, self.requests, self.rows = loaded.version, timings, requests, rows
        self._engine: Engine | None = loaded.engine
        self.name = loaded.engine.name
        for timing in timings:
            timing.batch = self
        self.taken_at = perf_counter()

    @property
    def draws(self) -> bool:
        """See `Engine`."""
        return self._running.draws

    def run(self, function: str, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """See `Engine`."""
        started = perf_counter()
        try:
            return self._running.run(function, inputs)
        finally:
            self._note(started)

    def initial_state(self, rows: int) -> Arrays:
        """See `Engine`."""
        started = perf_counter()
        try:
            return self._running.initial_state(rows)
        finally:
            self._note(started)

    def batch_ended(self) -> None:
        """Notes that each request of the batch has its outcome. The times may be kept longer than the version."""
        self.ended_at = perf_counter()
        self._engine = None

    @property
    def _running(self) -> Engine:
        assert self._engine is not None, "the batch has ended"
        return self._engine

    def _note(self, started: float) -> None:
        self.engine_ended_at = ended = perf_counter()
        self.engine_started_at = self.engine_started_at or started
        self.engine_s += ended - started
        self.calls += 1


# That of the request which the running task answers; for what waits in coroutines.
timing_of_task: ContextVar[Timing | None] = ContextVar("timing_of_task", default=None)
