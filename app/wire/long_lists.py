"""A list in a body that is too long to be read at once: it is read a piece at a time, and no further than it fits.

Python objects for a whole body of many megabytes would take ten times its size, and no other request would be answered
while they are made. Of a piece they take milliseconds, and are gone before the next one.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from app.errors import Problem
from app.offload import let_others_run
from app.wire.limits import STRINGS_BYTES
from app.wire.tensors import Array, Tensor, Unfit, expected_text, read_tensor
from saver.artifact import Leaf

# As many bytes of a body are read at once. Their objects take a few milliseconds to make.
PIECE_BYTES = 128 * 1024
# A list of fewer bytes is read as a whole.
SHORT_BYTES = 16 * 1024
# Of a row's number in text: sign, 17 digits, point, exponent, and space around it.
NUMBER_BYTES = 64
# Where the spec leaves a dimension open, a row may take so much.
_OPEN_ROW_BYTES = 4 * 2**20


class Ragged(Exception):
    """A piece is no list of rows by itself; the message says how it is."""

    def __init__(self, message: str = "not of one shape from here on") -> None:
        super().__init__(message)


def check_row(size: int, leaf: Leaf) -> None:
    """Raises Ragged where one row, or what should be a piece, takes more bytes than it may."""
    most = 2 * PIECE_BYTES + row_bytes(leaf)
    if size > most:
        raise Ragged(f"more than {most} bytes, which no row takes")


class LongList(ABC):
    """A list in a body, of which only the extent is known. `shown`: what messages call it."""

    shown = "a long list"

    @abstractmethod
    def depth(self, most: int) -> int:
        """Returns how deep lists are nested along their first items, itself included; counted up to `most`."""

    @abstractmethod
    def children(self, most: int) -> list[Any] | None:
        """Returns its items, each read or a long list in turn; None where there are more than `most`."""

    @abstractmethod
    def rows(self, leaf: Leaf) -> int:
        """Returns how many rows of a leaf it has, if it is well formed."""

    @abstractmethod
    def pieces(self, leaf: Leaf, batched: bool) -> Iterator[list[Any] | Array]:
        """Yields rows of the leaf, a few at a time: lists, or an array of a regular shape. Not batched: one row.

        Raises:
          Ragged: the rest is no list of such rows.
          NotJson, NotMsgpack: it is nothing at all.
        """

    @abstractmethod
    def plain(self, most_bytes: int) -> list[Any] | None:
        """Reads all of it; None where it takes more than `most_bytes`."""


class LongString:
    """A string in a JSON body, of which only the extent is known. `shown`: what messages call it."""

    def __init__(self, body: bytes, start: int, end: int) -> None:
        self._body = body
        self._start = start
        self._end = end

    @property
    def shown(self) -> str:
        """The size of the string, in words for messages."""
        return f"a string of {self._end - self._start - 2} bytes"

    def read(self, leaf: Leaf, where: str, load: Callable[[memoryview], str]) -> str:
        """Reads the string, for a leaf of strings; raises Unfit for another leaf, or where it is too long."""
        if leaf.dtype != "string" or self._end - self._start > STRINGS_BYTES:
            most = f" of at most {STRINGS_BYTES} bytes" if leaf.dtype == "string" else ""
            raise Unfit(Problem(where, self.shown, expected_text(leaf) + most))
        return load(memoryview(self._body)[self._start : self._end])


def read_long(raw: LongList, leaf: Leaf, where: str, rows_limit: int, non_finite: bool = False) -> Tensor:
    """Reads one value of the leaf's shape, or a batch of them; decided by rank, as `read_tensor` does.

    Raises:
      Unfit: wrong shape, ragged, wrong type, out of the dtype's range, not finite, or too many rows. What comes after
        that is not read.
    """
    rank = len(leaf.shape)
    depth = raw.depth(rank + 2)
    if depth not in (rank, rank + 1):
        deep = f"lists nested {depth} deep" if depth <= rank + 1 else f"lists nested more than {rank + 1} deep"
        raise Unfit(Problem(where, deep, expected_text(leaf)))
    batched = depth == rank + 1
    parts: list[Array] = []
    rows = 0
    try:
        for piece in raw.pieces(leaf, batched):
            let_others_run()
            part = _rows(piece, leaf, where, rows if batched else None, non_finite)
            if parts and part.shape[1:] != parts[0].shape[1:]:
                came, wanted = list(part.shape[1:]), list(parts[0].shape[1:])
                raise Unfit(Problem(f"{where}[{rows}]", f"shape {came}", f"shape {wanted}, as in the first row"))
            parts.append(part)
            rows += len(part)
            if batched and rows > rows_limit:
                came_rows = max(rows, raw.rows(leaf))
                raise Unfit(Problem(where, f"{came_rows} rows", f"at most {rows_limit} rows in one request"))
    except Ragged as error:
        here = f"{where}[{rows}]" if batched else where
        raise Unfit(Problem(here, str(error), expected_text(leaf))) from None
    if not parts:
        raise Unfit(Problem(where, "an empty list", expected_text(leaf)))
    return Tensor(parts[0] if len(parts) == 1 else np.concatenate(parts), batched)


def row_bytes(leaf: Leaf) -> int:
    """Returns how many bytes of text a row of the leaf may take."""
    if leaf.dtype == "string" or None in leaf.shape:
        return _OPEN_ROW_BYTES
    numbers = int(np.prod([size or 1 for size in leaf.shape]))
    return numbers * NUMBER_BYTES + 1024


def lists_in(leaf: Leaf) -> int:
    """Returns how many lists a row of the leaf consists of, where its sizes are known."""
    count, lists = 1, 0
    for size in leaf.shape:
        lists += count
        count *= size or 1
    return lists


def _rows(piece: list[Any] | Array, leaf: Leaf, where: str, offset: int | None, non_finite: bool) -> Array:
    """Reads a piece. `offset`: the number of its first row; None where it is one value, and no batch."""
    try:
        tensor = read_tensor(piece, leaf, where, non_finite)
    except Unfit as unfit:
        raise Unfit(_moved(unfit.problem, where, offset)) from None
    if not tensor.batched:
        raise Ragged
    return tensor.array


def _moved(problem: Problem, where: str, offset: int | None) -> Problem:
    """Gives a problem the index that its row has in the whole list."""
    index = re.match(r"\[(\d+)\]", problem.where[len(where) :])
    if index is None:
        if offset is None:
            return problem
        shape = re.sub(r"^shape \[\d+(, )?", "shape [", problem.problem)
        return replace(problem, where=f"{where}[{offset}]", problem=shape)
    rest = problem.where[len(where) + index.end() :]
    return replace(problem, where=where + ("" if offset is None else f"[{int(index[1]) + offset}]") + rest)
