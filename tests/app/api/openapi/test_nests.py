"""Bounds in the schemas are those that are enforced."""

import pytest

from app.api.openapi.schemas import policy_schemas
from app.errors import DoesNotFit
from app.inputs.validate import InputValidator
from saver.artifact import Leaf
from tests.support.openapi import ROWS, SPECS, policy, validator, whole
from tests.support.specs import policy_spec


def test_bounds_of_integers_are_part_of_the_schema():
    request = policy_schemas(policy(policy_spec(Leaf("0/observation", "uint8", (), 0, 255))))["request"]
    one, batch = request["properties"]["observation"]["anyOf"]
    assert (one["minimum"], one["maximum"]) == (0, 255)
    assert batch["items"]["maximum"] == 255


@pytest.mark.parametrize(
    ("leaf", "least", "most"),
    [
        (Leaf("0/observation", "int8", (2,)), -128, 127),
        (Leaf("0/observation", "int32", (2,), [0, -5], [7, 3]), -5, 7),
        (Leaf("0/observation", "uint64", (2,)), 0, 2**64 - 1),
        (Leaf("0/observation", "int16", (2,), maximum=10**9), -(2**15), 2**15 - 1),
    ],
)
def test_integers_are_bounded_by_their_dtype_too(leaf: Leaf, least: int, most: int) -> None:
    check = validator(whole(policy(policy_spec(leaf))), "p.request")
    read = InputValidator(policy_spec(leaf), rows_limit=ROWS).read
    for value in (least, most):
        check.validate({"observation": [value] * 2})
    for value in (least - 1, most + 1):
        assert not check.is_valid({"observation": [value] * 2})
        with pytest.raises(DoesNotFit):
            read({"observation": [value] * 2})


def test_step_types_are_bounded() -> None:
    check = validator(whole(policy(SPECS["flat"])), "p.request")
    found = [check.is_valid({"observation": [0] * 4, "step_type": value}) for value in (-1, 0, 2, 3)]
    assert found == [False, True, True, False]


@pytest.mark.parametrize("strict", [True, False])
def test_bounds_of_floats_are_shown_where_they_are_enforced(strict: bool) -> None:
    reader = InputValidator(SPECS["bounded"], rows_limit=ROWS, strict_bounds=strict)
    described = whole(policy(SPECS["bounded"], reader=reader))
    body = described["components"]["schemas"]["p.request"]["example"]
    check = validator(described, "p.request")
    check.validate(body)
    outside = {"observation": {**body["observation"], "far": [4.5, 5.5]}}
    assert check.is_valid(outside) is not strict


def test_words_for_what_is_not_finite_are_shown_where_they_are_taken() -> None:
    for accepts in (True, False):
        reader = InputValidator(SPECS["flat"], rows_limit=ROWS, non_finite=accepts)
        check = validator(whole(policy(SPECS["flat"], reader=reader)), "p.request")
        assert check.is_valid({"observation": [0, 0, 0, "NaN"]}) is accepts
