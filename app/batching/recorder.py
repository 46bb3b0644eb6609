"""A few inputs of real requests, kept in memory: new weights have to answer them before they serve."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from app.wire.tensors import Arrays

KEPT_ROWS = 16
# So that what is kept comes from different moments, and costs nothing.
_EVERY_S = 0.25


class Recorder:
    """Keeps a row now and then, of those that were answered well: others say nothing of new weights."""

    def __init__(self) -> None:
        self._rows: deque[Arrays] = deque(maxlen=KEPT_ROWS)
        self._next = 0.0

    def wants(self, now: float) -> bool:
        """Returns whether it is time for another row."""
        return now >= self._next

    def offer(self, inputs: Arrays, outputs: Arrays, now: float) -> None:
        """Keeps the first row of `inputs` where it is time for one. `now` is any clock, in seconds."""
        if self.wants(now) and all(map(_finite, outputs.values())):
            self._next = now + _EVERY_S
            self._rows.append({name: array[:1].copy() for name, array in inputs.items()})

    def rows(self) -> list[Arrays]:
        """Returns the kept rows: [1, …] arrays by flattened name; `policy_state` is missing where none was sent."""
        return list(self._rows)


def _finite(array: np.ndarray[Any, Any]) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())
