"""The bytes of a tar, as they arrive → the files of a checkpoint in a folder. Blocks: it writes to the disk.

A checkpoint is `variables/<file>`s and perhaps `checkpoint.json`; nothing else is written, and nothing outside the
folder. Headers are read by Python's tarfile; what follows from them is decided here, since tarfile reads from a file,
keeps whole extended headers in memory, and makes links and devices.
"""

from __future__ import annotations

import contextlib
import tarfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from app.errors import BodyTooLarge, DoesNotFit, Problem
from saver.artifact import CHECKPOINT_FILE, is_name

T = TypeVar("T")
# Receives bytes at each `yield`, and returns what it has made of them.
_Reading = Generator[None, memoryview, T]

VARIABLES = "variables"
_BLOCK = tarfile.BLOCKSIZE
# A checkpoint has one file per shard and an index. A member may come with extended headers.
_MOST_MEMBERS = 256
_MOST_HEADERS = 4 * _MOST_MEMBERS
# Both are read whole. A manifest has a line per file; an extended header a path and some times.
_MOST_MANIFEST_BYTES = 1 << 20
_MOST_EXTENDED_BYTES = 1 << 16
_LONGEST_NAME = 200
_ODD_KINDS = {
    tarfile.LNKTYPE: "is a link",
    tarfile.SYMTYPE: "is a link",
    tarfile.GNUTYPE_LONGLINK: "is a link",
    tarfile.CHRTYPE: "is a device",
    tarfile.BLKTYPE: "is a device",
    tarfile.FIFOTYPE: "is a FIFO",
    tarfile.GNUTYPE_SPARSE: "is a sparse file",
}


@dataclass
class _Extended:
    """Facts about a member from the headers before its own."""

    path: str | None = None
    size: int | None = None
    sparse: bool = False


