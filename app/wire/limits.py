"""A policy's spec → how large the bodies of its requests, and its answers, may be."""

from __future__ import annotations

import numpy as np

from app.errors import DoesNotFit, Problem
from saver.artifact import Leaf, Nest, leaves

# No request is larger: what comes in, its arrays and what is read at once have to fit into memory beside each other.
LARGEST_BYTES = 64 * 2**20
# Names of fields, options, ids, and space. A smaller body is always read at once, and never refused because of what
# other clients send.
SMALL_BYTES = 64 * 1024
# Of strings the spec does not say how long they are; 65,536 of them may have some 250 bytes each.
STRINGS_BYTES = 16 * 2**20
# A body of the most usual kinds is read at once up to here: that takes a few milliseconds.
SHORT_BODY_BYTES = 2 * 2**20
# As many numbers of an answer are written at once, which takes as long.
FEW_NUMBERS = 64 * 1024
# The longest text of a number of 64 bits; the line break and the space before it where the text is indented; both
# brackets of a list with theirs. And what msgpack takes at most for a number, and for the head of a list.
_DIGITS, _INDENT, _BRACKETS = 24, 8, 12
_PACKED_NUMBER, _PACKED_LIST = 9, 5
# Numbers in one answer. As text they take four times what they take as numbers, and all of it is there at once.
MOST_ANSWER_NUMBERS = 4 * 2**20


def most_bytes(nest: Nest, rows: int, *, text: bool) -> int:
    """Returns the most bytes that rows of a nest take, as JSON `text` or msgpack; `LARGEST_BYTES` for unknown sizes."""
    size = SMALL_BYTES
    for _, leaf in leaves(nest):
        if None in leaf.shape:
            return LARGEST_BYTES
        if leaf.dtype == "string":
            size += STRINGS_BYTES
        numbers, lists = _numbers(leaf), 1 + sum(np.cumprod([1, *(size or 1 for size in leaf.shape)])[:-1].tolist())
        if text:
            size += rows * (numbers * (_DIGITS + _INDENT) + lists * _BRACKETS)
        else:
            size += rows * (numbers * _PACKED_NUMBER + lists * _PACKED_LIST)
    return min(LARGEST_BYTES, size)


def largest_bodies(nest: Nest, rows: int) -> tuple[int, int]:
    """Returns the most bytes of a request with so many rows of a nest: as msgpack, and as JSON."""
    return most_bytes(nest, rows, text=False), most_bytes(nest, rows, text=True)


def most_keys(nest: Nest) -> int:
    """Returns how many names an object that fits may have, those of the objects inside included."""
    return 64 + 8 * sum(1 for _ in leaves(nest))


def check_answer(rows: int, numbers: int, where: str) -> None:
    """Checks that an answer with so many numbers in each row may be given.

    Raises:
      DoesNotFit: it is too large.
    """
    if rows > 1 and rows * numbers > MOST_ANSWER_NUMBERS:
        most = max(1, MOST_ANSWER_NUMBERS // numbers)
        expected = f"at most {most} rows in one request: the answer has {numbers} numbers a row"
        raise DoesNotFit([Problem(where, f"{rows} rows", expected)])


def _numbers(leaf: Leaf) -> int:
    return int(np.prod([size or 1 for size in leaf.shape], dtype=object))
