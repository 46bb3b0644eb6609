"""Each job of a batch gets its own outcome; those that fall back wait for the version that serves instead."""

import asyncio
from typing import Any

import numpy as np
import pytest

from app.batching.delivery import deliver, fallen_back, refuse_gone, without_failed
from app.batching.rule import Job, Result
from app.engine.base import InputRefused
from app.engine.fake import FakeEngine
from app.errors import DoesNotFit, EngineFailed, Problem, WeightsGone
from app.versions.lease import LoadedVersion, VersionInfo

pytestmark = pytest.mark.anyio
VERSION = VersionInfo("v7", "d7", 7)
LOADED: Any = LoadedVersion(FakeEngine(), VERSION)
GOOD, BAD = {"action": np.array([1.0])}, {"action": np.array([np.nan])}


def job(*, falls_back: bool = False, loaded: Any = None) -> Any:
    waiter: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
    return Job("action", {}, 1, waiter=waiter, falls_back=falls_back, loaded=loaded)


async def test_each_job_gets_its_own_outcome_and_the_version_that_computed_it() -> None:
    jobs, error = [job() for _ in range(3)], EngineFailed("the policy failed: RuntimeError")
    last = {"action": np.array([2.0])}
    deliver(VERSION, jobs, [GOOD, error, last], "observation")
    assert jobs[0].waiter.result() == Result(GOOD, "v7", 7, "d7")
    assert jobs[1].waiter.exception() is error
    assert jobs[2].waiter.result().outputs is last


async def test_an_input_that_the_policy_refused_is_named() -> None:
    (refused,) = jobs = [job()]
    deliver(VERSION, jobs, [InputRefused("too large")], "observation, step_type")
    error = refused.waiter.exception()
    assert isinstance(error, DoesNotFit)
    assert list(error.problems) == [
        Problem("observation, step_type", "the policy refused it: too large", "an input it accepts")
    ]


async def test_an_outcome_that_nobody_waits_for_is_dropped_and_the_next_is_not() -> None:
    gone, other = jobs = [job(), job()]
    gone.waiter.cancel()
    deliver(VERSION, jobs, [InputRefused("late"), GOOD], "observation")
    assert gone.waiter.cancelled()
    assert other.waiter.result().outputs is GOOD


async def test_outcomes_of_another_number_than_the_jobs_are_a_bug() -> None:
    with pytest.raises(ValueError, match="zip"):
        deliver(VERSION, [job(), job()], [GOOD], "observation")


async def test_only_jobs_that_fall_back_are_parted_from_the_others() -> None:
    stays, answered, fails, refused = jobs = [job(), job(falls_back=True), job(falls_back=True), job(falls_back=True)]
    good, answers, failed = without_failed(jobs, [BAD, GOOD, BAD, InputRefused("too large")])
    assert [*good] == [stays, answered]
    assert [outcome is expected for outcome, expected in zip(answers, (BAD, GOOD), strict=True)] == [True, True]
    assert failed == [fails, refused]
    assert [each.failed for each in jobs] == ["", "", "the answer is not finite: action", "too large"]


async def test_where_none_falls_back_all_outcomes_are_delivered() -> None:
    jobs, outcomes = [job(), job()], [BAD, EngineFailed("broken")]
    good, answers, failed = without_failed(jobs, outcomes)
    assert (good, answers, failed) == (jobs, outcomes, [])


async def test_a_job_that_was_tried_before_and_is_answered_now_has_not_failed() -> None:
    again = job(falls_back=True)
    again.failed = "too large"
    without_failed([again], [GOOD])
    assert again.failed == ""


async def test_jobs_that_fall_back_take_any_version_and_do_so_once() -> None:
    jobs = [job(falls_back=True, loaded=LOADED) for _ in range(3)]
    assert fallen_back(jobs) == jobs[::-1]
    assert [(each.loaded, each.falls_back) for each in jobs] == [(None, False)] * 3


async def test_a_job_for_a_version_that_is_gone_fails_unless_it_falls_back() -> None:
    one, by_name, other = jobs = [
        job(falls_back=True, loaded=LOADED),
        job(loaded=LOADED),
        job(falls_back=True, loaded=LOADED),
    ]
    assert refuse_gone(VERSION, jobs) == [other, one]
    error = by_name.waiter.exception()
    assert isinstance(error, WeightsGone)
    assert str(error) == "the weights of version v7 are not kept any more"
    assert [each.waiter.done() for each in jobs] == [False, True, False]
