"""A long list is read a piece at a time, and refused where it stops to be rows of the leaf."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
import pytest

from app.wire import long_lists
from app.wire.long_lists import LongList, LongString, Ragged, check_row, lists_in, read_long, row_bytes
from app.wire.tensors import Unfit
from saver.artifact import Leaf

PAIRS = Leaf("0/observation", "float32", (2,))


class Pieces(LongList):
    """A list that comes in these pieces; `read` counts them. An error among them is raised in its place."""

    def __init__(self, *pieces: Any, depth: int = 2) -> None:
        self._pieces = pieces
        self._depth = depth
        self.read = 0

    def depth(self, most: int) -> int:
        return min(self._depth, most)

    def children(self, most: int) -> list[Any] | None:
        raise NotImplementedError

    def rows(self, leaf: Leaf) -> int:
        return 1000

    def pieces(self, leaf: Leaf, batched: bool) -> Iterator[list[Any]]:
        for piece in self._pieces:
            self.read += 1
            if isinstance(piece, Exception):
                raise piece
            yield piece

    def plain(self, most_bytes: int) -> list[Any] | None:
        raise NotImplementedError


def problem(raw: LongList, leaf: Leaf = PAIRS, rows_limit: int = 100) -> tuple[str, str]:
    with pytest.raises(Unfit) as caught:
        read_long(raw, leaf, "x", rows_limit)
    return caught.value.problem.where, caught.value.problem.problem


def test_the_pieces_make_one_array_of_the_leafs_dtype() -> None:
    found = read_long(Pieces([[1, 2], [3, 4]], [[5, 6]]), PAIRS, "x", 100)
    assert found.batched
    assert found.array.dtype == np.float32
    np.testing.assert_array_equal(found.array, [[1, 2], [3, 4], [5, 6]])


def test_a_list_as_deep_as_the_leaf_is_one_value() -> None:
    found = read_long(Pieces([[1, 2]], depth=1), PAIRS, "x", 100)
    assert not found.batched
    assert found.array.shape == (1, 2)


@pytest.mark.parametrize(
    ("depth", "text"), [(0, "lists nested 0 deep"), (3, "lists nested more than 2 deep"), (9, "more than 2 deep")]
)
def test_a_list_of_another_depth_is_refused_unread(depth: int, text: str) -> None:
    raw = Pieces([[1, 2]], depth=depth)
    where, found = problem(raw)
    assert (where, found.endswith(text), raw.read) == ("x", True, 0)


def test_what_is_wrong_in_a_later_piece_has_its_index_in_the_whole_list() -> None:
    assert problem(Pieces([[1, 2], [3, 4]], [[5, 6], [7, "x"]])) == ("x[3][1]", "the string 'x'")
    assert problem(Pieces([["x", 2]], depth=1)) == ("x[0]", "the string 'x'")
    assert problem(Pieces([[1, 2]], [[1, 2, 3]])) == ("x[1]", "shape [3]")
    assert problem(Pieces([[1, 2]], [[3, 4], [1, 2, 3]])) == ("x[2]", "3 items")


def test_rows_of_another_shape_than_the_first_are_named() -> None:
    leaf = Leaf("0/observation", "float32", (None,))
    assert problem(Pieces([[1, 2]], [[1, 2, 3]]), leaf) == ("x[1]", "shape [3]")


def test_what_is_no_list_of_rows_is_named_where_it_starts() -> None:
    assert problem(Pieces([[1, 2], [3, 4]], Ragged())) == ("x[2]", "not of one shape from here on")
    assert problem(Pieces(Ragged("too long"), depth=1)) == ("x", "too long")


def test_too_many_rows_are_refused_before_the_rest_is_read_and_counted_all_the_same() -> None:
    raw = Pieces([[1, 2]] * 2, [[1, 2]] * 2, [[1, 2]] * 2)
    assert problem(raw, rows_limit=3) == ("x", "1000 rows")
    assert raw.read == 2
    assert len(read_long(Pieces([[1, 2]] * 3), PAIRS, "x", 3).array) == 3


def test_an_empty_list_is_no_value() -> None:
    assert problem(Pieces()) == ("x", "an empty list")


def test_a_row_may_take_as_much_as_its_numbers_and_a_piece_twice_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_lists, "PIECE_BYTES", 100)
    assert row_bytes(PAIRS) == 2 * 64 + 1024
    check_row(200 + row_bytes(PAIRS), PAIRS)
    with pytest.raises(Ragged, match="more than 1352 bytes, which no row takes"):
        check_row(201 + row_bytes(PAIRS), PAIRS)


@pytest.mark.parametrize("leaf", [Leaf("x", "string", ()), Leaf("x", "float32", (None, 2))])
def test_a_row_of_unknown_size_may_take_megabytes(leaf: Leaf) -> None:
    assert row_bytes(leaf) == 4 * 2**20


@pytest.mark.parametrize(("shape", "lists"), [((), 0), ((3,), 1), ((3, 2), 4), ((3, 2, 5), 10), ((None, 2), 2)])
def test_a_row_has_as_many_lists_as_its_shape_says(shape: tuple[int | None, ...], lists: int) -> None:
    assert lists_in(Leaf("x", "float32", shape)) == lists


def test_a_long_string_is_read_for_a_leaf_of_strings_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    body = b'{"x":"' + b"y" * 50 + b'"}'
    long = LongString(body, 5, 57)
    assert long.read(Leaf("x", "string", ()), "x", orjson.loads) == "y" * 50
    with pytest.raises(Unfit) as caught:
        long.read(PAIRS, "x", orjson.loads)
    assert caught.value.problem.problem == "a string of 50 bytes"
    monkeypatch.setattr(long_lists, "STRINGS_BYTES", 51)
    with pytest.raises(Unfit) as caught:
        long.read(Leaf("x", "string", ()), "x", orjson.loads)
    assert caught.value.problem.expected.endswith("of at most 51 bytes")
