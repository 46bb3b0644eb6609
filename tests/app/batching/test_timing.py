"""A batch stands for its engine meanwhile: it answers as the engine does, and notes when that ran."""

import gc
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from app.batching import timing as timing_module
from app.batching.timing import BatchTiming, Timing
from app.engine.base import InputRefused
from app.engine.fake import FakeEngine
from app.versions.lease import LoadedVersion, VersionInfo

OBSERVATION = {"0/observation": np.zeros(2)}
VERSION = VersionInfo("v", "d", 7)


class Engine(FakeEngine):
    """One whose calls take as long as the test says."""

    draws = True

    def __init__(self, clock: SimpleNamespace, *takes: float) -> None:
        super().__init__(3)
        self._clock, self._takes = clock, [*takes]

    def run(self, function: str, inputs: Any) -> Any:
        self._clock.now += self._takes.pop(0)
        return super().run(function, inputs)

    def initial_state(self, rows: int) -> Any:
        self._clock.now += self._takes.pop(0)
        return {"0": np.zeros(rows)}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    found = SimpleNamespace(now=100.0)
    monkeypatch.setattr(timing_module, "perf_counter", lambda: found.now)
    return found


def batch_of(engine: FakeEngine, *timings: Timing) -> BatchTiming:
    loaded: Any = LoadedVersion(engine, VERSION)
    return BatchTiming(loaded, [*timings], 5, 80)


def test_it_answers_as_its_engine(clock: SimpleNamespace) -> None:
    batch = batch_of(Engine(clock, 1, 1))
    assert (batch.name, batch.draws) == ("fake", True)
    assert batch.run("action", OBSERVATION)["action"].tolist() == [3, 3]
    assert batch.initial_state(4)["0"].shape == (4,)


def test_each_request_that_is_timed_knows_its_batch(clock: SimpleNamespace) -> None:
    one, other = Timing(), Timing()
    batch = batch_of(Engine(clock), one, other)
    assert one.batch is other.batch is batch
    assert (batch.requests, batch.rows, batch.version, batch.taken_at) == (5, 80, VERSION, 100)
    assert (batch.calls, batch.engine_s, batch.engine_started_at, batch.ended_at) == (0, 0, 0, 0)


def test_the_time_of_the_engine_is_that_of_its_calls_without_what_lies_between(clock: SimpleNamespace) -> None:
    batch = batch_of(Engine(clock, 0.5, 0.25))
    clock.now += 1
    batch.initial_state(1)
    clock.now += 8
    batch.run("action", OBSERVATION)
    clock.now += 16
    batch.batch_ended()
    assert (batch.calls, batch.engine_s) == (2, 0.75)
    assert (batch.engine_started_at, batch.engine_ended_at) == (101, 109.75)
    assert batch.ended_at == 125.75


def test_a_call_that_fails_is_noted_too(clock: SimpleNamespace) -> None:
    engine = Engine(clock, 0.5)
    engine.refuses_above = -1
    batch = batch_of(engine)
    with pytest.raises(InputRefused, match="observation too large"):
        batch.run("action", OBSERVATION)
    assert (batch.calls, batch.engine_s) == (1, 0.5)


def test_times_that_are_kept_keep_no_version_in_memory(clock: SimpleNamespace) -> None:
    timing, engine = Timing(), Engine(clock)
    batch_of(engine, timing)
    kept = weakref.ref(engine)
    del engine
    gc.collect()
    assert kept() is not None
    assert timing.batch is not None
    timing.batch.batch_ended()
    gc.collect()
    assert kept() is None
    assert timing.batch.version is VERSION


def test_nothing_runs_in_a_batch_that_has_ended(clock: SimpleNamespace) -> None:
    batch = batch_of(Engine(clock))
    batch.batch_ended()
    with pytest.raises(AssertionError, match="the batch has ended"):
        batch.run("action", OBSERVATION)
