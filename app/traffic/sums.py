"""The return and the length of the episodes that a session is in, as its steps come. Pure."""

from __future__ import annotations

import numpy as np

from app.inputs.defaults import FIRST, LAST
from app.wire.tensors import Array

# Columns of what is added up; NaN: no reward has come, and an episode that does not count.
RETURN, LENGTH = 0, 1


def followed(before: Array | None, ended: Array | None, types: Array, reward: Array | None) -> Array:
    """Adds a step to what is known of each row's episode.

    An episode counts when its first step was seen; what follows its last one does not, until the next first step. Of
    several rewards a step there is no one return.

    Args:
      before: [rows, 2] returns and lengths up to the step before; None where nothing is known.
      ended: [rows] booleans, where the step before was the last one; None where it was nowhere.
      types: [rows] step types.
      reward: [rows, …] that the step has brought; None where it has brought none, which counts as 0.

    Returns:
      [rows, 2] float64.
    """
    sums = np.full((len(types), 2), np.nan) if before is None else np.array(before, np.float64)
    if ended is not None:
        sums[ended] = np.nan
    first = types == FIRST
    sums[:, LENGTH] += 1
    if reward is not None and reward.shape == types.shape:
        gained = np.where(np.isnan(sums[:, RETURN]), 0.0, sums[:, RETURN]) + reward
        sums[:, RETURN] = np.where(np.isnan(sums[:, LENGTH]), np.nan, gained)
    sums[first] = np.nan, 0
    return sums


def finished(sums: Array, types: Array) -> Array:
    """Returns the episodes that count and end with this step: [episodes, 2] returns and lengths.

    Args:
      sums: [rows, 2], see `followed`.
      types: [rows] step types.
    """
    over: Array = sums[(types == LAST) & ~np.isnan(sums[:, LENGTH])]
    return over
