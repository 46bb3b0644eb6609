"""The answers of all workers in the last seconds → answers a second, and the times that most of them took."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from app.local_histogram import AnswerCounts, quantile

# Long enough for a steady p99 of some hundred answers a second, short enough to see what a swap does.
WINDOW_S = 3.0


class Rates:
    """A window over what was counted. `bounds`: of the buckets of the counts, in seconds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counted: deque[tuple[float, dict[str, AnswerCounts]]] = deque()
        self._total: dict[str, AnswerCounts] = {}
        self._began = -math.inf

    def begin(self, now: float) -> None:
        """Forgets what was counted: what is added from now on was answered after `now`."""
        self._counted.clear()
        self._total.clear()
        self._began = now

    def add(self, now: float, counts: Iterable[Mapping[str, AnswerCounts]]) -> None:
        """Adds what was answered up to `now` (seconds of any steady clock): of each worker, by policy."""
        together: dict[str, AnswerCounts] = {}
        for one in counts:
            for policy, counted in one.items():
                together.setdefault(policy, AnswerCounts()).add(counted)
                self._total.setdefault(policy, AnswerCounts()).add(counted)
        self._counted.append((now, together))
        while now - self._counted[0][0] >= WINDOW_S:
            self._began, oldest = self._counted.popleft()
            for policy, counted in oldest.items():
                self._total[policy].subtract(counted)
                if not self._total[policy].answers:
                    del self._total[policy]

    def by_policy(self) -> dict[str, dict[str, float]]:
        """Returns the rates of the policies that have answered within the window, to three digits."""
        if not self._total:
            return {}
        seconds = self._counted[-1][0] - self._began
        return {policy: self._rates(counted, seconds) for policy, counted in self._total.items()}

    def _rates(self, counted: AnswerCounts, seconds: float) -> dict[str, float]:
        rates = {"answers_per_s": counted.answers / seconds}
        if counted.errors:
            rates["errors_per_s"] = counted.errors / seconds
        if counted.seconds:
            rates["p50_ms"] = 1000 * quantile(self._bounds, counted.seconds, 0.5)
            rates["p99_ms"] = 1000 * quantile(self._bounds, counted.seconds, 0.99)
        return {name: float(f"{value:.3g}") for name, value in rates.items()}
