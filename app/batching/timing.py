"""When a request waited, when its batch ran and when the engine did: noted for those requests alone that ask for it."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from time import perf_counter
from typing import Any

import numpy as np

from app.engine.base import Engine
from app.versions.lease import LoadedVersion, VersionInfo
from app.wire.tensors import Arrays


class Timing:
    """The times of one request; in seconds of `perf_counter`, 0 where it has not come so far.

    `batch`: the one that it was part of. `trace`: what the other requests of its batch refer to it by, if anything.
    """

    __slots__ = ("batch", "function", "policy", "queued_at", "rows", "trace")

    def __init__(self) -> None:
        self.policy = self.function = ""
        self.rows = 0
        self.queued_at = 0.0
        self.batch: BatchTiming | None = None
        self.trace: Any = None


class BatchTiming:
    """The times of one batch. `timings`: of its requests that are timed; `requests` and `rows` are those of all."""

    __slots__ = (
        "calls", "ended_at", "engine_ended_at", "engine_s", "engine_started_at", "requests", "rows",
        "taken_at", "timings", "version",
    )  # fmt: skip

    def __init__(self, version: VersionInfo, timings: list[Timing], requests: int, rows: int) -> None:
        self.version, self.timings, self.requests, self.rows = version, timings, requests, rows
        self.taken_at = perf_counter()
        self.ended_at = 0.0
        self.engine_started_at = self.engine_ended_at = self.engine_s = 0.0
        self.calls = 0


class TimedEngine:
    """An engine whose calls are noted."""

    def __init__(self, engine: Engine, batch: BatchTiming) -> None:
        self.name = engine.name
        self._engine = engine
        self._batch = batch

    @property
    def draws(self) -> bool:
        """See `Engine`."""
        return self._engine.draws

    def run(self, function: str, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """See `Engine`."""
        started = perf_counter()
        try:
            return self._engine.run(function, inputs)
        finally:
            self._note(started)

    def initial_state(self, rows: int) -> Arrays:
        """See `Engine`."""
        started = perf_counter()
        try:
            return self._engine.initial_state(rows)
        finally:
            self._note(started)

    def batch_ended(self) -> None:
        """Notes that each request of the batch has its outcome."""
        self._batch.ended_at = perf_counter()

    def _note(self, started: float) -> None:
        batch, ended = self._batch, perf_counter()
        batch.engine_started_at = batch.engine_started_at or started
        batch.engine_ended_at = ended
        batch.engine_s += ended - started
        batch.calls += 1


def timed(loaded: LoadedVersion[Engine], timings: list[Timing], requests: int, rows: int) -> TimedEngine:
    """Returns the engine for a batch of which requests are timed."""
    batch = BatchTiming(loaded.version, timings, requests, rows)
    for timing in timings:
        timing.batch = batch
    return TimedEngine(loaded.engine, batch)


# That of the request which the running task answers; for what waits in coroutines.
timing_of_task: ContextVar[Timing | None] = ContextVar("timing_of_task", default=None)
