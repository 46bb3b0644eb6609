"""Arrays that have the spec's own dtypes already → inputs, checked in a few calls; or None, where that does not work.

What does not fit is not refused here: `InputValidator`, which takes longer, finds out what is wrong, or that nothing
is. What both take, they read alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from app.inputs.bounds import bounds_of, limits_of
from app.inputs.defaults import default_leaves
from app.inputs.names import top_level
from app.inputs.validate import Inputs
from app.wire.tensors import Array
from saver.artifact import Leaf, PolicySpec, leaves

_FEW = 32
# The limits of a leaf's numbers, themselves included; None where there are none, as for booleans.
_Limits = tuple[Any, Any] | None


class ArrayReader:
    """Reads batches of arrays as the inputs of `action` and `distribution` for one policy."""

    def __init__(self, spec: PolicySpec, rows_limit: int) -> None:
        self._rows_limit = rows_limit
        defaults = default_leaves(spec)
        own = [leaf for _, leaf in leaves(spec.inputs)]
        state = {leaf.name for _, leaf in leaves(top_level(spec).get("policy_state", ()))} if defaults else set()
        self._state = frozenset(state)
        self._required = frozenset(leaf.name for leaf in own if leaf.name not in defaults and leaf.name not in state)
        self._storage = {leaf.name: leaf.storage for leaf in own if leaf.storage.kind in "biuf"}
        self._limits = {
            leaf.name: _limits(leaf, defaults.get(leaf.name, ("",))[0] == "step_type")
            for leaf in own
            if leaf.name in self._storage
        }

    def read(self, arrays: Mapping[str, Array], rows: int) -> Inputs | None:
        """Returns the inputs; None where `InputValidator` has to try.

        Args:
          arrays: by flattened name, [rows, …] of the leaves' own shapes, which the caller has seen to.
          rows: how many each of them has.
        """
        if not 0 < rows <= self._rows_limit or not self._required <= arrays.keys():
            return None
        for name, array in arrays.items():
            if self._storage.get(name) != array.dtype or not _lie_within(self._limits[name], array):
                return None
        state = self._state
        if not state:
            return Inputs(dict(arrays), rows, True, False, 0)
        if state.isdisjoint(arrays):
            return Inputs(dict(arrays), rows, True, True, 0)
        return Inputs(dict(arrays), rows, True, False, 0) if state <= arrays.keys() else None


def _limits(leaf: Leaf, step_type: bool) -> _Limits:
    low, high = bounds_of(leaf, step_type)
    if leaf.dtype == "bool":
        return None
    if isinstance(low, list) or isinstance(high, list):
        least, most = limits_of(leaf, None, None)
        return (least if low is None else np.array(low)), (most if high is None else np.array(high))
    return limits_of(leaf, low, high)


def _lie_within(limits: _Limits, array: Array) -> bool:
    """Returns whether all numbers are inside; NaN is not, and infinities are outside of every float's limits."""
    if limits is None or not array.size:
        return limits is None
    low, high = limits
    if isinstance(low, np.ndarray) or isinstance(high, np.ndarray):
        return bool((array >= low).all() and (array <= high).all())
    flat = array.reshape(-1)
    if array.size <= _FEW:  # Python's numbers take less time than the calls
        numbers = flat.tolist()
        return math.isfinite(sum(numbers)) and low <= min(numbers) and max(numbers) <= high
    # Two times faster than the minimum itself.
    return bool(low <= flat[flat.argmin()] and flat[flat.argmax()] <= high)
