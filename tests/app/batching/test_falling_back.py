"""Jobs of a version that has gone, or fails: the one that serves answers them."""

import asyncio
from typing import Any

import numpy as np
import pytest

from app.batching.rule import Job, Result
from app.engine.base import InputRefused
from app.errors import EngineFailed, WeightsGone
from app.versions.lease import LoadedVersion, VersionInfo
from tests.support.batcher import EchoEngine, Harness, answers, open_harness

pytestmark = pytest.mark.anyio


class Tried:
    """A version that is tried beside what serves, and what is said of it."""

    def __init__(self, harness: Harness) -> None:
        self.engine = EchoEngine(100)
        self.loaded = LoadedVersion(self.engine, VersionInfo("canary", "d9", 9))
        self.batcher = harness.batcher
        self.batcher.traffic = self
        self.delivered: list[tuple[str, int, list[str]]] = []

    def delivers(self, loaded: Any, jobs: Any, outcomes: Any, now: float, waits: bool) -> None:
        assert len(jobs) == len(outcomes)
        assert all(now >= job.asked_at for job in jobs)
        self.delivered.append((loaded.version.name, len(jobs), [job.failed for job in jobs]))

    def submit(self, *values: float, falls_back: bool = True) -> asyncio.Future[Result]:
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        job = Job("action", {"0/observation": np.array(values)}, len(values))
        job.loaded, job.falls_back, job.waiter, job.deadline = self.loaded, falls_back, answer, 1e18
        self.batcher.submit(job)
        return answer


@pytest.mark.parametrize("inline_s", [0.0, 1.0])
async def test_only_the_job_that_fails_is_answered_by_what_serves(inline_s: float) -> None:
    async with open_harness(inline_s=inline_s) as harness:
        tried = Tried(harness)
        tried.engine.fails_at = 7
        good, bad, other = tried.submit(1), tried.submit(7), tried.submit(2)
        assert [(await job).version for job in (good, bad, other)] == ["canary", "v0", "canary"]
        assert answers(await bad) == [7]
        assert answers(await other) == [102]
        last = tried.delivered[-1]
        assert last[0] == "v0"
        assert last[2] == ["the policy failed: RuntimeError"]


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
async def test_an_answer_that_is_not_finite_is_no_answer(number: float) -> None:
    async with open_harness() as harness:
        tried = Tried(harness)
        tried.engine.run = lambda function, inputs: {"action": inputs["0/observation"] + number}
        assert (await tried.submit(1)).version == "v0"
        assert tried.delivered[-1] == ("v0", 1, ["the answer is not finite: action"])


async def test_a_log_probability_may_be_infinite_and_no_nan() -> None:
    """An action that cannot happen has minus infinity."""
    async with open_harness() as harness:
        tried = Tried(harness)
        outputs = {"action": np.array([1.0]), "log_prob": np.array([-np.inf])}
        tried.engine.run = lambda function, inputs: outputs
        assert (await tried.submit(1)).version == "canary"
        outputs["log_prob"] = np.array([np.nan])
        assert (await tried.submit(1)).version == "v0"


async def test_an_input_that_it_refuses_is_asked_of_what_serves() -> None:
    async with open_harness() as harness:
        tried = Tried(harness)

        def refuse(function: str, inputs: Any) -> Any:
            raise InputRefused("too large")

        tried.engine.run = refuse
        assert (await tried.submit(1)).version == "v0"
        assert tried.delivered[-1][2] == ["too large"]


async def test_who_asks_for_that_version_gets_its_error() -> None:
    async with open_harness() as harness:
        tried = Tried(harness)
        tried.engine.fails_at = 7
        by_name, of_session = tried.submit(7, falls_back=False), tried.submit(7)
        assert (await of_session).version == "v0"
        with pytest.raises(EngineFailed):
            await by_name


async def test_what_waits_for_a_version_that_goes_is_answered_by_what_serves() -> None:
    async with open_harness() as harness:
        tried = Tried(harness)
        harness.engine.go_on.clear()
        first = harness.submit(0)
        await harness.held()
        waiting, by_name, behind = tried.submit(1), tried.submit(1, falls_back=False), harness.submit(2)
        tried.loaded.retired = True
        harness.engine.go_on.set()
        assert answers(await first) == [0]
        assert (await waiting).version == "v0"
        assert answers(await behind) == [2]
        with pytest.raises(WeightsGone, match="version canary are not kept"):
            await by_name


async def test_where_both_fail_the_caller_learns_why() -> None:
    async with open_harness() as harness:
        tried = Tried(harness)
        harness.engine.fails_at = tried.engine.fails_at = 7
        with pytest.raises(EngineFailed):
            await tried.submit(7)
