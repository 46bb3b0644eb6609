from typing import Any

import pytest

from app.inputs.bounds import bounds_of, limits_of, pairs_of
from saver.artifact import Leaf


@pytest.mark.parametrize(
    ("leaf", "limits"),
    [
        (Leaf("x", "int8", ()), (-128, 127)),
        (Leaf("x", "int8", (), -5, 1000), (-5, 127)),
        (Leaf("x", "uint64", (), None, 2**64 - 1), (0, 2**64 - 1)),
        (Leaf("x", "float16", ()), (-65504.0, 65504.0)),
        (Leaf("x", "float64", (), float("-inf"), 2), (-1.7976931348623157e308, 2.0)),
    ],
)
def test_limits_are_those_of_bounds_and_dtype_together(leaf: Leaf, limits: tuple[Any, Any]) -> None:
    found = limits_of(leaf, leaf.minimum, leaf.maximum)
    assert found == limits
    assert [type(end) for end in found] == [int if leaf.is_integer else float] * 2


def test_step_types_are_first_mid_or_last() -> None:
    leaf = Leaf("0/step_type", "int32", ())
    assert bounds_of(leaf, step_type=True) == (0, 2)
    assert bounds_of(leaf, step_type=False) == (None, None)


def test_bounds_of_a_vector_are_those_of_each_number() -> None:
    leaf = Leaf("x", "int32", (2,))
    assert list(pairs_of(leaf, [0, 1], 9)) == [(0, 9), (1, 9)]
    assert list(pairs_of(leaf, None, [3, 4])) == [(None, 3), (None, 4)]
