"""Where steps lie: journals that are open, and what is kept of those that are gone; and the names in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from app.experience.event import (
    HEAD_BYTES,
    HEADS,
    MODES,
    SESSION,
    STEP,
    VERSION,
    Data,
    Who,
    numbered,
    read_head,
    session_record,
    version_in,
    version_record,
    who_in,
)  # fmt: skip
from app.experience.layout import Layout
from app.experience.records import Records
from app.experience.steps import STEPS, Numbers
from app.wire.tensors import Array

# A journal says the number of a name before any step has it.
_UNSAID = -1


class Part(NamedTuple):
    """What was read of a source: steps, where to go on, and the places of records that cannot be used."""

    steps: Array
    place: int
    unusable: Array


class _Source:
    """One of them. `sessions`, `versions`: the numbers that its own ones have here, by those."""

    def __init__(self, records: Records) -> None:
        self.records = records
        self.sessions = np.full(256, _UNSAID)
        self.versions = np.full(16, _UNSAID)


class Sources:
    """All sources of the steps of one policy, by number."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._sources: dict[int, _Source] = {}
        self._added = 0
        self._sessions: Numbers[Who] = Numbers()
        self._versions: Numbers[str] = Numbers()

    @property
    def whos(self) -> Sequence[Who | None]:
        """The sessions by number."""
        return self._sessions.names

    def who(self, number: int) -> Who:
        """Returns the session of this number."""
        who = self._sessions.names[number]
        assert who is not None, "a step of it is there"
        return who

    def keys(self, sessions: Array) -> Array:
        """Returns for each session, by its number, what no other one ever has."""
        return self._sessions.keys[sessions]

    def version(self, number: int) -> str:
        """Returns the version of this number."""
        version = self._versions.names[number]
        assert version is not None, "a step of it is there"
        return version

    def add(self, records: Records) -> int:
        """Returns the number of another source."""
        self._added += 1
        self._sources[self._added] = _Source(records)
        return self._added

    def remove(self, number: int) -> Array:
        """Removes a source; returns the numbers of sessions that no other one knows, and which may be others' now."""
        source = self._sources.pop(number)
        for version in source.versions[source.versions != _UNSAID].tolist():
            self._versions.leave(version)
        sessions = source.sessions[source.sessions != _UNSAID].tolist()
        return np.array([each for each in sessions if self._sessions.leave(each) is not None], np.int64)

    def read(self, number: int, between: tuple[int, int], most: tuple[int, int]) -> Part:
        """Reads the steps of a source between two places. `most`: so many records, and so many bytes, but at least one.

        Raises:
          Unreadable: at the first place there is something else.
        """
        source = self._sources[number]
        places = source.records.places(*between, most[0])
        heads = source.records.taken(places, HEAD_BYTES).view(HEADS)
        fitting = max(1, int(np.searchsorted(np.cumsum(heads["length"], dtype=np.int64), most[1], "right")))
        places, heads = places[:fitting], heads[:fitting]
        place = int(places[-1]) + int(heads["length"][-1]) if len(places) else between[0]
        unusable = np.empty(0, np.int64)
        is_step = heads["kind"] == STEP
        if not is_step.all():
            others = places[~is_step]
            said = [self._say(source, source.records.record(at)) for at in others.tolist()]
            unusable = others[~np.array(said)]
            places, heads = places[is_step], heads.compress(is_step)
        steps = np.empty(len(heads), STEPS)
        steps["source"], steps["at"] = number, places
        for name in ("step", "length", "rows", "time_ns", "train_step", "seed", "flags", "mode"):
            steps[name] = heads[name]
        steps["session"] = _looked_up(source.sessions, heads["session"])
        steps["version"] = _looked_up(source.versions, heads["version"])
        usable = self._usable(steps, source)
        if not usable.all():
            unusable = np.concatenate((unusable, places[~usable]))
            steps = steps.compress(usable)
        return Part(steps, place, unusable)

    def taken(self, steps: Array, size: int) -> Array:
        """Returns the records of steps of the same size: [n] void."""
        sources = steps["source"]
        if (sources == sources[0]).all():
            return self._sources[int(sources[0])].records.taken(steps["at"], size)
        found = np.empty(len(steps), f"V{size}")
        for number in np.unique(sources).tolist():
            mine = np.flatnonzero(sources == number)
            found[mine] = self._sources[number].records.taken(steps["at"][mine], size)
        return found

    def record(self, step: Array) -> Data:
        """Returns the record of one step."""
        return self._sources[int(step["source"])].records.record(int(step["at"]))

    def copied(self, steps: Array) -> bytes:
        """Returns the records of steps with the names that they need, as they can be read again."""
        pieces: list[Data] = []
        versions: dict[int, int] = {}
        for number, step in enumerate(steps):
            version = int(step["version"])
            if version not in versions:
                versions[version] = len(versions)
                pieces.append(version_record(versions[version], self.version(version)))
            pieces.append(session_record(number, self.who(int(step["session"]))))
            pieces.append(numbered(self.record(step), number, versions[version]))
        return b"".join(pieces)

    def _say(self, source: _Source, record: Data) -> bool:
        """Takes the names in a record; returns whether they are some."""
        head = read_head(record)
        number = head.session if head.kind == SESSION else head.version
        if head.kind not in (SESSION, VERSION) or number > source.records.size // HEAD_BYTES:
            return False
        try:
            if head.kind == SESSION:
                source.sessions = _with_room(source.sessions, number)
                if source.sessions[number] == _UNSAID:
                    source.sessions[number] = self._sessions.use(who_in(record))
            else:
                source.versions = _with_room(source.versions, number)
                if source.versions[number] == _UNSAID:
                    source.versions[number] = self._versions.use(version_in(record))
        except ValueError:
            return False
        return True

    def _usable(self, steps: Array, source: _Source) -> Array:
        """Returns which steps have names that are known, and values of this layout."""
        named = (steps["session"] != _UNSAID) & (steps["version"] != _UNSAID)
        known = named & (steps["mode"] < len(MODES)) & (steps["rows"] > 0) & (steps["step"] >= 0)
        if self._layout.is_fixed:
            return np.asarray(known & (steps["length"] == HEAD_BYTES + steps["rows"] * self._layout.row_bytes))
        fits = [
            self._layout.fits(rows, source.records.record(at))
            for rows, at in zip(steps["rows"].tolist(), steps["at"].tolist(), strict=True)
        ]
        return np.asarray(known & np.array(fits, bool))


def _looked_up(table: Array, numbers: Array) -> Array:
    """Returns the entries of a table; that of no name where there is none."""
    inside = numbers < len(table)
    return np.where(inside, table[np.where(inside, numbers, 0)], _UNSAID)


def _with_room(table: Array, number: int) -> Array:
    """Returns the table, with an entry of this number."""
    if number < len(table):
        return table
    larger = np.full(2 * (number + 1), _UNSAID)
    larger[: len(table)] = table
    return larger
