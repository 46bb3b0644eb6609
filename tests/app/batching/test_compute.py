"""What the jobs of a batch get: their own rows, or their own error."""

import asyncio
from dataclasses import replace

import pytest

from app.batching.rule import INITIAL_STATE
from app.engine.base import InputRefused
from app.errors import DoesNotFit, EngineFailed
from app.versions.lease import LoadedVersion, VersionInfo
from tests.support.batcher import EchoEngine, answers, depend, open_harness

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("prepare", "error", "says"),
    [
        (lambda engine: setattr(engine, "refuses_above", 10), DoesNotFit, "observation too large"),
        (lambda engine: setattr(engine, "fails_at", 99), EngineFailed, "RuntimeError"),
    ],
    ids=["refused input", "failing engine"],
)
async def test_failing_job_fails_alone(prepare, error, says):
    async with open_harness() as harness:
        prepare(harness.engine)
        harness.engine.go_on.clear()
        first = harness.submit(1)
        await harness.held()
        good, bad, better = harness.submit(2), harness.submit(99), harness.submit(3)
        harness.engine.go_on.set()
        with pytest.raises(error, match=says):
            await bad
        assert [answers(await job) for job in (first, good, better)] == [[1], [2], [3]]
        # One call for all, then one for each.
        assert harness.engine.functions == ["action"] * 5


async def test_failing_job_that_is_alone_fails_after_one_call():
    async with open_harness() as harness:
        harness.engine.fails_at = 99
        with pytest.raises(EngineFailed):
            await harness.submit(99)
        assert harness.engine.calls == [1]
        assert answers(await harness.submit(1)) == [1]


async def test_fault_outside_the_engine_fails_its_batch_and_not_those_that_wait(monkeypatch):
    async with open_harness() as harness:
        monkeypatch.setattr(harness, "loaded", None)
        hapless = harness.submit(1.0)
        with pytest.raises(EngineFailed):
            await hapless
        harness.swap(10)
        assert answers(await harness.submit(2.0)) == [12.0]


async def test_initial_state_is_given_only_to_jobs_that_need_it():
    async with open_harness() as harness:
        harness.engine.state = 100.0
        assert answers(await harness.submit(1, 2, needs_state=True)) == [101, 102]
        assert answers(await harness.submit(1, 2)) == [1, 2]


async def test_state_begins_from_the_version_that_runs_the_batch():
    async with open_harness() as harness:
        harness.engine.go_on.clear()
        first = harness.submit(0)
        await harness.held()
        waiting = harness.submit(0, needs_state=True)
        old = harness.engine
        harness.swap(1).state = 10.0
        old.go_on.set()
        await first
        assert answers(await waiting) == [11]


async def test_initial_states_are_a_batch_of_their_own():
    async with open_harness() as harness:
        harness.engine.state = 3.0
        harness.engine.go_on.clear()
        first = harness.submit(0)
        await harness.held()
        states = [harness.submit(*range(rows), function=INITIAL_STATE) for rows in (1, 2)]
        last = harness.submit(4)
        harness.engine.go_on.set()
        assert [(await state).outputs["0"].tolist() for state in states] == [[3], [3, 3]]
        assert [answers(await job) for job in (first, last)] == [[0], [4]]
        assert harness.engine.calls == [1, 1]


async def test_a_job_that_wants_to_be_alone_runs_in_calls_of_one_fixed_size():
    async with open_harness() as harness:
        harness.engine.go_on.clear()
        first = harness.submit(0.5)
        await harness.held()
        alone = harness.submit(*range(20), isolated=True)
        neighbours = [harness.submit(1), harness.submit(2)]
        harness.engine.go_on.set()
        assert answers(await alone) == list(range(20))
        await asyncio.gather(first, *neighbours)
        assert harness.engine.calls == [1, 16, 16, 2]


async def test_a_failing_job_of_a_batch_on_the_event_loop_fails_alone():
    async with open_harness(inline_s=60.0) as harness:
        await harness.submit(0)
        harness.engine.fails_at = 99
        good, bad = harness.submit(1), harness.submit(99)
        with pytest.raises(EngineFailed):
            await bad
        assert answers(await good) == [1]


async def test_what_requests_leave_out_is_added_once_for_a_batch_that_leaves_out_the_same():
    async with open_harness() as harness:
        harness.engine.state = 100.0
        harness.engine.go_on.clear()
        first = harness.submit(0)
        await harness.held()
        alike = [harness.submit(1, needs_state=True), harness.submit(2, 3, needs_state=True)]
        harness.engine.go_on.set()
        assert [answers(await job) for job in (first, *alike)] == [[0], [101], [102, 103]]
        harness.engine.go_on.clear()
        harness.engine.entered.clear()
        first = harness.submit(0)
        await harness.held()
        mixed = [harness.submit(1, needs_state=True), harness.submit(2)]
        harness.engine.go_on.set()
        assert [answers(await job) for job in (first, *mixed)] == [[0], [101], [2]]


async def test_requests_of_a_policy_with_dependent_rows_share_no_call():
    async with open_harness() as harness:
        depend(harness)
        await harness.submit(0)
        harness.engine.go_on.clear()
        sizes = [1, 3, 1, 2, 5000, 1]
        submitted = [harness.submit(*range(size)) for size in sizes]
        await harness.held()
        harness.engine.go_on.set()
        for size, done in zip(sizes, submitted, strict=True):
            assert answers(await done) == list(range(size))
        assert harness.engine.calls == [1, *sizes]


async def test_a_refused_input_names_the_fields_that_the_policy_takes():
    class Refusing(EchoEngine):
        def run(self, function, inputs):
            raise InputRefused("it is no number")

    async with open_harness() as harness:
        harness.loaded = LoadedVersion(Refusing(), VersionInfo("v0", "d0", 0))
        for fields in ("observation", "position, speed"):
            harness.batcher._parts = replace(harness.batcher._parts, fields=fields)
            for futures in ([harness.submit(1)], [harness.submit(1), harness.submit(2)]):
                for future in futures:
                    with pytest.raises(DoesNotFit) as raised:
                        await future
                    [problem] = raised.value.problems
                    assert (problem.where, problem.problem) == (fields, "the policy refused it: it is no number")


async def test_seeded_rows_that_depend_on_each_other_are_not_padded():
    async with open_harness() as harness:
        depend(harness)
        assert answers(await harness.submit(4, 5, 6, isolated=True, function="sample")) == [4, 5, 6]
        assert harness.engine.calls == [3]
