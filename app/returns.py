"""The returns of the episodes of one arm: count, mean and variance, from sums that merge over workers and servers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

# The squares of many such numbers have a sum; no return is as large but of a simulator that has gone wrong.
_LARGEST = 1e140


@dataclass(frozen=True)
class Moments:
    """Of numbers that come one by one. `m2`: the sum of their squared distances from the mean."""

    count: int = 0
    mean: float = 0.0
    m2: float = 0.0

    @classmethod
    def of(cls, values: np.ndarray[Any, Any]) -> Moments:
        """Returns those of an array of finite numbers."""
        if not values.size:
            return cls()
        mean = float(np.mean(values, dtype=np.float64))
        return cls(values.size, mean, float(np.square(values - mean).sum(dtype=np.float64)))

    def joined(self, other: Moments) -> Moments:
        """Returns those of both.

        By Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances" (1979):
        sums of squares would cancel where the mean is large beside the deviations.
        """
        count = self.count + other.count
        if not self.count or not other.count:
            return other if other.count else self
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.count / count)
        return Moments(count, mean, self.m2 + other.m2 + apart * apart * (self.count * other.count / count))

    @property
    def variance(self) -> float:
        """The unbiased estimate; NaN with fewer than two numbers."""
        return self.m2 / (self.count - 1) if self.count > 1 else math.nan

    @property
    def stderr(self) -> float:
        """The standard error of the mean; NaN with fewer than two numbers."""
        return math.sqrt(self.variance / self.count) if self.count > 1 else math.nan


@dataclass(frozen=True)
class Returns:
    """The episodes of an arm that have ended: moments of their returns, and of their lengths in steps.

    An episode without rewards has a length alone, as has one whose return is no number that can be squared.
    """

    returns: Moments = Moments()
    lengths: Moments = Moments()

    @classmethod
    def of(cls, returns: np.ndarray[Any, Any], lengths: np.ndarray[Any, Any]) -> Returns:
        """Returns those of episodes that ended: [episodes] each; the return of one without rewards is NaN."""
        return cls(Moments.of(returns[np.abs(returns) <= _LARGEST]), Moments.of(lengths))

    def with_episode(self, gained: float | None, length: int) -> Returns:
        """Returns these and one more. `gained`: its return; None without rewards."""
        known = gained is not None and abs(gained) <= _LARGEST
        one = Moments(1, float(gained)) if known and gained is not None else Moments()
        return self.joined(Returns(one, Moments(1, float(length))))

    def joined(self, other: Returns) -> Returns:
        """Returns those of both."""
        return Returns(self.returns.joined(other.returns), self.lengths.joined(other.lengths))

    @property
    def episodes(self) -> int:
        """How many episodes have ended, with rewards or without."""
        return self.lengths.count

    @property
    def count(self) -> int:
        """How many of them have a return."""
        return self.returns.count

    @property
    def mean(self) -> float:
        """The mean return; NaN where there is none."""
        return self.returns.mean if self.returns.count else math.nan

    @property
    def stderr(self) -> float:
        """The standard error of the mean return; NaN with fewer than two."""
        return self.returns.stderr

    @property
    def mean_length(self) -> float:
        """The mean length in steps; NaN where none has ended."""
        return self.lengths.mean if self.lengths.count else math.nan