class Unpacker:
    """Takes a tar in pieces of any size; `limit` is for the bytes of its files together."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.files: set[str] = set()
        self._folder = folder
        self._limit = limit
        self._received = 0
        self._promised = 0
        self._headers = 0
        self._members = 0
        self._ended = False
        self._rest = memoryview(b"")
        self._reading = self._read()
        next(self._reading)

    def feed(self, data: bytes) -> None:
        """Takes the next piece; writes what is in it of files.

        Raises:
          BodyTooLarge: a header promises more bytes than the limit.
          DoesNotFit: a member that no checkpoint has, or no tar at all; names the member.
        """
        self._received += len(data)
        if data and not self._ended:  # what follows the end of an archive is padding
            self._reading.send(memoryview(data))

    def finish(self) -> None:
        """Checks that the archive is complete, at the end of the body.

        Raises:
          DoesNotFit: it came too early, or the archive has no variables.
        """
        if not self._received:
            raise _unfit("body", "is empty", "a tar of variables/")
        if not self._ended:
            raise _unfit("body", f"ends after {self._received} bytes, in the middle of the archive", "a whole tar")
        if not self.files - {CHECKPOINT_FILE}:
            raise _unfit(VARIABLES, "missing", "variables/variables.index and its data files")

    def close(self) -> None:
        """Closes the file that was being written, if any."""
        with contextlib.suppress(OSError):  # the disk may be full
            self._reading.close()

    def _read(self) -> _Reading[None]:
        """Reads the archive from its first byte to its last."""
        shared, own = _Extended(), _Extended()
        while (header := (yield from self._header())) is not None:
            if header.type in (tarfile.XHDTYPE, tarfile.XGLTYPE):
                records = yield from self._exactly(_extended_size(header))
                _read_records(records, shared if header.type == tarfile.XGLTYPE else own, header.name)
            elif header.type == tarfile.GNUTYPE_LONGNAME:
                path = yield from self._exactly(_extended_size(header))
                own.path = path.partition(b"\0")[0].decode("utf-8", "backslashreplace")
            else:
                yield from self._member(header, shared, own)
                own = _Extended()
                continue
            yield from self._padding(header.size)
        self._ended = True
        yield

    def _header(self) -> _Reading[tarfile.TarInfo | None]:
        """Reads the next header; None at the end of the archive."""
        block = yield from self._exactly(_BLOCK)
        if not any(block):
            return None
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
        except tarfile.HeaderError:
            where = "body" if not self._members else f"after {self._members} members"
            raise _unfit(where, "no header of a tar", "an uncompressed tar") from None
        self._headers += 1
        if self._headers > _MOST_HEADERS:
            raise _unfit(header.name, f"has header {self._headers}", f"at most {_MOST_HEADERS}")
        if header.size < 0:
            raise _unfit(header.name, f"has {header.size} bytes", "a size")
        return header

    def _member(self, header: tarfile.TarInfo, shared: _Extended, own: _Extended) -> _Reading[None]:
        name = own.path or shared.path or header.name
        size = next(size for size in (own.size, shared.size, header.size) if size is not None)
        self._members += 1
        if self._members > _MOST_MEMBERS:
            raise _unfit(name, f"is member {self._members}", f"at most {_MOST_MEMBERS}")
        path = _inside(name)
        if header.type == tarfile.DIRTYPE:
            return  # has no content, whatever its size says; the folders that are needed are made anyway
        _check_kind(header, name, own.sparse or shared.sparse)
        _check_file(name, path)
        if path == CHECKPOINT_FILE and size > _MOST_MANIFEST_BYTES:
            raise _unfit(name, f"has {size} bytes", f"at most {_MOST_MANIFEST_BYTES}")
        self._promised += size
        if self._promised > self._limit:
            raise BodyTooLarge(f"the files up to {_shown(name)} have {self._promised} bytes, at most {self._limit}")
        self.files.add(path)
        yield from self._write(self._folder / path, name, size)
        yield from self._padding(size)

    def _write(self, path: Path, name: str, size: int) -> _Reading[None]:
        path.parent.mkdir(exist_ok=True)
        try:
            file = path.open("xb")
        except FileExistsError:
            raise _unfit(name, "comes twice", "each file once") from None
        with file:
            while size:
                part = yield from self._some(size)
                file.write(part)
                size -= len(part)

    def _padding(self, size: int) -> _Reading[None]:
        """Skips what fills the last block of a member."""
        yield from self._exactly(-size % _BLOCK)

    def _exactly(self, count: int) -> _Reading[bytes]:
        parts = []
        while count:
            part = yield from self._some(count)
            parts.append(bytes(part))
            count -= len(part)
        return b"".join(parts)

    def _some(self, most: int) -> _Reading[memoryview]:
        """Returns at least one byte, and no more than `most`."""
        while not self._rest:
            self._rest = yield
        part, self._rest = self._rest[:most], self._rest[most:]
        return part


def _extended_size(header: tarfile.TarInfo) -> int:
    if header.size > _MOST_EXTENDED_BYTES:
        raise _unfit(header.name, f"is an extended header of {header.size} bytes", f"at most {_MOST_EXTENDED_BYTES}")
    return header.size


def _read_records(data: bytes, extended: _Extended, name: str) -> None:
    """Reads pax records ("<length> <key>=<value>\\n"). Of no consequence here: times, owners, attributes."""
    start = 0
    try:
        while start < len(data):
            space = data.index(b" ", start)
            end = start + int(data[start:space])
            key, equals, value = data[space + 1 : end - 1].partition(b"=")
            if not equals or data[end - 1 : end] != b"\n":
                raise ValueError
            start = end
            if key == b"path":
                extended.path = value.decode("utf-8", "backslashreplace")
            elif key == b"size":
                extended.size = int(value)
                if extended.size < 0:
                    raise ValueError
            elif key.startswith(b"GNU.sparse."):
                extended.sparse = True
    except ValueError:
        raise _unfit(name, "is a damaged extended header", "pax records") from None


def _inside(name: str) -> str:
    """Returns the path of a member in its simplest form."""
    if name.startswith("/"):
        raise _unfit(name, "is an absolute path", "a path inside the checkpoint")
    path = PurePosixPath(name)
    if ".." in path.parts:
        raise _unfit(name, "leads out of its folder", "a path inside the checkpoint")
    return str(path)


def _check_kind(header: tarfile.TarInfo, name: str, sparse: bool) -> None:
    if sparse:
        raise _unfit(name, "is a sparse file", "a regular file")
    if header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        raise _unfit(name, _ODD_KINDS.get(header.type, f"is of type {header.type!r}"), "a regular file")


def _check_file(name: str, path: str) -> None:
    parent, _, file = path.rpartition("/")
    belongs = path == CHECKPOINT_FILE or (parent == VARIABLES and is_name(file) and len(file) <= _LONGEST_NAME)
    if not belongs:
        raise _unfit(name, "is no file of a checkpoint", f"{VARIABLES}/<file> or {CHECKPOINT_FILE}")


def _unfit(where: str, problem: str, expected: str) -> DoesNotFit:
    return DoesNotFit([Problem(_shown(where), problem, expected)])


def _shown(name: str) -> str:
    return (name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…") or "a member without a name"
