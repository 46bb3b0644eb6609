"""An event: one answered step of a session as bytes.

    length u32 · flags u8 · mode u8 · step i64 · time_ns i64 · train_step i64 · seed i64 · rows u32 · four lengths u16
    session · run_id · incarnation · version, UTF-8
    the values of each column, [rows, …]: as they lie in memory, or as msgpack where their sizes may differ

An event says all that its step was asked and answered; what the next observation brings is in the next event.
"""

from __future__ import annotations

import struct
import time
from typing import NamedTuple

import numpy as np

from app.batching.rule import Job, Result

# The event was written by another machine too, which has the row that it ends.
COPY = 1
MODES = ("", "greedy", "sample")

_HEAD, _LENGTH = struct.Struct("<IBBqqqqIHHHH"), struct.Struct("<I")
# Of an event that cannot be read, so much is not even looked at.
LEAST_BYTES = _HEAD.size
_FLAGS_AT = 4
# By the functions of a policy.
_MODE_NUMBERS = {"action": 0, "greedy": 1, "sample": 2}
# Of sessions that step at the same time: when there are more, all are encoded again.
_MOST_NAMES = 4096


class Who(NamedTuple):
    """The session that an event belongs to."""

    session: str
    run_id: str
    incarnation: str


class Head(NamedTuple):
    """The numbers at the start of an event; the last four are lengths, in bytes."""

    length: int
    flags: int
    mode: int
    step: int
    time_ns: int
    train_step: int
    seed: int
    rows: int
    session: int
    run_id: int
    incarnation: int
    version: int


class Event(NamedTuple):
    """An event that was read. `key`: the names of its session; `body`: where its values start; `source`: of what."""

    head: Head
    key: bytes
    data: bytes | memoryview
    body: int
    source: str = ""

    def who(self) -> Who:
        """Returns the session that it belongs to."""
        head, key = self.head, self.key.decode()
        if len(key) == len(self.key):
            run_id = head.session + head.run_id
            return Who(key[: head.session], key[head.session : run_id], key[run_id:])
        cut = (self.key[: head.session], self.key[head.session :][: head.run_id], self.key[-head.incarnation :])
        return Who(*(part.decode() for part in cut))

    def version(self) -> str:
        """Returns the version that answered."""
        return bytes(self.data[self.body - self.head.version : self.body]).decode()


# What `_HEAD` reads, for many heads at once.
HEADS = np.dtype(
    {
        "names": ["length", "flags", "mode", "step", "time_ns", "train_step", "seed", "rows"],
        "formats": ["<u4", "u1", "u1", "<i8", "<i8", "<i8", "<i8", "<u4"],
        "offsets": [0, 4, 5, 6, 14, 22, 30, 38],
        "itemsize": LEAST_BYTES,
    }
)
# The event of a step, and that of the next one.
Pair = tuple[Event, Event]


def read_event(data: bytes | memoryview, source: str = "") -> Event:
    """Reads an event.

    Raises:
      ValueError: it is none.
    """
    try:
        head = tuple.__new__(Head, _HEAD.unpack_from(data))  # some hundred nanoseconds sooner than by its names
    except struct.error:
        raise ValueError(f"{len(data)} bytes are no event") from None
    length, _, mode, _, _, _, _, _, session, run_id, incarnation, version = head
    names_end = LEAST_BYTES + session + run_id + incarnation
    body = names_end + version
    if not body <= length == len(data) or mode >= len(MODES) or not incarnation:
        raise ValueError("the lengths in an event do not fit")
    return Event(head, bytes(data[LEAST_BYTES:names_end]), data, body, source)


def length_of(data: bytes | memoryview, start: int) -> int:
    """Returns the length that the event at `start` says that it has."""
    length: int = _LENGTH.unpack_from(data, start)[0]
    return length


def as_copy(event: bytes) -> bytes:
    """Returns an event with the mark that another machine has written it."""
    return b"".join((event[:_FLAGS_AT], bytes((event[_FLAGS_AT] | COPY,)), event[_FLAGS_AT + 1 :]))


class EventWriter:
    """Writes the heads of events; keeps the names of sessions as bytes."""

    def __init__(self) -> None:
        self._names: dict[Who, tuple[bytes, tuple[int, ...]]] = {}

    def event(self, at: tuple[Who, int, int | None], job: Job, result: Result, body: bytes) -> bytes:
        """Returns the event of an answered step. `at`: whose, which one, and its seed; `body`: its values."""
        who, step, seed = at
        names, lengths = self._names.get(who) or self._named(who)
        version = result.version.encode()
        head = _HEAD.pack(
            LEAST_BYTES + len(names) + len(version) + len(body),
            0,
            _MODE_NUMBERS[job.function],
            step,
            time.time_ns(),
            result.train_step,
            -1 if seed is None else seed,
            job.rows,
            *lengths,
            len(version),
        )
        return b"".join((head, names, version, body))

    def _named(self, who: Who) -> tuple[bytes, tuple[int, ...]]:
        parts = [name.encode() for name in who]
        found = b"".join(parts), tuple(map(len, parts))
        if len(self._names) >= _MOST_NAMES:
            self._names.clear()
        self._names[who] = found
        return found
