"""Jobs that run together: which of them may, their rows, their times."""

from typing import Any

import numpy as np
import pytest

from app.batching.batch import Batch, new_enough
from app.batching.call_times import CallTimes
from app.batching.rule import Job
from app.batching.timing import BatchTiming, Timing
from app.engine.fake import FakeEngine
from app.errors import TooOld
from app.versions.lease import LoadedVersion, VersionInfo


class Waiter:
    def __init__(self) -> None:
        self.error: Exception | None = None

    def done(self) -> bool:
        return self.error is not None

    def set_exception(self, error: Exception) -> None:
        self.error = error


def job(rows: int = 1, **more: Any) -> Job:
    made = Job("action", {"0/observation": np.full((rows, 1), rows, np.float32)}, rows, **more)
    made.waiter = Waiter()  # type: ignore[assignment]
    return made


def batch(*jobs: Job, dependent_rows: str = "") -> Batch:
    loaded: Any = LoadedVersion(FakeEngine(), VersionInfo("a", "digest", 7, dependent_rows=dependent_rows))
    return Batch(loaded, jobs, CallTimes())


def complete(inputs: Any, rows: int, *_: Any) -> Any:
    return inputs


def test_it_has_the_rows_of_all_its_jobs() -> None:
    assert batch(job(2), job(3)).rows == 5


@pytest.mark.parametrize(("wanted", "taken"), [(None, True), (6, True), (7, True), (8, False)])
def test_who_wants_newer_weights_is_refused(wanted: int | None, taken: bool) -> None:
    asked = job(min_train_step=wanted)
    assert (new_enough([asked], 7, "a") == [asked]) is taken
    error = asked.waiter.error  # type: ignore[attr-defined]
    assert error is None if taken else isinstance(error, TooOld)
    assert taken or "version a has train step 7" in str(error)


def test_the_others_keep_their_order() -> None:
    jobs = [job(1), job(2, min_train_step=9), job(3)]
    assert new_enough(jobs, 7, "a") == [jobs[0], jobs[2]]


def test_nobody_asks_for_its_times() -> None:
    made = batch(job(), job())
    assert made.time() == 0
    assert made.engine is made.loaded.engine


def test_its_times_are_noted_once_for_all_who_ask() -> None:
    timings = [Timing(), Timing()]
    made = batch(job(2, timing=timings[0]), job(1), job(1, timing=timings[1]))
    assert made.time() == 2
    assert isinstance(made.engine, BatchTiming)
    assert (made.engine.requests, made.engine.rows) == (3, 4)
    made.compute(complete)
    assert timings[0].batch is timings[1].batch is made.engine
    assert made.engine.ended_at > 0
