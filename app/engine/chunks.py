"""Any number of rows → calls of a fixed number of rows, and back. Pure.

For policies exported with a fixed batch size, and for rows whose rounding must not depend on their neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from app.engine.base import InputRefused
from app.wire.tensors import Arrays


def split(inputs: Mapping[str, np.ndarray[Any, Any]], size: int) -> Iterator[Arrays]:
    """Yields pieces of exactly `size` rows; the last repeats its last row where it is short.

    A repeated row rather than zeros: it is an input that the policy is known to accept.
    """
    rows = len(next(iter(inputs.values())))
    for start in range(0, rows, size):
        piece = {name: array[start : start + size] for name, array in inputs.items()}
        short = size - len(next(iter(piece.values())))
        if short:
            piece = {name: np.concatenate([a, np.repeat(a[-1:], short, axis=0)]) for name, a in piece.items()}
        yield piece


def check_whole(rows: int, size: int) -> None:
    """Checks a call of a policy whose rows depend on each other: it takes neither a part of a batch nor repeated rows.

    Raises:
      InputRefused: there are not exactly `size` rows.
    """
    if rows != size:
        raise InputRefused(f"its rows depend on each other, and its export takes {size} rows at once, not {rows}")


def join(pieces: list[Arrays], rows: int) -> Arrays:
    """Joins the outputs of all pieces to `rows` rows, without the repeated ones."""
    return {name: np.concatenate([piece[name] for piece in pieces])[:rows] for name in pieces[0]}
