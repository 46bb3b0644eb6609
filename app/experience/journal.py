"""A journal: the steps that one worker has answered of one policy, in a file in memory that outlives the worker.

    magic, 8 bytes · digest of the layout, 16 · the end of the records, u64 · nothing, up to byte 64 · records

The worker sets the end after each step, so what it has answered is there however it ends, and no system call is paid.
Blocks are allocated beforehand: a full disk is an error then, and not a signal that kills. They are written piece by
piece, too, as the first write to a page of a block that was not costs thirty times as much. The writer holds a lock on
the file: where it can be taken, the writer is gone or has moved on.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import secrets
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from app.experience.event import Names, Who, numbered, session_record, version_record
from app.experience.records import Records, Unreadable

FOLDER, SUFFIX = "journals", ".journal"
_PARTIAL = ".new"
_MAGIC = b"events\x00\x02"
_DIGEST_AT, _END_AT, _START = 8, 24, 64
_END = struct.Struct("=Q")
# After an error, until it is tried again.
_AGAIN_S = 1.0
# Some 30 µs of writing at a time.
_AHEAD_BYTES = 2**17
# A file that was not finished, and has no writer, is not one that is just being made.
_ABANDONED_S = 60.0


class JournalLimits(NamedTuple):
    """Sizes in bytes: of one file, and of all that nobody has read yet."""

    file: int = 4 * 2**20
    unread: int = 256 * 2**20


class JournalFull(OSError):
    """There is too much that nobody has read yet."""


class JournalWriter:
    """Writes the steps of one worker. `folder`: made when it is needed; `clock`: seconds.

    `at`, `size`: where the next record begins, and where the file ends. `sessions`, `versions`: what this file says of
    names already: the number of a session and its id, by its incarnation, and that of a version.
    """

    def __init__(
        self, folder: Path, digest: bytes, limits: JournalLimits, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder = folder
        self._digest = digest
        self._limits = limits
        self._clock = clock
        self._again_at = -_AGAIN_S
        self._error = OSError()
        self.at = self.size = 0
        self._file = -1
        self._map: mmap.mmap | None = None
        self._zeroed = 0  # how far its blocks are written
        self.sessions: dict[str, tuple[int, str]] = {}
        self.versions: dict[str, int] = {}
        self._said = 0

    def write(self, step: bytes, session: str, names: Names, version: str) -> None:
        """Writes a step, which is kept from then on.

        Raises:
          JournalFull: nobody reads.
          OSError: it cannot be written. After an error, the next second's steps are refused with the same one.
        """
        known, number = self.sessions.get(names.incarnation), self.versions.get(version)
        if known is None or number is None or known[1] != session or self.at + len(step) > self.size:
            known, number = self._prepare(len(step), Who(session, names.run_id, names.incarnation), version)
        self.put(numbered(step, known[0], number))

    def put(self, steps: bytes) -> None:
        """Writes steps that have their numbers, and for which there is room; they are kept from then on."""
        end, written = self.at + len(steps), self._map
        assert written is not None, "there is room"
        if end > self._zeroed:
            self._write_ahead(end)
        written[self.at : end] = steps
        _END.pack_into(written, _END_AT, end)
        self.at = end

    def _write_ahead(self, end: int) -> None:
        """Writes the blocks that come next. Where that fails, the steps themselves do."""
        start = max(self.at, self._zeroed)  # names may be further than what was written ahead
        self._zeroed = min(self.size, max(end, start + _AHEAD_BYTES))
        with contextlib.suppress(OSError):
            os.pwrite(self._file, bytes(self._zeroed - start), start)

    def close(self) -> None:
        """Ends the file: a reader may take it away."""
        if self._map is not None:
            self._map.close()
            os.close(self._file)  # and with both goes the lock
        self._map, self.at, self.size = None, 0, 0
        self.sessions.clear()
        self.versions.clear()
        self._said = 0

    def _prepare(self, size: int, who: Who, version: str) -> tuple[tuple[int, str], int]:
        """Has room for a step, and the names that it has said in this file; returns their numbers."""
        size += len(session_record(0, who)) + len(version_record(0, version))
        if self.at + size > self.size:
            self._open_next(size)
        known = self.sessions.get(who.incarnation)
        if known is None or known[1] != who.session:
            known = self._said, who.session
            self.sessions[who.incarnation] = known
            self._say(session_record(self._said, who))
        number = self.versions.get(version)
        if number is None:
            number = self.versions[version] = self._said
            self._say(version_record(number, version))
        return known, number

    def _say(self, record: bytes) -> None:
        """Writes names; they are there for others as soon as a step is that has them."""
        assert self._map is not None, "just opened"
        end = self.at + len(record)
        self._map[self.at : end] = record
        self.at, self._said = end, self._said + 1

    def _open_next(self, size: int) -> None:
        if self._clock() < self._again_at:
            raise self._error
        self.close()
        try:
            size = max(self._limits.file, _START + size)
            self._check_room(size)
            self._file, self._map = _created(self._folder, self._digest, size)
        except OSError as error:
            self._error, self._again_at = error, self._clock() + _AGAIN_S
            raise
        self.at, self.size, self._zeroed = _START, size, _START

    def _check_room(self, size: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            size += sum(entry.stat().st_size for entry in os.scandir(self._folder))
        if size > max(self._limits.unread, 2 * self._limits.file):
            raise JournalFull(f"{size} bytes of experience wait to be read, at most {self._limits.unread} may")


def _created(folder: Path, digest: bytes, size: int) -> tuple[int, mmap.mmap]:
    """Makes a journal; returns its descriptor and its map, which hold the lock together."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{time.time_ns():016x}-{secrets.token_hex(4)}{SUFFIX}"
    partial = path.with_suffix(_PARTIAL)
    number = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.posix_fallocate(number, 0, size)
        os.pwrite(number, (_MAGIC + digest + _END.pack(_START)).ljust(_START, b"\x00"), 0)
        made = mmap.mmap(number, size)
        partial.rename(path)
    except BaseException:
        os.close(number)
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    return number, made


