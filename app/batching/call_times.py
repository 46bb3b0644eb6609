"""How long the engine's calls take, as far as it is known. Pure: times are passed in."""

from __future__ import annotations

import math

# A call that other processes delayed says little of the next one: what is expected grows slowly, and falls at once.
_GROWTH = 0.1


class CallTimes:
    """The times of one engine's calls of one function, by the power of two above their rows."""

    __slots__ = ("_seconds",)

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def note(self, rows: int, seconds: float) -> None:
        """Records the seconds that a call took."""
        size = rows.bit_length()
        before = self._seconds.get(size, seconds)
        self._seconds[size] = min(seconds, before * (1 + _GROWTH))

    def expected_s(self, rows: int) -> float:
        """Returns the seconds that such a call will take: infinite where nothing is known.

        Where only other sizes are known: as long as a larger one, or in proportion to the largest.
        """
        known, size = self._seconds, rows.bit_length()
        if size in known:
            return known[size]
        if not known:
            return math.inf
        larger = [known[other] for other in known if other > size]
        if larger:
            return min(larger)
        largest = max(known)
        return known[largest] * 2.0 ** (size - largest)
