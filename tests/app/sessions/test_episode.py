"""Which step of a session a request asks for, and which inputs it gets."""

from typing import Any

import numpy as np
import pytest
from msgspec import structs

from app.batching.rule import Result
from app.errors import DoesNotFit, NotReady, SessionConflict, UnknownSession, WeightsGone
from app.inputs.options import Options
from app.inputs.validate import Inputs
from app.sessions.episode import SessionStep, is_repeated
from app.sessions.fields import BeginRequest, StepRequest
from app.sessions.record import Answer, Record
from app.wire.codecs import JSON
from tests.support.session_policy import ServedPolicy

pytestmark = pytest.mark.anyio
FIRST, MID, LAST = 0, 1, 2


def inputs(rows: int | None = None, step_type: list[int] | None = None) -> Inputs:
    observation = np.ones((rows or 1, 1), np.float32)
    arrays = {"0/observation": observation}
    if step_type is not None:
        arrays["0/step_type"] = np.array(step_type, np.int32)
    return Inputs(arrays, rows or 1, rows is not None, True, 0)


def request(rows: int | None = None, step_type: list[int] | None = None, **more: Any) -> StepRequest:
    first = more.pop("first", None)
    return StepRequest(inputs(rows, step_type), Options(), first=None if first is None else np.array(first), **more)


def begun(policy: ServedPolicy, rows: int | None = None, step_type: list[int] | None = None, **more: Any) -> Record:
    """The record after the first step, of which the state is 1 in each row."""
    step = policy.episodes.begin(BeginRequest(inputs(rows, step_type), Options(), **more), "a", "r")
    ones = np.ones((rows or 1, 1), np.float32)
    return step.after(Result({"action": ones, "state/0": ones}, "v0", 0, "d0"), JSON)


async def test_first_step_starts_from_the_initial_state_and_says_its_names() -> None:
    async with ServedPolicy.open() as policy:
        step = policy.episodes.begin(BeginRequest(inputs(), Options()), "a", "r")
        job = step.pending.job
        assert job.needs_state
        assert job.inputs["0/step_type"].tolist() == [FIRST]
        record = begun(policy)
        assert record.answer.body.startswith(b'{"id":"a","run_id":"r","step":0,"action":')
        assert record.step == 0
        assert record.state["1/0"].tolist() == [[1]]


async def test_each_life_of_a_session_has_an_incarnation_of_its_own() -> None:
    async with ServedPolicy.open() as policy:
        assert begun(policy).run.incarnation != begun(policy).run.incarnation


@pytest.mark.parametrize(("weights", "retained"), [("episode", "d0"), ("latest", None), (None, None)])
async def test_session_that_keeps_its_weights_names_them(weights: Any, retained: str | None) -> None:
    async with ServedPolicy.open() as policy:
        assert begun(policy, weights=weights).run.retained == retained


@pytest.mark.parametrize(
    ("asked", "repeated"), [({}, False), ({"step": 1}, False), ({"step": 0}, True), ({"run_id": "r", "step": 0}, True)]
)
async def test_next_step_or_the_last_one_once_more(asked: dict[str, Any], repeated: bool) -> None:
    async with ServedPolicy.open() as policy:
        record = begun(policy)
        assert is_repeated(record, request(**asked)) is repeated
        step = policy.episodes.step(record, request(**asked))
        if isinstance(step, Answer):
            assert step is record.answer
        else:
            after = step.after(Result({"action": np.ones((1, 1)), "state/0": np.ones((1, 1))}, "v0", 0), JSON)
            assert after.step == 1
        assert isinstance(step, Answer) is repeated


@pytest.mark.parametrize("asked", [{"step": 2}, {"step": 7}, {"run_id": "other"}, {"run_id": "other", "step": 1}])
async def test_any_other_step_and_any_other_run_is_a_conflict(asked: dict[str, Any]) -> None:
    async with ServedPolicy.open() as policy:
        with pytest.raises(SessionConflict) as raised:
            is_repeated(begun(policy), request(**asked))
        assert raised.value.step == 0


@pytest.mark.parametrize(("had", "has"), [(None, 1), (1, None), (2, 3)])
async def test_rows_are_those_that_the_session_started_with(had: int | None, has: int | None) -> None:
    async with ServedPolicy.open() as policy:
        record = begun(policy, rows=had)
        with pytest.raises(DoesNotFit, match="as the session started with"):
            is_repeated(record, request(rows=has))
        # Sent again, it gets the old answer all the same: the step is that of before.
        assert is_repeated(record, request(rows=has, step=0))


async def test_record_of_another_policy_of_the_name_is_no_session_of_this_one() -> None:
    async with ServedPolicy.open() as policy:
        record = begun(policy)
        with pytest.raises(UnknownSession):
            policy.episodes.step(structs.replace(record, run=structs.replace(record.run, policy="?")), request())


# Rows of a vector. `ended`: the step types that came with the step before.
@pytest.mark.parametrize(
    ("ended", "first", "given", "types", "mask"),
    [
        (None, None, None, [MID, MID], None),
        ([MID, LAST], None, None, [MID, FIRST], [False, True]),
        (None, [True, False], None, [FIRST, MID], [True, False]),
        ([MID, LAST], [True, False], None, [FIRST, FIRST], "all"),
        ([MID, LAST], None, [MID, LAST], [MID, LAST], None),
        (None, None, [FIRST, MID], [FIRST, MID], [True, False]),
        (None, [True, True], None, [FIRST, FIRST], "all"),
        ([MID, MID], [False, False], None, [MID, MID], None),
    ],
)
async def test_rows_that_start_again_do_so_from_the_initial_state(
    ended: list[int] | None, first: list[bool] | None, given: list[int] | None, types: list[int], mask: Any
) -> None:
    async with ServedPolicy.open() as policy:
        step = policy.episodes.step(begun(policy, 2, ended), request(2, given, first=first))
        assert isinstance(step, SessionStep)
        job = step.pending.job
        assert job.inputs["0/step_type"].tolist() == types
        assert job.needs_state is (mask is not None)
        assert ("1/0" in job.inputs) is (mask != "all")
        assert (None if job.reset_mask is None else job.reset_mask.tolist()) == (None if mask == "all" else mask)


async def test_row_that_is_first_is_not_sent_as_another_one() -> None:
    async with ServedPolicy.open() as policy:
        with pytest.raises(DoesNotFit, match="is not FIRST in a row that `first` names"):
            policy.episodes.step(begun(policy, 2), request(2, [MID, MID], first=[True, False]))


async def test_kept_weights_run_the_step_or_it_is_refused() -> None:
    async with ServedPolicy.open() as policy:
        record = begun(policy, weights="episode")
        step = policy.episodes.step(record, request())
        assert isinstance(step, SessionStep)
        assert step.pending.job.loaded is policy.loaded
        gone = structs.replace(record, run=structs.replace(record.run, retained="gone"))
        with pytest.raises(WeightsGone):
            policy.episodes.step(gone, request())
        with pytest.raises(NotReady):  # another worker has newer ones
            policy.episodes.step(structs.replace(gone, train_step=9), request())


async def test_state_that_is_not_finite_is_refused() -> None:
    async with ServedPolicy.open() as policy:
        step = policy.episodes.begin(BeginRequest(inputs(), Options()), "a", "r")
        with pytest.raises(DoesNotFit, match="not finite"):
            step.after(Result({"action": np.ones((1, 1)), "state/0": np.full((1, 1), np.nan)}, "v0", 0), JSON)
