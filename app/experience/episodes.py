"""Rows → which episode each belongs to, by the number of its first row; kept for each environment that steps."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from app.experience.arrow import Rows
from app.experience.texts import Texts
from app.inputs.defaults import FIRST, LAST
from app.wire.tensors import Array

NO_EPISODE = -1
# An environment takes some 250 bytes here. More of them than a server has sessions, unless they have thousands of rows.
_MOST_ENVIRONMENTS = 65_536

# A session, the start of it, and the environment's row in it.
Environment = tuple[str, str, int]


# The episode that an environment is in: its first row's number and step; and the environment's last step.
_Place = tuple[int, int, int]
Places = dict[Environment, _Place]
_UNKNOWN: _Place = (NO_EPISODE, 0, -2)


class Episodes:
    """The environments, the one that stepped last at the end; where there are too many, those at the start go."""

    def __init__(self) -> None:
        self._places: Places = {}

    def assign(self, rows: Rows, number: int) -> tuple[Array, Array, Places]:
        """Returns for rows, the first of which gets this number, the columns EPISODE and EPISODE_STEP.

        And what to `keep` once the rows are written. Rows of an environment come in the order of its steps.
        """
        environments, numbers = _environments(rows)
        if not environments:
            return np.empty(0, np.int64), np.empty(0, np.int64), {}
        order = np.argsort(numbers, kind="stable")
        step, kind, following = (np.asarray(rows[name])[order] for name in ("step", "step_type", "next_step_type"))
        starts = np.flatnonzero(np.diff(numbers[order], prepend=-1))
        known = np.array([self._places.get(each, _UNKNOWN) for each in environments], np.int64)
        # Where a row does not just go on with the episode of the one before it: the episode, and its first step.
        first, first_step = np.full(len(order), NO_EPISODE), step.copy()
        is_other = np.ones(len(order), bool)
        is_other[1:] = (step[1:] != step[:-1] + 1) | (following[:-1] == LAST) | (kind[1:] == LAST)
        goes_on = (known[:, 2] + 1 == step[starts]) & (kind[starts] != LAST)
        is_other[starts] = True
        first[starts[goes_on]], first_step[starts[goes_on]] = known[goes_on, 0], known[goes_on, 1]
        is_other |= kind == FIRST
        first[kind == FIRST], first_step[kind == FIRST] = order[kind == FIRST] + number, step[kind == FIRST]
        latest = np.maximum.accumulate(np.where(is_other, np.arange(len(order)), 0))
        first, first_step = first[latest], first_step[latest]
        ends = np.append(starts[1:], len(order)) - 1
        left = np.where(following[ends] == LAST, NO_EPISODE, first[ends])
        places = zip(left.tolist(), first_step[ends].tolist(), step[ends].tolist(), strict=True)
        episodes, steps = np.empty(len(order), np.int64), np.empty(len(order), np.int64)
        episodes[order], steps[order] = first, np.where(first == NO_EPISODE, 0, step - first_step)
        return episodes, steps, dict(zip(environments, places, strict=True))

    def keep(self, changes: Mapping[Environment, _Place]) -> None:
        """Takes what `assign` returned."""
        for environment in changes:
            self._places.pop(environment, None)
        self._places.update(changes)
        while len(self._places) > _MOST_ENVIRONMENTS:
            del self._places[next(iter(self._places))]

    def recover(self, rows: Rows) -> None:
        """Takes rows that were written with their columns EPISODE and EPISODE_STEP."""
        names = ("session", "incarnation", "row", "step", "next_step_type", "episode", "episode_step")
        changes: Places = {}
        for *environment, step, next_type, first, at in zip(
            *(np.asarray(rows[name]).tolist() for name in names), strict=True
        ):
            changes[tuple(environment)] = (NO_EPISODE if next_type == LAST else first, step - at, step)
        self.keep(changes)

    def steps(self) -> Iterator[tuple[str, str, int, int]]:
        """Yields the last step of each environment."""
        for environment, place in list(self._places.items()):
            yield (*environment, place[2])

    def to_json(self) -> bytes:
        """Returns what `restore` takes."""
        return json.dumps([[*environment, *place] for environment, place in self._places.items()]).encode()

    def restore(self, saved: bytes) -> None:
        """Takes what `to_json` returned.

        Raises:
          ValueError, TypeError: it is something else.
        """
        listed: list[Any] = json.loads(saved)
        self._places = {
            (session, start, row): (first, first_step, step) for session, start, row, first, first_step, step in listed
        }


def _environments(rows: Rows) -> tuple[list[Environment], Array]:
    """Returns the environments of rows, and for each row which of them it is: [rows]."""
    session, incarnation, row = rows["session"], rows["incarnation"], np.asarray(rows["row"])
    if isinstance(session, Texts) and isinstance(incarnation, Texts) and session.numbers is incarnation.numbers:
        width = int(row.max(initial=0)) + 1
        found, numbers = np.unique(session.numbers * width + row, return_inverse=True)
        which, rows_of_them = (each.tolist() for each in np.divmod(found, width))
        names, starts = session.texts, incarnation.texts
        return [(names[each], starts[each], row) for each, row in zip(which, rows_of_them, strict=True)], numbers
    known: dict[Environment, int] = {}
    columns = (values.tolist() if isinstance(values, Texts) else values for values in (session, incarnation))
    each_row = [known.setdefault(each, len(known)) for each in zip(*columns, row.tolist(), strict=True)]
    return list(known), np.array(each_row, np.int64)
