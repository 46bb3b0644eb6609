"""Histograms in plain numbers, and what can be said of their counts."""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections.abc import Mapping, Sequence

from prometheus_client import Histogram


class LocalHistogram:
    """A histogram in plain numbers. `bounds` are those of the histogram that it is flushed into.

    `finer`: bounds between them, for a count with more buckets.
    """

    __slots__ = ("_buckets", "_counts", "_empty", "_sum", "bounds")

    def __init__(self, bounds: Sequence[float], finer: Sequence[float] = ()) -> None:
        self.bounds, self._buckets, self._empty = _shared(tuple(bounds), tuple(finer))
        self._counts = [*self._empty]
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Counts one value."""
        self._counts[bisect_left(self.bounds, value)] += 1
        self._sum += value

    def flush_into(self, histogram: Histogram) -> dict[int, int]:
        """Adds what was counted to a histogram, and starts again from zero; returns the counts by the fine bucket."""
        counts, total = self._counts, self._sum
        if counts == self._empty:
            return {}
        self._counts, self._sum = [*self._empty], 0.0
        counted = {fine: count for fine, count in enumerate(counts) if count}
        # The library has no call for counts that were made elsewhere.
        for fine, count in counted.items():
            histogram._buckets[self._buckets[fine]].inc(count)
        histogram._sum.inc(total)
        return counted


@functools.cache
def _shared(bounds: tuple[float, ...], finer: tuple[float, ...]) -> tuple[tuple[float, ...], list[int], list[int]]:
    """What is the same for all histograms with these bounds: theirs, the bucket of each, and counts of nothing."""
    all_bounds = tuple(sorted({*bounds, *finer}))
    buckets = [bisect_left(bounds, bound) for bound in (*all_bounds, float("inf"))]
    return all_bounds, buckets, [0] * len(buckets)


def quantile(bounds: Sequence[float], counts: Mapping[int, int], share: float) -> float:
    """Returns the value below which a share of what was counted lies, between the bounds of its bucket.

    `counts`: by bucket, not empty. What lies above the last bound counts as that bound.
    """
    wanted = share * sum(counts.values())
    below = 0
    for bucket in sorted(counts):
        count = counts[bucket]
        if below + count >= wanted:
            break
        below += count
    upper = bounds[min(bucket, len(bounds) - 1)]
    lower = bounds[bucket - 1] if bucket else 0.0
    return lower + (upper - lower) * max(0.0, wanted - below) / count


class AnswerCounts:
    """Counts of answers: how many, how many of them refused or failed, and how long they took by bucket."""

    __slots__ = ("answers", "errors", "seconds")

    def __init__(self) -> None:
        self.answers = self.errors = 0
        self.seconds: dict[int, int] = {}

    def add(self, other: AnswerCounts) -> None:
        """Adds others."""
        self.answers += other.answers
        self.errors += other.errors
        self._add_seconds(other.seconds)

    def subtract(self, other: AnswerCounts) -> None:
        """Takes away what was added before."""
        self.answers -= other.answers
        self.errors -= other.errors
        seconds = self.seconds
        for bucket, count in other.seconds.items():
            seconds[bucket] -= count

    def count(self, statuses: Mapping[int, int], seconds: Mapping[int, int]) -> None:
        """Adds answers by their HTTP status, and by the bucket of their time."""
        self.answers += sum(statuses.values())
        self.errors += sum(count for status, count in statuses.items() if status >= 400)
        self._add_seconds(seconds)

    def _add_seconds(self, more: Mapping[int, int]) -> None:
        seconds = self.seconds
        for bucket, count in more.items():
            seconds[bucket] = seconds.get(bucket, 0) + count
