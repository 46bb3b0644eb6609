"""The records of a journal: an answered step of a session, and the names that steps are written with, as bytes.

    length u32 · kind u8 · flags u8 · mode u8 · nothing u8 · session u32 · version u32 · rows u32
    step i64 · time_ns i64 · train_step i64 · seed i64, then, by the kind:
    STEP      the values of each column, [rows, …]: as they lie in memory, or as msgpack where their sizes may differ
    SESSION   session, run_id and incarnation, UTF-8; `rows`, `step` and `time_ns` are their lengths in bytes
    VERSION   the name of a version, UTF-8

A step has a session and a version by number: each journal says their names once, before the first step that has them.
A step says all that was asked and answered; what the next observation brings is in the record of the next one.
"""

from __future__ import annotations

import struct
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np

STEP, SESSION, VERSION = range(3)
# A flag: the step was written by another machine too, which has the row that it ends.
COPY = 1
MODES = ("", "greedy", "sample")

_HEAD, _LENGTH = struct.Struct("<IBBBxIIIqqqq"), struct.Struct("<I")
HEAD_BYTES = _HEAD.size
# What `_HEAD` writes, for many at once.
_HEAD_NAMES = ("length", "kind", "flags", "mode", "session", "version", "rows", "step", "time_ns", "train_step", "seed")
HEADS = np.dtype(
    {
        "names": _HEAD_NAMES,
        "formats": ["<u4", "u1", "u1", "u1", "<u4", "<u4", "<u4", "<i8", "<i8", "<i8", "<i8"],
        "offsets": [0, 4, 5, 6, 8, 12, 16, 20, 28, 36, 44],
        "itemsize": HEAD_BYTES,
    }
)  # fmt: skip
_FLAGS_AT = 5
# Where a step has its two numbers.
_NUMBERS_AT, _NUMBERS = 8, struct.Struct("<II")
Data: TypeAlias = "bytes | memoryview"


class Who(NamedTuple):
    """The session that a step belongs to."""

    session: str
    run_id: str
    incarnation: str


class Names(Protocol):
    """The names that all steps of a session have beside its id, from its start on."""

    @property
    def run_id(self) -> str:
        """The run that has started it."""

    @property
    def incarnation(self) -> str:
        """Another one for each start."""


class Head(NamedTuple):
    """The numbers at the start of a record."""

    length: int
    kind: int
    flags: int
    mode: int
    session: int
    version: int
    rows: int
    step: int
    time_ns: int
    train_step: int
    seed: int


# Writes the head of a step: its values by position, as `Head` has them.
packed_head = _HEAD.pack


def read_head(record: Data) -> Head:
    """Reads the head of a record.

    Raises:
      ValueError: it is none, or not all of one.
    """
    try:
        head = Head(*_HEAD.unpack_from(record))
    except struct.error:
        raise ValueError(f"{len(record)} bytes are no record of a journal") from None
    if head.length != len(record):
        raise ValueError(f"a record of {head.length} bytes has {len(record)}")
    return head


def length_of(data: Data, start: int) -> int:
    """Returns the length that the record at `start` says that it has."""
    length: int = _LENGTH.unpack_from(data, start)[0]
    return length


def as_copy(step: bytes) -> bytes:
    """Returns a step with the mark that another machine has written it."""
    return b"".join((step[:_FLAGS_AT], bytes((step[_FLAGS_AT] | COPY,)), step[_FLAGS_AT + 1 :]))


def numbered(step: Data, session: int, version: int) -> bytes:
    """Returns a step with other numbers of its session and its version."""
    return b"".join((step[:_NUMBERS_AT], _NUMBERS.pack(session, version), step[_NUMBERS_AT + _NUMBERS.size :]))


def session_record(number: int, who: Who) -> bytes:
    """Returns the record that says the names of a session, and the number that its steps have in this journal."""
    names = [name.encode() for name in who]
    lengths = [len(name) for name in names]
    return b"".join((_HEAD.pack(HEAD_BYTES + sum(lengths), SESSION, 0, 0, number, 0, *lengths, 0, 0), *names))


def version_record(number: int, version: str) -> bytes:
    """Returns the record that says the name of a version, and the number that its steps have in this journal."""
    name = version.encode()
    return _HEAD.pack(HEAD_BYTES + len(name), VERSION, 0, 0, 0, number, 0, 0, 0, 0, 0) + name


def who_in(record: Data) -> Who:
    """Reads the names in a SESSION record; raises ValueError."""
    names = bytes(record[HEAD_BYTES:])
    _, _, _, _, _, _, session, run_id, incarnation, _, _ = _HEAD.unpack_from(record)
    cut = session + run_id
    if not 0 <= session <= cut < len(names) == cut + incarnation:
        raise ValueError("the lengths of names do not fit")
    return Who(names[:session].decode(), names[session:cut].decode(), names[cut:].decode())


def version_in(record: Data) -> str:
    """Reads the name in a VERSION record; raises ValueError."""
    return bytes(record[HEAD_BYTES:]).decode()
