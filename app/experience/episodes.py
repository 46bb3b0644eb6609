"""Rows → which episode each belongs to, by the number of its first row; kept for each environment that steps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np

from app.experience.arrow import EPISODE, EPISODE_STEP, Rows
from app.experience.environments import NO_EPISODE, STEP_AT, Environments
from app.inputs.defaults import FIRST, LAST
from app.wire.tensors import Array

# What `Episodes.recover` reads of rows.
RECOVERED = ("session", "incarnation", "row", "step", "next_step_type", EPISODE, EPISODE_STEP)
# Numbers of environments, and their places.
Changes: TypeAlias = "tuple[Array, Array]"


class Episodes:
    """The environments; of too many, those that came last have no whole episodes."""

    def __init__(self) -> None:
        self._environments = Environments()

    def assign(self, rows: Rows, number: int) -> tuple[Array, Array, Changes]:
        """Returns for rows, the first of which gets this number, the columns EPISODE and EPISODE_STEP.

        And what to `keep` once the rows are written. Rows of an environment come in the order of its steps.
        """
        environments = self._environments.numbers_of(rows)
        order = np.argsort(environments, kind="stable")
        step, kind, following = (np.asarray(rows[name])[order] for name in ("step", "step_type", "next_step_type"))
        starts = np.flatnonzero(np.diff(environments[order], prepend=-1))
        known = self._environments.places(environments[order[starts]])
        # Where a row does not just go on with the episode of the one before it: the episode, and its first step.
        first, first_step = np.full(len(order), NO_EPISODE), step.copy()
        goes_on = np.zeros(len(order), bool)
        goes_on[1:] = (step[1:] == step[:-1] + 1) & (following[:-1] != LAST) & (kind[1:] != LAST)
        goes_on[starts] = False
        continued = np.flatnonzero((known[:, STEP_AT] + 1 == step[starts]) & (kind[starts] != LAST))
        first[starts[continued]], first_step[starts[continued]] = known[continued, :STEP_AT].T
        begins = np.flatnonzero(kind == FIRST)
        goes_on[begins] = False
        first[begins], first_step[begins] = order[begins] + number, step[begins]
        latest = np.maximum.accumulate(np.where(goes_on, 0, np.arange(len(order))))
        first, first_step = first[latest], first_step[latest]
        episodes, steps = np.empty(len(order), np.int64), np.empty(len(order), np.int64)
        episodes[order], steps[order] = first, np.where(first == NO_EPISODE, 0, step - first_step)
        ends = np.append(starts[1:], len(order))[: len(starts)] - 1
        left = np.where(following[ends] == LAST, NO_EPISODE, first[ends])
        places = np.stack((left, first_step[ends], step[ends]), axis=1)
        return episodes, steps, (environments[order[ends]], places)

    def keep(self, changes: Changes) -> None:
        """Takes what `assign` returned."""
        self._environments.keep(*changes)

    def recover(self, rows: Rows) -> None:
        """Takes rows that were written with their columns EPISODE and EPISODE_STEP."""
        following, episode, step = (np.asarray(rows[name]) for name in ("next_step_type", "episode", "step"))
        first_step = step - np.asarray(rows["episode_step"])
        places = np.stack((np.where(following == LAST, NO_EPISODE, episode), first_step, step), axis=1)
        self._environments.keep(self._environments.numbers_of(rows), places.astype(np.int64))

    def steps(self) -> Iterator[tuple[str, str, int, int]]:
        """Yields the last step of each environment."""
        for environment, place in self._environments:
            yield (*environment, place[STEP_AT])

    def to_json(self) -> bytes:
        """Returns what `restore` takes."""
        return json.dumps([[*environment, *place] for environment, place in self._environments]).encode()

    def restore(self, saved: bytes) -> None:
        """Takes what `to_json` returned.

        Raises:
          ValueError, TypeError: it is something else.
        """
        listed: list[Any] = json.loads(saved)
        for session, start, row, *place in listed:
            self._environments.named((session, start, row), place)
