"""The journals of a policy: found, read further, and removed when nobody writes them any more."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from app.experience.journal import SUFFIX, JournalReader, is_without_writer, remove_abandoned
from app.experience.records import Unreadable
from app.experience.sources import Part, Sources
from app.experience.steps import STEPS
from app.wire.tensors import Array

log = logging.getLogger("policy_server.experience")

# Records that are read at a time, and their bytes: at most some ten milliseconds of work.
_MOST_STEPS, _MOST_BYTES = 8192, 16 * 2**20
_TIDY_S = 60.0


class Read(NamedTuple):
    """What was read at a time. `ends`: how far, by source; `is_all`: whether that is all that there was.

    `unusable`: the places of records that are none, by source.
    """

    steps: Array
    ends: dict[int, int]
    is_all: bool
    unusable: dict[int, Array]


class Journals:
    """The journals of a policy, in the order of their names. `lost`: how many records could not be read."""

    def __init__(self, folder: Path, digest: bytes, sources: Sources) -> None:
        self.lost = 0
        self._folder = folder
        self._digest = digest
        self._sources = sources
        self._readers: dict[str, JournalReader] = {}
        self._numbers: dict[str, int] = {}
        self._unusable: set[str] = set()
        self._changed_at = -1
        self._tidied_at = 0.0

    @property
    def size(self) -> int:
        """The bytes of those that are open."""
        return sum(reader.records.size for reader in self._readers.values())

    def source(self, name: str) -> int:
        """Returns the number of one of them."""
        return self._numbers[name]

    def places(self) -> dict[str, int]:
        """Returns how far each was read."""
        return {name: reader.at for name, reader in self._readers.items()}

    def ends(self) -> dict[int, int]:
        """Returns how far each was written."""
        return {self._numbers[name]: reader.end() for name, reader in self._readers.items()}

    def is_ahead(self, ends: Mapping[int, int]) -> bool:
        """Returns whether one of these places, by source, is further than it was read so far."""
        return any(ends.get(number, 0) > self._readers[name].at for name, number in self._numbers.items())

    def go_on(self, read: Read) -> None:
        """Has each be read so far."""
        for name, number in self._numbers.items():
            if number in read.ends:
                self._readers[name].at = read.ends[number]
                self.lost += int(np.count_nonzero(read.unusable[number] < read.ends[number]))

    def read(self, until: Mapping[str, int] | None = None, *, of_each: bool = False) -> Read:
        """Reads on, the oldest first. `until`: no further than there, by their names; `of_each`: a part of each."""
        ends = {
            name: reader.end() if until is None else min(until.get(name, 0), reader.end())
            for name, reader in self._readers.items()
        }
        ends = {name: end for name, end in ends.items() if end > self._readers[name].at}
        found, parts, is_all = Read(np.empty(0, STEPS), {}, True, {}), [], True
        steps_left, bytes_left = _MOST_STEPS, _MOST_BYTES
        for name, end in ends.items():
            if min(steps_left, bytes_left) <= 0:
                is_all = False
                break
            number, reader = self._numbers[name], self._readers[name]
            each = (_MOST_STEPS // len(ends) + 1, _MOST_BYTES // len(ends))
            part = self._part(reader, end, each if of_each else (steps_left, bytes_left))
            if not of_each:
                steps_left, bytes_left = steps_left - len(part.steps), bytes_left - (part.place - reader.at)
            parts.append(part.steps)
            found.ends[number], found.unusable[number] = part.place, part.unusable
            is_all &= part.place == end
        return found._replace(steps=np.concatenate([found.steps, *parts]), is_all=is_all)

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

    def over(self) -> list[str]:
        """Returns the names of those that are read to their ends, and that nobody writes any more."""
        return [name for name, reader in self._readers.items() if reader.is_over() and reader.end() == reader.at]

    def remove(self, name: str) -> Array:
        """Removes one; returns the numbers of sessions that nothing else knows: see `Sources.remove`."""
        reader = self._readers.pop(name)
        reader.path.unlink(missing_ok=True)
        reader.close()
        return self._sources.remove(self._numbers.pop(name))

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

    def _part(self, reader: JournalReader, end: int, most: tuple[int, int]) -> Part:
        """Reads on in a journal; returns steps, and where to go on."""
        try:
            return self._sources.read(self._numbers[reader.name], (reader.at, end), most)
        except Unreadable as error:
            self.lost += 1
            log.error("%s is left out from there: %s", reader.path, error)
            return Part(np.empty(0, STEPS), end, np.empty(0, np.int64))

    def _open(self, path: Path) -> None:
        try:
            reader = self._readers[path.name] = JournalReader(path, self._digest)
            self._numbers[path.name] = self._sources.add(reader.records)
        except Unreadable as error:
            self._unusable.add(path.name)
            self.lost += 1
            log.error("%s is left out: %s", path, error)
        except FileNotFoundError:
            pass


def of_sources(steps: Array, places: Mapping[int, int]) -> Array:
    """Returns for each step the place of its source; 0 where there is none."""
    return np.array([places.get(source, 0) for source in steps["source"].tolist()], np.int64)
