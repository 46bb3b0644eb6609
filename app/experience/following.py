"""The journals of a policy → rows, appended to its row log; journals that are over are removed.

What is on disk at any moment says all: with the rows of a round, the row log notes how far each journal was read. An
event before that place is the end of a row that is durable; the last one of each session still lies in its journal, or
in `pairing` where that was removed. So after a kill these are read again without making rows, and the rest as ever.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from app.experience.event import Event, Pair, read_event
from app.experience.journal import FOLDER, SUFFIX, JournalReader, Unreadable, is_without_writer, remove_abandoned
from app.experience.layout import Layout
from app.experience.pairing import Pairing
from app.experience.trajectories import rows_of
from saver.artifact import PolicySpec

log = logging.getLogger("policy_server.experience")

# Events that are read at a time, and their bytes: at most some hundred milliseconds of work.
_MOST_EVENTS, _MOST_BYTES = 8192, 16 * 2**20
# Of last steps whose journals are gone; those that are oldest go first.
_MOST_CARRIED_BYTES = 16 * 2**20
_TIDY_S = 60.0
# The source of events that were read from `pairing`.
_CARRIED = ""


class Rows(Protocol):
    """Takes the rows of a policy: see `RowLog`."""

    consumed: dict[str, int]
    pairing: bytes

    def append(self, rows: Mapping[str, Any], consumed: dict[str, int], pairing: bytes | None = None) -> None:
        """Makes rows durable, together with what they were made of; raises OSError, and nothing has changed."""


class _Round(NamedTuple):
    """What is to be appended. `over`: the journals that can go then."""

    pairs: list[Pair]
    consumed: dict[str, int]
    pairing: bytes | None
    over: list[str]


class Follower:
    """Follows the journals of one policy. `folder`: the policy's; `rows`: its row log."""

    def __init__(self, folder: Path, spec: PolicySpec, rows: Rows) -> None:
        self._journals = _Journals(folder / FOLDER, Layout(spec))
        self._layout = self._journals.layout
        self._rows = rows
        self._pairing = Pairing()
        self._carried: dict[bytes, Event] = {}
        self._round: _Round | None = None
        self._recover()

    @property
    def lost_events(self) -> int:
        """How many steps followed one that was not recorded, or were in a journal that cannot be read."""
        return self._pairing.lost + self._journals.lost

    def advance(self) -> int:
        """Appends what is new; returns how many rows that were.

        Raises:
          OSError: the rows cannot be appended, or the journals not read; the next call tries that again.
        """
        count = self._append()
        self._journals.tidy()
        pairs, is_all = self._read()
        over = self._journals.over() if is_all else []
        if pairs or over:
            self._round = _Round(pairs, self._journals.places(), self._carry(over), over)
        return count + self._append()

    def _append(self) -> int:
        if self._round is None:
            return 0
        pairs, consumed, pairing, over = self._round
        rows = rows_of(self._layout, pairs)
        self._rows.append(rows, consumed, pairing)
        self._round = None
        for name in over:
            self._journals.remove(name)
        return len(rows["step"])

    def _read(self) -> tuple[list[Pair], bool]:
        """Reads on in all journals; returns pairs, and whether there is no more.

        What lies before an event in time is in some journal by when that event is seen. So an event stays early only
        where the one before it was lost, if nothing else keeps that from being read; the oldest early one shows it.
        """
        journals = self._journals
        ends = journals.ends()
        journals.find()
        passes = _Passes(self._layout, self._pairing)
        while not passes.is_full:
            before = passes.events
            early = [event for reader in journals.readers() if (event := passes.read(journals, reader)) is not None]
            if passes.events > before:
                continue
            readers = {event.source: journals.reader(event.source) for event in early}
            if not early or any(reader.at >= ends.get(name, 0) for name, reader in readers.items()):
                return passes.pairs, not early
            oldest = min(early, key=lambda event: event.head.time_ns)
            self._pairing.give_up(oldest)
            readers[oldest.source].at += oldest.head.length
        return passes.pairs, False

    def _carry(self, over: list[str]) -> bytes | None:
        """Keeps the last steps that lie in journals that go; returns what to note of them, if it has changed."""
        found = [event for name in over for event in self._pairing.waiting(name)]
        if not found:
            return None
        for event in found:
            moved = event._replace(data=bytes(event.data), source=_CARRIED)
            self._pairing.move(moved)
            self._carried.pop(event.key, None)
            self._carried[event.key] = moved
        current = {event.key for event in self._pairing.waiting(_CARRIED)}
        kept = [event for key, event in self._carried.items() if key in current]
        while sum(len(event.data) for event in kept) > _MOST_CARRIED_BYTES:
            kept = kept[len(kept) // 8 + 1 :]
        self._carried = {event.key: event for event in kept}
        self._pairing.forget(_CARRIED, set(self._carried))
        return msgspec.msgpack.encode([event.data for event in kept])

    def _recover(self) -> None:
        """Takes what there are rows of, so that what follows it makes rows."""
        if self._rows.pairing:
            for data in msgspec.msgpack.decode(self._rows.pairing, type=list[bytes]):
                event = read_event(data, _CARRIED)
                if self._layout.fits(event):
                    self._carried[event.key] = event
                    self._pairing.take(event)
        self._journals.find()
        for reader in self._journals.readers():
            end = min(self._rows.consumed.get(reader.name, 0), reader.end())
            while (found := self._journals.next(reader, end)) is not None:
                self._pairing.take(found)
                reader.at += found.head.length


class _Passes:
    """The passes of a round over the journals. `events`: how many were taken."""

    def __init__(self, layout: Layout, pairing: Pairing) -> None:
        self.pairs: list[Pair] = []
        self.events = 0
        self.is_full = False
        self._layout = layout
        self._pairing = pairing
        self._bytes = 0
        self._shapes: object = None

    def read(self, journals: _Journals, reader: JournalReader) -> Event | None:
        """Reads on in a journal; returns the event that it stops at, where that is early."""
        pairing, end = self._pairing, reader.end()
        while not self.is_full and (event := journals.next(reader, end)) is not None:
            pair = pairing.pair(event)
            if pair is not None:
                if not self._layout.is_fixed and not self._has_same_shapes(pair):
                    self.is_full = True  # rows of other shapes are appended by themselves
                    return None
                self.pairs.append(pair)
            elif pairing.is_early(event):
                return event
            pairing.take(event)
            length = event.head.length
            reader.at += length
            self._bytes += length
            self.events += 1
            self.is_full = self.events >= _MOST_EVENTS or self._bytes >= _MOST_BYTES
        return None

    def _has_same_shapes(self, pair: Pair) -> bool:
        shapes = self._layout.shapes(pair)
        if self._shapes is None:
            self._shapes = shapes
        return self._shapes == shapes


class _Journals:
    """The journals of a policy, in the order of their names. `lost`: how many events could not be read."""

    def __init__(self, folder: Path, layout: Layout) -> None:
        self.layout = layout
        self.lost = 0
        self._folder = folder
        self._readers: dict[str, JournalReader] = {}
        self._unusable: set[str] = set()
        self._changed_at = -1
        self._tidied_at = 0.0

    def readers(self) -> list[JournalReader]:
        """Returns those that are open."""
        return list(self._readers.values())

    def reader(self, name: str) -> JournalReader:
        """Returns one of them."""
        return self._readers[name]

    def places(self) -> dict[str, int]:
        """Returns how far each was read."""
        return {name: reader.at for name, reader in self._readers.items()}

    def ends(self) -> dict[str, int]:
        """Returns how far each was written."""
        return {name: reader.end() for name, reader in self._readers.items()}

    def find(self) -> None:
        """Opens those that are new; raises OSError."""
        try:
            changed_at = self._folder.stat().st_mtime_ns
        except FileNotFoundError:
            return
        # Within the clock's tick, another file may come without another time.
        if changed_at == self._changed_at and time.time_ns() - changed_at > 10**9:
            return
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            if path.name not in self._readers and path.name not in self._unusable:
                self._open(path)
        self._changed_at = changed_at

    def next(self, reader: JournalReader, end: int) -> Event | None:
        """Returns the event where a reader is; None where there is none before `end`. Does not go on."""
        while (data := self._data(reader, end)) is not None:
            try:
                event = read_event(data, reader.name)
                if self.layout.fits(event):
                    return event
            except ValueError:
                pass
            self.lost += 1
            reader.at += len(data)
        return None

    def over(self) -> list[str]:
        """Returns the names of those that are read to their ends, and that nobody writes any more."""
        return [name for name, reader in self._readers.items() if reader.is_over() and reader.end() == reader.at]

    def remove(self, name: str) -> None:
        """Removes one."""
        reader = self._readers.pop(name)
        reader.path.unlink(missing_ok=True)
        reader.close()

    def tidy(self) -> None:
        """Now and then, removes what nobody can read any more."""
        if time.monotonic() - self._tidied_at < _TIDY_S:
            return
        self._tidied_at = time.monotonic()
        remove_abandoned(self._folder, time.time())
        for name in list(self._unusable):
            path = self._folder / name
            with contextlib.suppress(OSError):
                if is_without_writer(path):
                    path.unlink()
            if not path.exists():
                self._unusable.discard(name)

    def _data(self, reader: JournalReader, end: int) -> memoryview | None:
        try:
            return reader.data(end)
        except Unreadable as error:
            self.lost += 1
            log.error("%s is left out from there: %s", reader.path, error)
            reader.at = end
            return None

    def _open(self, path: Path) -> None:
        try:
            self._readers[path.name] = JournalReader(path, self.layout.digest)
        except Unreadable as error:
            self._unusable.add(path.name)
            self.lost += 1
            log.error("%s is left out: %s", path, error)
        except FileNotFoundError:
            pass
