"""Rows are equal up to rounding, or like those to inputs that differ by no more than rounding."""

import numpy as np
import pytest

from app.builder.row_comparison import TOLERANCE, Unequal, differing_rows, identical, is_among, nudged, rows_of


def floats(*values: float) -> dict[str, np.ndarray]:
    return {"x": np.array(values, np.float32)}


@pytest.mark.parametrize(
    ("found", "expected", "differing"),
    [
        (floats(1, 2, 3), floats(1, 2, 3), [False, False, False]),
        (floats(1, 2 + 4 * TOLERANCE, 3), floats(1, 2, 3), [False, True, False]),
        (floats(1e6 + 5), floats(1e6), [False]),  # relative
        (floats(5e-6), floats(0), [False]),  # absolute
        (floats(np.nan, np.nan, 1), floats(np.nan, 1, np.nan), [False, True, True]),
        (floats(np.inf, -np.inf), floats(np.inf, np.inf), [False, True]),
        ({"n": np.array([1, 2])}, {"n": np.array([1, 3])}, [False, True]),
        ({"b": np.array([True])}, {"b": np.array([False])}, [True]),
        ({"n": np.array([[1, 2], [3, 4]])}, {"n": np.array([[1, 2], [3, 5]])}, [False, True]),
    ],
)
def test_floats_differ_beyond_rounding_and_others_at_all(found, expected, differing) -> None:
    assert differing_rows(found, expected).tolist() == differing


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({"y": np.zeros(1, np.float32)}, r"the outputs are \['y'\], TensorFlow's \['x'\]"),
        ({"x": np.zeros(1, np.float64)}, r"x is float64 \(1,\), TensorFlow's float32 \(1,\)"),
        ({"x": np.zeros((1, 1), np.float32)}, r"x is float32 \(1, 1\), TensorFlow's float32 \(1,\)"),
    ],
)
def test_other_names_dtypes_and_shapes_are_unequal(found, says) -> None:
    with pytest.raises(Unequal, match=says):
        differing_rows(found, floats(0))


def answers(chosen: list[int], values: list[float]) -> dict[str, np.ndarray]:
    return {"action": np.array(chosen), "value": np.array(values, np.float32)}


@pytest.mark.parametrize(
    ("found", "is_one"),
    [
        (answers([0], [1.0]), True),
        (answers([1], [5.0]), True),
        (answers([0], [1.1]), True),  # between those of action 0, which are a few of many
        (answers([0], [5.0]), False),  # the value of another action
        (answers([2], [1.0]), False),  # an action that none of them is
        (answers([1], [5.2]), False),
    ],
)
def test_a_row_is_among_answers_whose_integers_it_has_and_between_whose_floats_it_lies(found, is_one) -> None:
    assert is_among(found, answers([0, 0, 1], [1.0, 1.2, 5.0])) is is_one


@pytest.mark.parametrize(("value", "is_one"), [(1.5, True), (0.2, True), (4.2, False), (-1.1, False)])
def test_floats_alone_lie_between_all_answers_with_as_much_to_spare(value, is_one) -> None:
    assert is_among(floats(value), floats(1, 2.5)) is is_one


def test_identical_means_to_the_last_bit_with_nan_at_the_same_places() -> None:
    one = np.array([1, np.nan], np.float32)
    assert identical(one, one.copy())
    assert not identical(one, np.nextafter(one, 2, dtype=np.float32))
    assert identical(np.array([b"a"], object), np.array([b"a"], object))


def test_rows_are_taken_in_the_order_asked_for() -> None:
    taken = rows_of({"n": np.arange(3), "m": np.arange(6).reshape(3, 2)}, [2, 0, 2])
    assert taken["n"].tolist() == [2, 0, 2]
    assert taken["m"].tolist() == [[4, 5], [0, 1], [4, 5]]


def test_nudged_floats_differ_by_about_rounding_and_integers_stay() -> None:
    generator = np.random.default_rng(0)
    ones = nudged(np.ones(10_000, np.float32), generator)
    assert ones.dtype == np.float32
    assert 5e-7 < np.abs(ones - 1).mean() < 2e-6
    whole = np.arange(5)
    assert nudged(whole, generator) is whole
