"""Rows of many environments, as they were recorded → windows of consecutive rows of one environment each."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from policy_client.fields import LAST
from policy_client.wire import Array

# Environments whose newest rows are kept, for what comes next. Where there are so many, those that come then are left
# out: if those went that stepped least lately, each of many that step in turn would go just before its next step.
_MOST_ENVIRONMENTS = 65_536
# One that has not stepped while others did so often is gone.
_GONE_STEPS = 2 * _MOST_ENVIRONMENTS
# Beside the columns of a row that is kept.
_BEGAN = "began"
Columns = Mapping[str, Any]
# A session, which start of it, and which of its rows.
Environment = tuple[str, str, int]


class Windows:
    """Cuts rows into windows.

    Args:
      size: rows of a window, 1 or more.
      names: the columns to cut; the others are left out.
      shift: rows between the beginnings of two windows; the first one begins with the first row, and with the first
        behind one that is missing.

    Raises:
      ValueError: `size` or `shift` is below 1.
    """

    def __init__(self, size: int, names: Sequence[str], shift: int = 1) -> None:
        for name, number in (("num_steps", size), ("shift", shift)):
            if number < 1:
                raise ValueError(f"{name} is {number}, expected 1 or more")
        self._size = size
        self._shift = shift
        self._names = list(names)
        # When each was seen, as a count, and its newest rows; the one that was seen last is the last one.
        self._kept: OrderedDict[Environment, tuple[int, dict[str, Array]]] = OrderedDict()
        self._seen = 0
        self._has_warned = False

    def add(self, columns: Columns) -> dict[str, Array] | None:
        """Takes rows, and returns the windows that they complete, [windows, size, …]; None where there are none.

        A window has rows of consecutive steps only: none spans a row that was never recorded.
        """
        pieces = [piece for each in by_environment(columns) if (piece := self._of_one(*each, columns)) is not None]
        if not pieces:
            return None
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in self._names}

    def _of_one(self, environment: Environment, places: Array, columns: Columns) -> dict[str, Array] | None:
        fresh = {name: np.asarray(columns[name])[places] for name in (*self._names, "step")}
        _, kept = self._kept.pop(environment, (0, None))
        fresh[_BEGAN] = _began(fresh["step"], kept)
        rows = fresh if kept is None else {name: np.concatenate([kept[name], array]) for name, array in fresh.items()}
        count, size = len(rows["step"]), self._size
        if (needed := max(size - 1, int(self._shift > 1))) > 0:
            self._keep(environment, {name: array[max(0, count - needed) :] for name, array in rows.items()})
        if count < size:
            return None
        first, began = rows["step"][: count - size + 1], rows[_BEGAN][: count - size + 1]
        is_whole = rows["step"][size - 1 :] - first == size - 1
        starts = np.flatnonzero(is_whole & ((first - began) % self._shift == 0))
        starts = starts[starts + size > count - len(places)]  # those that end in rows that are new
        if not len(starts):
            return None
        chosen = starts[:, None] + np.arange(size)
        return {name: rows[name][chosen] for name in self._names}

    def _keep(self, environment: Environment, rows: dict[str, Array]) -> None:
        self._seen += 1
        while self._kept and next(iter(self._kept.values()))[0] < self._seen - _GONE_STEPS:
            self._kept.popitem(last=False)
        if len(self._kept) < _MOST_ENVIRONMENTS:
            self._kept[environment] = self._seen, rows
        elif not self._has_warned:
            self._has_warned = True
            text = f"windows of more than {_MOST_ENVIRONMENTS} environments at once: those of the others are left out"
            warnings.warn(text, stacklevel=4)


def _began(step: Array, kept: Mapping[str, Array] | None) -> Array:
    """Returns for each row the step with which its run of consecutive steps began."""
    before, began = (-2, -2) if kept is None else (kept["step"][-1], kept[_BEGAN][-1])
    starts = np.diff(step, prepend=before) != 1
    latest = np.maximum.accumulate(np.where(starts, np.arange(len(step)), -1))
    return np.where(latest < 0, began, step[latest])


def by_environment(columns: Columns) -> Iterator[tuple[Environment, Array]]:
    """Yields each environment, and the places of its rows, in their order."""
    sessions, starts = columns["session"], columns["incarnation"]
    numbers: dict[tuple[str, str], int] = {}
    codes = np.array([numbers.setdefault(key, len(numbers)) for key in zip(sessions, starts)], np.int64)
    rows = np.asarray(columns["row"], np.int64)
    order = np.lexsort((np.arange(len(rows)), rows, codes))
    changes = np.flatnonzero((np.diff(codes[order]) != 0) | (np.diff(rows[order]) != 0)) + 1
    names = list(numbers)
    for places in np.split(order, changes):
        if len(places):
            session, start = names[codes[places[0]]]
            yield (session, start, int(rows[places[0]])), places


def episodes_in(columns: Columns, names: Sequence[str]) -> Iterator[dict[str, Array]]:
    """Yields each episode of a batch of whole ones, [steps, …]: one environment's rows up to one that ends it."""
    for _, places in by_environment(columns):
        ends = np.flatnonzero(np.asarray(columns["next_step_type"])[places] == LAST) + 1
        for part in np.split(places, ends):
            if len(part):
                yield {name: np.asarray(columns[name])[part] for name in names}
