"""The outputs of a call for several jobs of one row each, parted into those of each job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.wire.tensors import Array, Arrays


class Together:
    """The outputs of all rows. `written`: what was written of every row at once, by what wrote it."""

    __slots__ = ("outputs", "written")

    def __init__(self, outputs: Arrays) -> None:
        self.outputs = outputs
        self.written: dict[Any, Sequence[bytes]] = {}


class Row(dict[str, Array]):
    """The outputs of one row, [1, …] by name. `place`: where it stands in `together`."""

    __slots__ = ("place", "together")

    together: Together
    place: int


def parted(outputs: Arrays, rows: int) -> list[Row]:
    """Returns the rows of outputs that have so many."""
    together, items = Together(outputs), list(outputs.items())
    found = []
    for place in range(rows):
        row = Row()
        row.together, row.place = together, place
        for name, array in items:
            row[name] = array[place : place + 1]
        found.append(row)
    return found
