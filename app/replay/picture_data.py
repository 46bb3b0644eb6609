"""Counts for the picture: agreement and divergence along the recording, and recorded beside new actions. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from app.wire.tensors import Array, Arrays
from saver.artifact import Leaf, Nest, leaves

# The recording from its first row to its last, in so many pieces.
BINS = 60
_CELLS = 40
_MOST_ACTIONS = 32
# More would not be seen.
MOST_LEAVES = 4


@dataclass
class Along:
    """Sums along the recording: [BINS] float64 each."""

    rows: int
    compared: Array = field(default_factory=lambda: np.zeros(BINS))
    agree: Array = field(default_factory=lambda: np.zeros(BINS))
    diverged: Array = field(default_factory=lambda: np.zeros(BINS))
    divergence: Array = field(default_factory=lambda: np.zeros(BINS))

    def add(self, places: Array, agree: Array) -> None:
        """Adds compared rows; `places`: their numbers in the recording, the first one 0."""
        self.compared += self._sums(places, np.ones(len(places)))
        self.agree += self._sums(places, agree.astype(np.float64))

    def add_divergence(self, places: Array, values: Array) -> None:
        """Adds the divergence of rows; what is unknown or infinite is left out."""
        finite = np.isfinite(values)
        self.diverged += self._sums(places[finite], np.ones(int(finite.sum())))
        self.divergence += self._sums(places[finite], values[finite])

    def _sums(self, places: Array, values: Array) -> Array:
        return np.bincount(places * BINS // self.rows, values, minlength=BINS)[:BINS]


@dataclass
class Joint:
    """How often one number of an action was recorded (first index) and given now (second): [cells, cells].

    `low`, `high`: the ends of the cells; discrete ones have a cell for each value.
    """

    name: str
    low: float
    high: float
    discrete: bool
    counts: Array

    def add(self, then: Array, now: Array) -> None:
        """Adds rows: [rows] each. What lies outside is counted at the edge."""
        cells = len(self.counts)
        width = (self.high - self.low) / (cells - 1 if self.discrete else cells) or 1.0
        with np.errstate(invalid="ignore"):
            both = [np.nan_to_num((np.asarray(side, np.float64) - self.low) / width) for side in (then, now)]
        rounded = [np.clip(np.rint(side) if self.discrete else np.floor(side), 0, cells - 1) for side in both]
        at = rounded[0].astype(np.int64) * cells + rounded[1].astype(np.int64)
        self.counts += np.bincount(at, minlength=cells * cells).reshape(cells, cells)


class Joints:
    """The first numbers of a policy's actions: see `Joint`. Ends that the spec leaves open are the first rows' own."""

    def __init__(self, action: Nest) -> None:
        self._leaves = list(leaves(action, "action"))
        self.found: list[Joint] | None = None

    def add(self, then: Mapping[str, Array], now: Arrays) -> None:
        """Adds rows of the leaves of an action, [rows, …] by flattened name."""
        columns = [
            (f"{path}[{index}]" if then[leaf.name][:1].size > 1 else path, leaf, index)
            for path, leaf in self._leaves
            for index in range(then[leaf.name][:1].size)
        ][:MOST_LEAVES]
        sides = [[_column(side[leaf.name], index) for _, leaf, index in columns] for side in (then, now)]
        if self.found is None:
            self.found = [_empty(name, leaf, index, sides[0][at]) for at, (name, leaf, index) in enumerate(columns)]
        for joint, first, second in zip(self.found, *sides, strict=True):
            joint.add(first, second)


def _column(array: Array, index: int) -> Array:
    return np.asarray(array.reshape(len(array), -1)[:, index])


def _empty(name: str, leaf: Leaf, index: int, values: Array) -> Joint:
    known = np.asarray(values, np.float64)
    known = known[np.isfinite(known)]
    low, high = (_bound(bound, index) for bound in (leaf.minimum, leaf.maximum))
    low = float(known.min(initial=0.0)) if low is None or not np.isfinite(low) else low
    high = float(known.max(initial=low)) if high is None or not np.isfinite(high) else high
    discrete = not leaf.is_float and high - low < _MOST_ACTIONS
    cells = round(high - low) + 1 if discrete else _CELLS
    return Joint(name, low, high, discrete, np.zeros((cells, cells), np.int64))


def _bound(bound: object, index: int) -> float | None:
    if bound is None:
        return None
    flat = np.asarray(bound, np.float64).reshape(-1)
    return float(flat[index if len(flat) > 1 else 0])
