"""The answers of two versions to the same rows: which are equal, which agree, and by how much they differ. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from app.wire.tensors import Array, Arrays

# Equal but for rounding: two numbers closer than this, absolute and relative.
ROUNDING = 1e-5
# Of all leaves of the action, or of each by its name, where it may differ from number to number.
Tolerance: TypeAlias = "float | Mapping[str, Array | float]"


@dataclass(frozen=True)
class Compared:
    """Rows beside what was answered first: [rows] booleans, and the largest difference of each action leaf, float64.

    `equal`: to the last bit; `close`: equal but for rounding; `agree`: their actions within the tolerance.
    """

    equal: Array
    close: Array
    agree: Array
    differences: Mapping[str, Array]

    def replace(self, places: Array, others: Compared) -> None:
        """Puts others, one for each place, where they come nearer to what was answered first."""
        nearer = others.equal | (others.close & ~self.close[places])
        at = places[nearer]
        for name in ("equal", "close", "agree"):
            getattr(self, name)[at] = getattr(others, name)[nearer]
        for name, apart in self.differences.items():
            apart[at] = others.differences[name][nearer]


def compare(first: Arrays, second: Arrays, beside: tuple[Arrays, Arrays], tolerance: Tolerance) -> Compared:
    """Compares rows.

    Args:
      first: the leaves of the action, [rows, …], by name, as they were recorded or sent.
      second: those of the other version, or of now.
      beside: first and second leaves of what else was answered, which count for `equal` and `close`.
      tolerance: the largest absolute difference of continuous actions that agree; discrete ones have to be equal.
    """
    rows = len(next(iter(first.values())))
    equal, close, agree = (np.ones(rows, bool) for _ in range(3))
    differences = {}
    for name, then in first.items():
        then, now = _plain(then), _plain(second[name].astype(then.dtype, copy=False))
        equal &= _bits_equal(then, now)
        close &= _close(then, now)
        apart = _apart(then, now)
        differences[name] = apart.reshape(rows, -1).max(axis=1, initial=0.0)
        allowed = tolerance[name] if isinstance(tolerance, Mapping) else tolerance
        agree &= (apart <= (allowed if then.dtype.kind == "f" else 0.0)).reshape(rows, -1).all(axis=1)
    for name, then in beside[0].items():
        then, now = _plain(then), _plain(beside[1][name].astype(then.dtype, copy=False))
        equal &= _bits_equal(then, now)
        close &= _close(then, now)
    return Compared(equal, close, agree, differences)


def _plain(array: Array) -> Array:
    """What can be compared: NumPy itself knows no bfloat16, and text that was recorded is no bytes."""
    if array.dtype.kind == "O":
        texts = [one.encode(errors="surrogateescape") if isinstance(one, str) else one for one in array.flat]
        return np.fromiter(texts, object, len(texts)).reshape(array.shape)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def _bits_equal(then: Array, now: Array) -> Array:
    rows = len(then)
    if then.dtype.kind == "O":  # text
        return np.asarray((then == now).reshape(rows, -1).all(axis=1))
    return np.asarray((_bytes(then) == _bytes(now)).reshape(rows, -1).all(axis=1))


def _bytes(array: Array) -> Array:
    return np.ascontiguousarray(array).reshape(len(array), -1).view(np.uint8)


def _close(then: Array, now: Array) -> Array:
    if then.dtype.kind != "f":
        return _bits_equal(then, now)
    near = np.isclose(now, then, rtol=ROUNDING, atol=ROUNDING, equal_nan=True)
    return np.asarray(near.reshape(len(then), -1).all(axis=1))


def _apart(then: Array, now: Array) -> Array:
    """Of each number; NaN beside a number is infinitely far from it, and beside NaN not at all."""
    if then.dtype.kind == "f":
        wide = np.asarray(then, np.float64), np.asarray(now, np.float64)
        with np.errstate(invalid="ignore"):
            apart = np.where(wide[0] == wide[1], 0.0, np.abs(wide[0] - wide[1]))
        both = np.isnan(wide[0]) & np.isnan(wide[1])
        apart = np.where(both, 0.0, np.where(np.isnan(apart), np.inf, apart))
    elif then.dtype.kind in "iu":
        apart = np.where(then > now, then, now).astype(np.float64) - np.where(then > now, now, then)
    else:
        apart = (then != now).astype(np.float64)
    return np.asarray(apart)


@dataclass
class Numbers:
    """The count, mean and largest of numbers that come piece by piece; `infinite` of them are counted apart."""

    count: int = 0
    total: float = 0.0
    largest: float = -math.inf
    infinite: int = 0

    def add(self, values: Array) -> None:
        """Adds an array of float64; what is unknown (NaN) is left out."""
        known = values[~np.isnan(values)]
        finite = known[np.isfinite(known)]
        self.infinite += len(known) - len(finite)
        self.count += len(finite)
        self.total += float(finite.sum())
        self.largest = max(self.largest, float(known.max())) if len(known) else self.largest

    def include(self, other: Numbers) -> None:
        """Adds those of another."""
        self.count, self.infinite = self.count + other.count, self.infinite + other.infinite
        self.total, self.largest = self.total + other.total, max(self.largest, other.largest)

    @property
    def mean(self) -> float:
        """The mean of the finite ones; NaN without any."""
        return self.total / self.count if self.count else math.nan
