"""The bounds of a leaf of a policy's spec, and those of its dtype."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from app.inputs.defaults import FIRST, LAST
from saver.artifact import Leaf


def bounds_of(leaf: Leaf, step_type: bool) -> tuple[Any, Any]:
    """Returns the least and the most of a leaf, None where it has no bound.

    `step_type`: the leaf is the step type of a time step.
    """
    return (FIRST, LAST) if step_type else (leaf.minimum, leaf.maximum)


def limits_of(leaf: Leaf, low: Any, high: Any) -> tuple[Any, Any]:
    """Returns the least and the most that both the bounds and the dtype allow, as Python's numbers."""
    ends, kind = (np.iinfo(leaf.dtype), int) if leaf.is_integer else (np.finfo(leaf.storage), float)
    least, most = (ends.min if low is None else low), (ends.max if high is None else high)
    return kind(max(least, ends.min)), kind(min(most, ends.max))


def pairs_of(leaf: Leaf, low: Any, high: Any) -> Iterable[tuple[Any, Any]]:
    """Returns the bounds of each number of a vector."""
    count = (leaf.shape[0] or 0,)
    return zip(*(np.broadcast_to(np.array(bound, object), count) for bound in (low, high)), strict=True)


def ends_of(leaf: Leaf, step_type: bool) -> tuple[Any, Any]:
    """Returns what `limits_of` does: two numbers, or two arrays of the numbers of a vector."""
    low, high = bounds_of(leaf, step_type)
    if not isinstance(low, list) and not isinstance(high, list):
        return limits_of(leaf, low, high)
    limits = [limits_of(leaf, one, other) for one, other in pairs_of(leaf, low, high)]
    least, most = map(np.array, zip(*limits, strict=True))
    return least, most


def lie_between(low: Any, high: Any, array: np.ndarray[Any, Any], shape: tuple[int, ...]) -> bool:
    """Returns whether all numbers lie between two numbers, or in this shape between two arrays; NaN lies nowhere."""
    if isinstance(low, np.ndarray):
        array = array.reshape(shape)
        return bool((array >= low).all() and (array <= high).all())
    # Two times faster than the minimum itself.
    return bool(low <= array[array.argmin()] and array[array.argmax()] <= high)