class JournalReader:
    """Reads one journal. `records`: those up to `end` are whole; `at`: how far they were read.

    Raises:
      Unreadable: it is none, or has events of another layout.
      OSError: it cannot be opened.
    """

    def __init__(self, path: Path, digest: bytes) -> None:
        self.path = path
        self.name = path.name
        self.at = _START
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(self._file).st_size
            head = os.pread(self._file, _START, 0)
            if len(head) < _START or head[:_DIGEST_AT] != _MAGIC:
                raise Unreadable("it is no journal")
            if head[_DIGEST_AT:_END_AT] != digest:
                raise Unreadable("it has the steps of a policy with another spec")
            self.records = Records(mmap.mmap(self._file, size, access=mmap.ACCESS_READ))
        except BaseException:
            os.close(self._file)
            raise

    def end(self) -> int:
        """Returns where its records end now."""
        end: int = _END.unpack_from(self.records.data, _END_AT)[0]
        return min(end, self.records.size)

    def is_over(self) -> bool:
        """Returns whether the writer is gone, or has moved on: the end stays where it is."""
        return _is_free(self._file)

    def close(self) -> None:
        """Closes it."""
        os.close(self._file)


def remove_abandoned(folder: Path, now: float) -> None:
    """Removes what workers that were killed have not finished. `now`: Unix time."""
    for path in folder.glob(f"*{_PARTIAL}"):
        with contextlib.suppress(OSError):
            if now - path.stat().st_mtime > _ABANDONED_S:
                path.unlink()


def is_without_writer(path: Path) -> bool:
    """Returns whether nobody writes a file; raises OSError."""
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _is_free(number)
    finally:
        os.close(number)


def _is_free(number: int) -> bool:
    try:
        fcntl.flock(number, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(number, fcntl.LOCK_UN)
    return True
