"""How long the engine's calls take, as far as it is known. Pure: times are passed in."""

from __future__ import annotations

import math

# A call that other processes delayed says little of the next one: what is expected grows slowly, and falls at once.
_GROWTH = 0.1


class CallTimes:
    """The times of one engine's calls, by their function and number of rows.

    Calls are distinguished by the power of two above their rows.
    """

    __slots__ = ("_last_s", "_seconds")

    def __init__(self) -> None:
        self._seconds: dict[str, dict[int, float]] = {}
        self._last_s: float | None = None

    def take_last(self) -> float | None:
        """Returns the seconds that the call took that was noted last; None where it was taken already."""
        last_s, self._last_s = self._last_s, None
        return last_s

    def note(self, function: str, rows: int, seconds: float) -> None:
        """Records the seconds that a call took."""
        self._last_s = seconds
        known = self._seconds.setdefault(function, {})
        size = rows.bit_length()
        before = known.get(size, seconds)
        known[size] = min(seconds, before * (1 + _GROWTH))

    def expected_s(self, function: str, rows: int) -> float:
        """Returns the seconds that such a call will take: infinite where nothing is known.

        Where only other sizes are known: as long as a larger one, or in proportion to the largest.
        """
        known = self._seconds.get(function)
        if not known:
            return math.inf
        size = rows.bit_length()
        if size in known:
            return known[size]
        larger = [known[other] for other in known if other > size]
        if larger:
            return min(larger)
        largest = max(known)
        return known[largest] * 2.0 ** (size - largest)
