"""How large bodies may be, beside bodies as clients write them."""

import json

import numpy as np
import pytest

from app.errors import DoesNotFit
from app.wire import msgpack_body
from app.wire.limits import (
    LARGEST_BYTES,
    MOST_ANSWER_NUMBERS,
    SMALL_BYTES,
    check_answer,
    largest_bodies,
    most_bytes,
    most_keys,
)
from saver.artifact import Leaf, Nest
from tests.support.specs import NESTED

ROWS = 500
NESTS: dict[str, Nest] = {
    "floats": Leaf("x", "float64", (4,)),
    "scalar": Leaf("x", "int64", ()),
    "image": Leaf("x", "uint8", (8, 8, 3)),
    "nested": NESTED,
    "two": (Leaf("x", "float32", (2,)), Leaf("y", "int8", (3, 1))),
}


def longest(nest: Nest, rows: int) -> object:
    """The longest text of such numbers."""
    if isinstance(nest, Leaf):
        return np.full((rows, *(size or 1 for size in nest.shape)), -1.7976931348623157e308).tolist()
    if isinstance(nest, dict):
        return {name: longest(child, rows) for name, child in nest.items()}
    return [longest(child, rows) for child in nest]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("name", NESTS)
def test_the_longest_json_of_the_rows_fits(name: str, indent: int | None) -> None:
    body = {"observation": longest(NESTS[name], ROWS)}
    assert len(json.dumps(body, indent=indent)) <= most_bytes(NESTS[name], ROWS, text=True)


@pytest.mark.parametrize("name", NESTS)
def test_the_longest_msgpack_of_the_rows_fits(name: str) -> None:
    binary, text = largest_bodies(NESTS[name], ROWS)
    assert len(msgpack_body.encode({"observation": longest(NESTS[name], ROWS)})) <= binary < text


def test_bounds_grow_with_the_rows_up_to_the_largest_body() -> None:
    nest = NESTS["image"]
    sizes = [most_bytes(nest, rows, text=True) for rows in (0, 1, 10, 10**6)]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (SMALL_BYTES, LARGEST_BYTES)


def test_an_unknown_size_takes_all_there_is() -> None:
    assert most_bytes(Leaf("x", "float32", (None,)), 1, text=False) == LARGEST_BYTES


def test_names_have_a_bound_by_the_spec() -> None:
    assert most_keys(NESTS["two"]) - most_keys(NESTS["floats"]) == 8


def test_an_answer_has_a_bound_that_one_row_may_pass() -> None:
    check_answer(1, 10 * MOST_ANSWER_NUMBERS, "observation")
    check_answer(4, MOST_ANSWER_NUMBERS // 4, "observation")
    with pytest.raises(DoesNotFit) as caught:
        check_answer(5, MOST_ANSWER_NUMBERS // 4, "observation")
    (problem,) = caught.value.problems
    assert (problem.where, problem.problem) == ("observation", "5 rows")
    assert problem.expected.startswith("at most 4 rows in one request")
