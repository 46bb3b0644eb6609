"""A few inputs of real requests, kept in memory: new weights have to answer them before they serve."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from app.batching.spread import farthest_first
from app.wire.tensors import Arrays

KEPT_ROWS = 16
# Of these, where they are to be spread: as many as are chosen from in a few milliseconds, and of as many bytes.
_MOST_CANDIDATES, _MOST_BYTES = 128, 4 << 20
# So that what is kept comes from different moments, and costs nothing.
_EVERY_S = 0.25


class InputSample:
    """Keeps a row now and then, of those that were answered well: others say nothing of new weights.

    `spread`: not the last ones, but some that lie far from each other, of a sample of all that were offered.
    `due`: when it is time for another one, in seconds of any clock.
    """

    __slots__ = ("_candidates", "_rows", "due")

    def __init__(self, spread: bool = False) -> None:
        self._rows: deque[Arrays] = deque(maxlen=KEPT_ROWS)
        self._candidates: Candidates | None = Candidates() if spread else None
        self.due = 0.0

    def offer(self, inputs: Arrays, outputs: Arrays, now: float) -> None:
        """Keeps the first row of `inputs` where it is time for one. `now`: on the clock of `due`."""
        if now >= self.due and all(map(_finite, outputs.values())):
            self.due = now + _EVERY_S
            row = {name: array[:1].copy() for name, array in inputs.items()}
            self._rows.append(row)
            if self._candidates is not None:
                self._candidates.add(row)

    def rows(self) -> list[Arrays]:
        """Returns the kept rows: [1, …] arrays by flattened name; `policy_state` is missing where none was sent."""
        if self._candidates is None or len(self._rows) < KEPT_ROWS:
            return list(self._rows)
        rows = [*self._candidates.rows, self._rows[-1]]
        return [rows[place] for place in farthest_first(rows, KEPT_ROWS)]


class Candidates:
    """A sample of all rows that were added, each as likely as any other: Vitter's algorithm R (1985)."""

    def __init__(self) -> None:
        self.rows: list[Arrays] = []
        self._added = 0
        self._generator = np.random.default_rng()

    def add(self, row: Arrays) -> None:
        """Adds a row, which may take the place of another one."""
        self._added += 1
        size = sum(array.nbytes for array in row.values())
        room = min(_MOST_CANDIDATES, max(_MOST_BYTES // max(size, 1), KEPT_ROWS))
        if len(self.rows) < room:
            self.rows.append(row)
            return
        place = int(self._generator.integers(self._added))
        if place < len(self.rows):
            self.rows[place] = row


def _finite(array: np.ndarray[Any, Any]) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())
