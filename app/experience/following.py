"""The journals of a policy → rows, appended to its row log; journals that are over are removed.

What is on disk at any moment says all: with the rows of a round, the row log notes how far each journal was read. A
step before that place is the end of a row that is durable; the last one of each session still lies in its journal, or
in `pairing` where that was removed. So after a kill these are read again without making rows, and the rest as ever.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from app.experience.journal import FOLDER
from app.experience.journals import Journals, Read, of_sources
from app.experience.layout import Layout
from app.experience.pairing import Found, Pairing
from app.experience.records import Records, Unreadable
from app.experience.sources import Sources
from app.experience.trajectories import rows_of
from app.wire.tensors import Array
from saver.artifact import PolicySpec

log = logging.getLogger("policy_server.experience")

# Of last steps whose journals are gone; those that are oldest go first. While more than a little would be, and there is
# room, their journals stay: what is carried is written again with each journal that goes.
_MOST_CARRIED_BYTES, _FEW_CARRIED_BYTES = 16 * 2**20, 2**20
_MOST_KEPT_BYTES = 128 * 2**20
# The names beside a step, roughly.
_NAMES_BYTES = 160


class Rows(Protocol):
    """Takes the rows of a policy: see `RowLog`."""

    consumed: dict[str, int]
    pairing: bytes

    def append(self, rows: Mapping[str, Any], consumed: dict[str, int], pairing: bytes | None = None) -> None:
        """Makes rows durable, together with what they were made of; raises OSError, and nothing has changed."""


class _Round(NamedTuple):
    """What is to be appended. `over`: the journals that can go then."""

    rows: Mapping[str, Any]
    consumed: dict[str, int]
    pairing: bytes | None
    over: list[str]


class Follower:
    """Follows the journals of one policy.

    Args:
      folder: the policy's.
      spec: the policy's.
      rows: its row log.
      kept_bytes: of journals that stay for the last steps in them, though all of them is read.
    """

    def __init__(self, folder: Path, spec: PolicySpec, rows: Rows, kept_bytes: int = _MOST_KEPT_BYTES) -> None:
        self._layout = Layout(spec)
        self._sources = Sources(self._layout)
        self._journals = Journals(folder / FOLDER, self._layout.digest, self._sources)
        self._rows = rows
        self._pairing = Pairing()
        self._carried: int | None = None
        self._kept_bytes = min(kept_bytes, _MOST_KEPT_BYTES)
        self._has_forgotten = False
        self._round: _Round | None = None
        self._recover()

    @property
    def lost_events(self) -> int:
        """How many steps followed one that was not recorded, or were in a journal that cannot be read."""
        return self._pairing.lost + self._journals.lost

    @property
    def journal_bytes(self) -> int:
        """The bytes of all journals."""
        return self._journals.size

    def advance(self) -> int:
        """Appends what is new; returns how many rows that were.

        Raises:
          OSError: the rows cannot be appended, or the journals not read; the next call tries that again.
        """
        count = self._append()
        self._journals.tidy()
        found, is_all = self._take()
        over = self._without_needed(self._journals.over()) if is_all else []
        if len(found.first) or over:
            rows = rows_of(self._layout, found, self._sources)
            self._round = _Round(rows, self._journals.places(), self._carry(over), over)
        return count + self._append()

    def _append(self) -> int:
        if self._round is None:
            return 0
        rows, consumed, pairing, over = self._round
        self._rows.append(rows, consumed, pairing)
        self._round = None
        for name in over:
            self._pairing.forget(self._journals.remove(name))
        return len(rows["step"])

    def _take(self) -> tuple[Found, bool]:
        """Reads on in all journals; returns pairs, and whether there is no more.

        What lies before a step in time is in some journal by when that step is seen. So a step stays early only where
        the one before it was lost, or could not be read yet.
        """
        before = self._journals.ends()
        self._journals.find()
        for of_each in (False, True):
            read = self._journals.read(of_each=of_each)
            taken, found = self._without_early(read, before)
            if read.is_all or self._journals.is_ahead(taken.ends):
                break
        else:
            taken, found = self._oldest(read, taken.ends, before)
        self._pairing.take(found, taken.steps)
        self._journals.go_on(taken)
        return found, taken.is_all

    def _without_early(self, read: Read, before: Mapping[int, int]) -> tuple[Read, Found]:
        """Returns what can be taken now: no step of a source behind one that is early. `before`: ends by then."""
        steps, ends = read.steps, dict(read.ends)
        found = self._pairing.find(steps)
        if read.is_all and found.early.any():
            self._pairing.give_up(steps, found.early & (steps["at"] < of_sources(steps, before)))
            found = self._pairing.find(steps)
        is_all = read.is_all and not found.early.any()
        while found.early.any():
            early = steps.compress(found.early)
            for source in np.unique(early["source"]).tolist():
                ends[source] = int(early["at"][early["source"] == source].min())
            steps = steps.compress(steps["at"] < of_sources(steps, ends))
            found = self._pairing.find(steps)
        return read._replace(steps=steps, ends=ends, is_all=is_all), found

    def _oldest(self, read: Read, ends: Mapping[int, int], before: Mapping[int, int]) -> tuple[Read, Found]:
        """Returns the oldest of the steps that no journal goes on behind: nothing older comes any more."""
        steps = read.steps
        first = steps[(steps["at"] == of_sources(steps, ends)) & (steps["at"] < of_sources(steps, before))]
        oldest = first[np.argsort(first["time_ns"])[:1]]
        self._pairing.give_up(oldest, np.ones(len(oldest), bool))
        reached = {**ends, **{step["source"].item(): (step["at"] + step["length"]).item() for step in oldest}}
        return read._replace(steps=oldest, ends=reached, is_all=False), self._pairing.find(oldest)

    def _without_needed(self, over: list[str]) -> list[str]:
        """Leaves out journals that last steps lie in, where these are many and there is room for the journals."""
        if not over or self._journals.size > self._kept_bytes:
            return over
        names = {self._journals.source(name): name for name in over}
        if not self._pairing.is_waiting([*names]):
            return over
        carried = [] if self._carried is None else [self._carried]
        steps = self._pairing.waiting([*names, *carried], self._sources.whos)
        if (steps["length"] + _NAMES_BYTES).sum() <= _FEW_CARRIED_BYTES:
            return over
        needed = set(steps["source"].tolist())
        return [name for source, name in names.items() if source not in needed]

    def _carry(self, over: list[str]) -> bytes | None:
        """Keeps the last steps that lie in journals that go; returns what to note of them, if it has changed."""
        sources = [self._journals.source(name) for name in over]
        if not over or not self._pairing.is_waiting(sources):
            return None
        carried = [] if self._carried is None else [self._carried]
        steps = self._pairing.waiting([*sources, *carried], self._sources.whos)
        size = np.cumsum((steps["length"] + _NAMES_BYTES)[::-1])[::-1]
        self._forget(steps["session"][size > _MOST_CARRIED_BYTES])
        copied = self._sources.copied(steps[size <= _MOST_CARRIED_BYTES])
        self._take_carried(copied)
        return copied

    def _forget(self, sessions: Array) -> None:
        if len(sessions) and not self._has_forgotten:
            self._has_forgotten = True
            log.warning("the last steps of all sessions are too large to be kept: those of %d are lost", len(sessions))
        self._pairing.forget(sessions)

    def _take_carried(self, copied: bytes) -> None:
        """Has last steps lie in this copy of them, and in no older one."""
        former = self._carried
        self._carried = self._sources.add(Records(copied))
        with contextlib.suppress(Unreadable):
            read = self._sources.read(self._carried, (0, len(copied)), (len(copied), len(copied)))
            self._pairing.move(read.steps)
        if former is not None:
            self._pairing.forget(self._sources.remove(former))

    def _recover(self) -> None:
        """Takes what there are rows of, so that what follows it makes rows."""
        if self._rows.pairing:
            self._take_carried(self._rows.pairing)
        self._journals.find()
        while (read := self._journals.read(self._rows.consumed)).ends:
            self._pairing.take(self._pairing.find(read.steps), read.steps)
            self._journals.go_on(read)
