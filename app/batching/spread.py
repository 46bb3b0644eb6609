"""A few of many rows of inputs, spread over the space that they cover. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.wire.tensors import Array, Arrays

# Numbers of one input that count: of an image, as many of its pixels, evenly spaced.
_MOST_NUMBERS = 64


def farthest_first(rows: Sequence[Arrays], count: int) -> list[int]:
    """Chooses rows that lie far from each other: the places of `count` of them, or of all.

    By the farthest-first traversal (Gonzalez, "Clustering to Minimize the Maximum Intercluster Distance", 1985): the
    last row, then each time the one that is farthest from those that were chosen. No row is then farther from its
    nearest chosen one than twice what any choice of so many could have it. Each input counts the same, whatever its
    size and unit; one that some row has not, or has in another shape, does not count.

    Args:
      rows: [1, …] arrays by flattened name.
      count: how many to choose.
    """
    if len(rows) <= count:
        return list(range(len(rows)))
    points = _points(rows)
    chosen = [len(rows) - 1]
    nearest = np.full(len(rows), np.inf)
    while len(chosen) < count:
        nearest = np.minimum(nearest, np.square(points - points[chosen[-1]]).sum(axis=1))
        nearest[chosen] = -1.0  # of equal rows, too, none is taken twice
        chosen.append(int(nearest.argmax()))
    return chosen


def _points(rows: Sequence[Arrays]) -> Array:
    """[rows, numbers] float64, in which distances are those of the inputs."""
    parts = [np.zeros((len(rows), 0))]
    for name, first in rows[0].items():
        if first.dtype.kind not in "biuf" or not all(name in row and row[name].shape == first.shape for row in rows):
            continue
        step = -(-first.size // _MOST_NUMBERS) or 1
        values = np.array([row[name].reshape(-1)[::step] for row in rows], np.float64)
        values = np.nan_to_num(values, posinf=0.0, neginf=0.0)
        scale = values.std(axis=0)
        values = (values - values.mean(axis=0)) / np.where(scale > 0, scale, 1.0)
        parts.append(values / np.sqrt(max(values.shape[1], 1)))
    return np.concatenate(parts, axis=1)
