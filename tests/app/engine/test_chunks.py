import numpy as np
import pytest

from app.engine.base import InputRefused
from app.engine.chunks import check_whole, join, split


@pytest.mark.parametrize(
    ("rows", "size", "calls"),
    [(1, 1, 1), (1, 4, 1), (4, 4, 1), (5, 4, 2), (8, 4, 2), (9, 4, 3), (3, 1, 3)],
)
def test_any_number_of_rows_goes_through_calls_of_a_fixed_size_and_back(rows, size, calls):
    inputs = {"a": np.arange(rows * 2).reshape(rows, 2), "b": np.arange(rows)}
    pieces = list(split(inputs, size))
    assert len(pieces) == calls
    assert all(len(array) == size for piece in pieces for array in piece.values())
    together = join(pieces, rows)
    for name, array in inputs.items():
        np.testing.assert_array_equal(together[name], array)
        assert together[name].dtype == array.dtype


def test_short_piece_repeats_its_own_last_row():
    *_, last = split({"a": np.array([[1, 1], [2, 2], [3, 3]])}, 2)
    np.testing.assert_array_equal(last["a"], [[3, 3], [3, 3]])


def test_strings_are_padded_too():
    [piece] = split({"a": np.array(["up"], object)}, 3)
    assert piece["a"].tolist() == ["up"] * 3


def test_single_values_of_outputs_need_no_other_dimension():
    assert join([{"action": np.array([1, 2])}, {"action": np.array([3, 3])}], 3)["action"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("rows", [0, 1, 2, 4, 6])
def test_a_batch_whose_rows_depend_on_each_other_is_whole_or_refused(rows):
    check_whole(3, 3)
    with pytest.raises(InputRefused, match=f"its export takes 3 rows at once, not {rows}"):
        check_whole(rows, 3)
