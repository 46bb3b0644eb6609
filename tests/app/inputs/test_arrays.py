"""Arrays of the spec's own dtypes become inputs in few calls; whatever needs a closer look is left to the validator."""

from typing import Any

import numpy as np
import pytest

from app.inputs.arrays import ArrayReader
from saver.artifact import Leaf
from tests.support.specs import policy_spec

ROWS = 4
SPEC = policy_spec(Leaf("0/observation", "float32", (2,), -1.0, 1.0))


def observed(number: float = 0.5, dtype: Any = np.float32) -> Any:
    return np.full((ROWS, 2), number, dtype)


def read(rows: int = ROWS, limit: int = 8, **arrays: Any) -> Any:
    """Names with _ in the place of /."""
    return ArrayReader(SPEC, limit).read({f"0/{name}": array for name, array in arrays.items()}, rows)


def test_the_inputs_are_the_arrays_themselves() -> None:
    array = observed()
    found = read(observation=array)
    assert found.arrays["0/observation"] is array
    assert (found.rows, found.batched, found.needs_state, found.outside_bounds) == (ROWS, True, False, 0)


def test_what_has_a_default_may_come_too_and_within_its_own_limits() -> None:
    for step_type, taken in ((0, True), (2, True), (3, False), (-1, False)):
        found = read(observation=observed(), step_type=np.full(ROWS, step_type, np.int32))
        assert (found is not None) is taken
    assert read(observation=observed(), discount=np.full(ROWS, 1.5, np.float32)) is None
    assert read(observation=observed(), reward=np.full(ROWS, 1.5, np.float32)) is not None


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, np.bool_, ">f4"])
def test_another_dtype_is_left_to_the_validator(dtype: Any) -> None:
    assert read(observation=observed(0, dtype)) is None


def test_names_that_are_unknown_or_missing_are_left_to_the_validator() -> None:
    assert read(observation=observed(), velocity=observed()) is None
    assert read(reward=np.zeros(ROWS, np.float32)) is None
    assert read() is None


@pytest.mark.parametrize(("rows", "taken"), [(0, False), (1, True), (8, True), (9, False)])
def test_as_many_rows_as_a_request_may_have_are_taken(rows: int, taken: bool) -> None:
    found = read(rows, observation=np.zeros((rows, 2), np.float32))
    assert (found is not None) is taken


@pytest.mark.parametrize("count", [1, 32, 33, 1000])
@pytest.mark.parametrize(
    ("number", "taken"),
    [(1.0, True), (-1.0, True), (1.0001, False), (-1.0001, False), (np.nan, False), (np.inf, False), (-np.inf, False)],
)
def test_one_number_outside_is_found_wherever_it_is_and_the_limits_are_inside(
    count: int, number: float, taken: bool
) -> None:
    reader = ArrayReader(policy_spec(Leaf("0/observation", "float32", (count,), -1.0, 1.0)), 1)
    for at in {0, count // 2, count - 1}:
        array = np.zeros((1, count), np.float32)
        array[0, at] = number
        assert (reader.read({"0/observation": array}, 1) is not None) is taken


@pytest.mark.parametrize("count", [2, 50])
def test_without_bounds_every_finite_number_is_taken_and_no_other(count: int) -> None:
    reader = ArrayReader(policy_spec(Leaf("0/observation", "float32", (count,))), 1)
    largest = float(np.finfo(np.float32).max)
    for number, taken in ((largest, True), (-largest, True), (np.inf, False), (np.nan, False)):
        array = np.zeros((1, count), np.float32)
        array[0, -1] = number
        assert (reader.read({"0/observation": array}, 1) is not None) is taken


def test_numbers_whose_sum_is_infinite_are_looked_at_more_closely() -> None:
    reader = ArrayReader(policy_spec(Leaf("0/observation", "float64", (2,))), 1)
    assert reader.read({"0/observation": np.full((1, 2), 1e308)}, 1) is None
    assert reader.read({"0/observation": np.array([[1e308, -1e308]])}, 1) is not None


def test_bounds_of_each_number_hold_for_that_number() -> None:
    reader = ArrayReader(policy_spec(Leaf("0/observation", "int32", (2,), [0, -5], 9)), 2)
    for row, taken in (((0, -5), True), ((9, 9), True), ((-1, 0), False), ((0, -6), False), ((0, 10), False)):
        assert (reader.read({"0/observation": np.array([(1, 1), row], np.int32)}, 2) is not None) is taken


def test_arrays_that_lie_in_memory_in_another_order_are_read_alike() -> None:
    outside = np.zeros((50, 2), np.float32)
    outside[3, 1] = 2
    for array, taken in ((np.asfortranarray(outside), False), (outside[:, ::-1], False), (outside[4:], True)):
        assert (read(len(array), 100, observation=array) is not None) is taken


def test_strings_are_left_to_the_validator() -> None:
    reader = ArrayReader(policy_spec(Leaf("0/observation", "string", ())), 1)
    assert reader.read({"0/observation": np.array(["left"], object)}, 1) is None
