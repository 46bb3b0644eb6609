"""Recorded answers beside those given now: which rows are equal, which agree, and by how much they differ. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from app.wire.tensors import Array, Arrays

# Equal but for rounding: two numbers closer than this, absolute and relative.
ROUNDING = 1e-5


@dataclass(frozen=True)
class Compared:
    """Rows beside what was recorded: [rows] booleans, and the absolute difference of each action leaf, [rows] float64.

    `equal`: to the last bit; `close`: equal but for rounding; `agree`: their actions within the tolerance.
    """

    equal: Array
    close: Array
    agree: Array
    differences: Mapping[str, Array]

    def replace(self, places: Array, others: Compared) -> None:
        """Puts others, one for each place, where they come nearer to what was recorded."""
        nearer = others.equal | (others.close & ~self.close[places])
        at = places[nearer]
        for name in ("equal", "close", "agree"):
            getattr(self, name)[at] = getattr(others, name)[nearer]
        for name, apart in self.differences.items():
            apart[at] = others.differences[name][nearer]


def compare(recorded: Arrays, found: Arrays, beside: tuple[Arrays, Arrays], tolerance: float) -> Compared:
    """Compares rows.

    Args:
      recorded: the leaves of the action then, [rows, …], by name.
      found: those of now.
      beside: recorded and found leaves of what else was answered, which count for `equal` and `close`.
      tolerance: the largest absolute difference of continuous actions that agree; discrete ones have to be equal.
    """
    rows = len(next(iter(recorded.values())))
    equal, close, agree = (np.ones(rows, bool) for _ in range(3))
    differences = {}
    for name, then in recorded.items():
        now = found[name].astype(then.dtype, copy=False)
        equal &= _bits_equal(then, now)
        close &= _close(then, now)
        apart = _difference(then, now)
        differences[name] = apart
        agree &= (apart <= tolerance) if then.dtype.kind == "f" else (apart == 0)
    for name, then in beside[0].items():
        now = beside[1][name].astype(then.dtype, copy=False)
        equal &= _bits_equal(then, now)
        close &= _close(then, now)
    return Compared(equal, close, agree, differences)


def _bits_equal(then: Array, now: Array) -> Array:
    rows = len(then)
    return np.asarray((_bytes(then) == _bytes(now)).reshape(rows, -1).all(axis=1))


def _bytes(array: Array) -> Array:
    return np.ascontiguousarray(array).reshape(len(array), -1).view(np.uint8)


def _close(then: Array, now: Array) -> Array:
    if then.dtype.kind != "f":
        return _bits_equal(then, now)
    near = np.isclose(now, then, rtol=ROUNDING, atol=ROUNDING, equal_nan=True)
    return np.asarray(near.reshape(len(then), -1).all(axis=1))


def _difference(then: Array, now: Array) -> Array:
    """The largest of each row; NaN beside a number is infinitely far from it, and beside NaN not at all."""
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
    return np.asarray(apart.reshape(len(then), -1).max(axis=1))


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


@dataclass
class Totals:
    """What was found of the rows that one version has answered.

    Rows by kind: `greedy` (or acting as saved, without a draw), `seeded`, and `sampled` without a seed, which cannot
    be compared one by one. `equal`, `close`, `agree`: how many of the others, see `Compared`. `log_prob`: of the
    sampled actions now; `log_prob_apart`: its absolute difference from the recorded one.
    """

    greedy: int = 0
    seeded: int = 0
    sampled: int = 0
    equal: int = 0
    close: int = 0
    agree: int = 0
    differences: dict[str, Numbers] = field(default_factory=dict)
    divergence: Numbers = field(default_factory=Numbers)
    log_prob: Numbers = field(default_factory=Numbers)
    log_prob_apart: Numbers = field(default_factory=Numbers)

    @property
    def compared(self) -> int:
        """The rows that were compared one by one."""
        return self.greedy + self.seeded

    @property
    def rows(self) -> int:
        """All rows."""
        return self.compared + self.sampled

    @property
    def agreement(self) -> float:
        """The share of compared rows that agree; NaN where none were compared."""
        return self.agree / self.compared if self.compared else math.nan

    def add(self, found: Compared, seeded: int) -> None:
        """Adds compared rows, of which so many are seeded."""
        self.seeded += seeded
        self.greedy += len(found.equal) - seeded
        self.equal += int(found.equal.sum())
        self.close += int((found.equal | found.close).sum())
        self.agree += int(found.agree.sum())
        for name, apart in found.differences.items():
            self.differences.setdefault(name, Numbers()).add(apart)

    def include(self, other: Totals) -> None:
        """Adds those of another version."""
        for name in ("greedy", "seeded", "sampled", "equal", "close", "agree"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name, numbers in other.differences.items():
            self.differences.setdefault(name, Numbers()).include(numbers)
        for name in ("divergence", "log_prob", "log_prob_apart"):
            getattr(self, name).include(getattr(other, name))

    @property
    def largest(self) -> float:
        """The largest difference of any action; NaN where none were compared."""
        return max((numbers.largest for numbers in self.differences.values()), default=math.nan)
