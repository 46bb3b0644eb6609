"""Steps as they are read → pairs of a step and the next one of its session. Pure.

Each pair comes out once, whatever is read twice. Workers write the steps of one session in journals of their own, so
that a step may be read before the one that it follows: then it is early, and is not to be taken before that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from app.experience.event import COPY, Who
from app.experience.steps import NO_STEP, STEPS
from app.wire.tensors import Array

# A flag of a step that is early, where the one before it will not come.
_GIVEN_UP = 2
_LEAST_SESSIONS = 1024
# NumPy moves rows of a table, field by field, more slowly than their bytes; `take` moves bytes, too.
_BYTES = np.dtype(f"V{STEPS.itemsize}")


class Found(NamedTuple):
    """What there is in steps: pairs, in the order in which they came; `early`: [steps], which of them are.

    `newest`: the last steps of their sessions.
    """

    first: Array
    next: Array
    early: Array
    newest: Array


class Pairing:
    """The last step of each session. `lost`: how many steps followed one that was not recorded."""

    def __init__(self) -> None:
        self._last = np.empty(0, STEPS)
        self.lost = 0

    def find(self, steps: Array) -> Found:
        """Returns what steps, [n] in the order in which they were read, make with those before; takes nothing yet."""
        self._have_room(steps)
        fresh = np.flatnonzero(steps["step"] > self._last["step"][steps["session"]])
        table = steps.take(fresh)
        order = np.lexsort((table["step"], table["session"]))
        table, places = table.take(order), fresh[order]
        before = self._before(table)
        repeated = before["step"] == table["step"]
        if repeated.any():
            kept = np.flatnonzero(~repeated)
            table, places = table.take(kept), places[kept]
            before = self._before(table)
        follows = (table["step"] == before["step"] + 1) & (before["step"] != NO_STEP)
        is_copy = (table["flags"] & COPY) != 0  # what was copied from another machine ends a row there
        early = np.zeros(len(steps), bool)
        early[places[~follows & (table["step"] > 0) & (table["flags"] == 0)]] = True
        # A session has the same rows in all steps; who can write to Redis may have changed that.
        paired = np.flatnonzero(follows & ~is_copy & (table["rows"] == before["rows"]))
        starts = _starts(table)
        paired = paired[np.argsort(_read_at(places, starts)[paired], kind="stable")]
        ends = np.flatnonzero(np.append(starts[1:], True)) if len(table) else paired
        return Found(before.take(paired), table.take(paired), early, table.take(ends))

    def take(self, found: Found, steps: Array) -> None:
        """Has these be the last steps of their sessions. `steps`: of which that was found."""
        self.move(found.newest)
        self.lost += int(np.count_nonzero(steps["flags"] & _GIVEN_UP))

    def give_up(self, steps: Array, which: Array) -> None:
        """Marks early steps, those [steps] of `which`, as to be taken: the ones before them will not come."""
        steps["flags"][which] |= _GIVEN_UP

    def is_waiting(self, sources: Sequence[int]) -> bool:
        """Returns whether last steps lie in these sources."""
        return bool((np.isin(self._last["source"], sources) & (self._last["step"] != NO_STEP)).any())

    def waiting(self, sources: Sequence[int], sessions: Sequence[Who | None]) -> Array:
        """Returns the last steps that lie in these sources and may yet be followed, the oldest first; forgets others.

        `sessions`: by number. Of the starts of a session, the newest alone is stepped.
        """
        taken = np.flatnonzero(self._last["step"] != NO_STEP)
        newest: dict[str, tuple[int, int]] = {}
        for number, time_ns in zip(taken.tolist(), self._last["time_ns"][taken].tolist(), strict=True):
            who = sessions[number]
            if who is not None and (time_ns, number) > newest.get(who.session, (0, 0)):
                newest[who.session] = time_ns, number
        there = taken[np.isin(self._last["source"][taken], sources)]
        kept = np.isin(there, [number for _, number in newest.values()])
        self.forget(there[~kept])
        waiting = self._last.take(there[kept])
        return waiting.take(np.argsort(waiting["time_ns"], kind="stable"))

    def move(self, steps: Array) -> None:
        """Has the last steps of sessions lie somewhere else."""
        self._have_room(steps)
        self._last.view(_BYTES)[steps["session"]] = steps.view(_BYTES)

    def forget(self, sessions: Array) -> None:
        """Forgets the last steps of sessions."""
        self._last["step"][sessions] = NO_STEP

    def _before(self, table: Array) -> Array:
        """Returns what comes before each step of a table, which is in the order of sessions and their steps."""
        before = np.empty_like(table)
        before[1:] = table[:-1]
        starts = np.flatnonzero(_starts(table))
        before.view(_BYTES)[starts] = self._last.take(table["session"][starts]).view(_BYTES)
        return before

    def _have_room(self, steps: Array) -> None:
        size = int(steps["session"].max(initial=_LEAST_SESSIONS)) + 1
        if size > len(self._last):
            more = np.zeros(2 * size - len(self._last), STEPS)
            more["step"] = NO_STEP
            self._last = np.concatenate((self._last, more))


def _starts(table: Array) -> Array:
    """Returns which steps of a table are the first ones of their sessions in it: [n] booleans."""
    starts = np.ones(len(table), bool)
    np.not_equal(table["session"][1:], table["session"][:-1], out=starts[1:])
    return starts


def _read_at(places: Array, starts: Array) -> Array:
    """Returns when each step can be a row: it was read at its place, and no sooner than those of its session before."""
    rounds = np.cumsum(starts) * (1 + places.max(initial=0))
    return np.asarray(np.maximum.accumulate(places + rounds) - rounds)
