"""Rows → which episode each belongs to, by the number of its first row; kept for each environment that steps."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from app.experience.arrow import Rows
from app.inputs.defaults import FIRST, LAST
from app.wire.tensors import Array

NO_EPISODE = -1
# An environment takes some 250 bytes here. More of them than a server has sessions, unless they have thousands of rows.
_MOST_ENVIRONMENTS = 65_536

# A session, the start of it, and the environment's row in it.
Environment = tuple[str, str, int]


class _Place(NamedTuple):
    """The episode that an environment is in: its first row's number and step; and the environment's last step."""

    first: int
    first_step: int
    step: int


Places = dict[Environment, _Place]


class Episodes:
    """The environments, the one that stepped last at the end; where there are too many, those at the start go."""

    def __init__(self) -> None:
        self._places: Places = {}

    def assign(self, rows: Rows, number: int) -> tuple[Array, Array, Places]:
        """Returns for rows, the first of which gets this number, the columns EPISODE and EPISODE_STEP.

        And what to `keep` once the rows are written.
        """
        episodes, steps, changes = [], [], Places()
        names = ("session", "incarnation", "row", "step", "step_type", "next_step_type")
        columns = [np.asarray(rows[name]).tolist() for name in names]
        for session, incarnation, row, step, step_type, next_step_type in zip(*columns, strict=True):
            environment = (session, incarnation, row)
            before = changes.get(environment) or self._places.get(environment)
            first, first_step = NO_EPISODE, step
            if step_type == FIRST:
                first = number
            elif before is not None and before.step + 1 == step and step_type != LAST:
                first, first_step = before.first, before.first_step
            episodes.append(first)
            steps.append(step - first_step if first != NO_EPISODE else 0)
            changes[environment] = _Place(NO_EPISODE if next_step_type == LAST else first, first_step, step)
            number += 1
        return np.array(episodes, np.int64), np.array(steps, np.int64), changes

    def keep(self, changes: Mapping[Environment, _Place]) -> None:
        """Takes what `assign` returned."""
        for environment, place in changes.items():
            self._places.pop(environment, None)
            self._places[environment] = place
        while len(self._places) > _MOST_ENVIRONMENTS:
            del self._places[next(iter(self._places))]

    def recover(self, rows: Rows) -> None:
        """Takes rows that were written with their columns EPISODE and EPISODE_STEP."""
        names = ("session", "incarnation", "row", "step", "next_step_type", "episode", "episode_step")
        changes = Places()
        for *environment, step, next_type, first, at in zip(
            *(np.asarray(rows[name]).tolist() for name in names), strict=True
        ):
            changes[tuple(environment)] = _Place(NO_EPISODE if next_type == LAST else first, step - at, step)
        self.keep(changes)

    def steps(self) -> Iterator[tuple[str, str, int, int]]:
        """Yields the last step of each environment."""
        for environment, place in list(self._places.items()):
            yield (*environment, place.step)

    def to_json(self) -> bytes:
        """Returns what `restore` takes."""
        return json.dumps([[*environment, *place] for environment, place in self._places.items()]).encode()

    def restore(self, saved: bytes) -> None:
        """Takes what `to_json` returned.

        Raises:
          ValueError, TypeError: it is something else.
        """
        listed: list[Any] = json.loads(saved)
        self._places = {(session, start, row): _Place(*place) for session, start, row, *place in listed}
