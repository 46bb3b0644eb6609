"""The largest number for which something holds, found with few tries. Pure."""

from __future__ import annotations

from collections.abc import Callable

_WIDER = 1.5


def largest(holds: Callable[[int], bool], first: int, most: int, exact: float) -> int:
    """Returns the largest number up to `most` that holds, as far as it was tried; 0 where 1 does not.

    From `first` on by half as much again until one does not hold (or down until one does), then by bisection until
    what is left between two tries is at most the share `exact` of the lower one.
    """
    low, high = 0, most + 1
    number = min(first, most)
    while low < number < high:
        if holds(number):
            low = number
        else:
            high = number
        if high > most and low < most:
            number = min(most, int(low * _WIDER) + 1)
        elif low == 0:
            number = int(high / _WIDER)
        else:
            number = low + (high - low) // 2 if high - low > max(1, exact * low) else low
    return low
