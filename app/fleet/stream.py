"""The files of a folder ⇄ one stream of bytes, as a member gives them to another. Blocks.

    {"<path>": <size in bytes>, …}\\n   JSON: all that follows, in this order; a manifest comes first
    the bytes of each file

Whoever reads it knows from the first line how much there is, and takes no byte more.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from saver.artifact import hash_files

PIECE_BYTES = 2**20
JSON, STREAM = "application/json", "application/octet-stream"
# A version has some files; an export's assets may be many.
MOST_LISTED_BYTES = 2**20
# Any disk has room for such a path, in a folder of ours.
_LONGEST_PATH, _LONGEST_NAME_BYTES, _DEEPEST = 1024, 255, 32
# Takes room for bytes, returns how many have come: none at the end.
ReadInto = Callable[[memoryview], int]
# Path in the folder → a file's size, its time of change (ns) and its inode when it was compared, and its sha256 (hex).
Compared = Mapping[str, tuple[int, int, int, str]]


class NotWhole(Exception):
    """What came is not what its first line says, or that is no list of files."""


def files_in(folder: Path) -> dict[str, int]:
    """Lists the files of a folder with their sizes, those at the top first; raises OSError."""
    found = sorted(folder.rglob("*"), key=lambda path: (len(path.parts), path))
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in found if path.is_file()}


def head_of(files: Mapping[str, int]) -> bytes:
    """Returns the first line."""
    return json.dumps(files).encode() + b"\n"


def stream_of(folder: Path, files: Mapping[str, int]) -> Iterator[bytes]:
    """Yields the stream in pieces.

    Raises:
      OSError: a file is gone: what was given so far is not whole.
    """
    yield head_of(files)
    for name, size in files.items():
        with (folder / name).open("rb", buffering=0) as file:
            while size:
                piece = file.read(min(PIECE_BYTES, size))
                if not piece:
                    raise OSError(f"{name} has become shorter")
                size -= len(piece)
                yield piece


def write_stream(read: ReadInto, length: int, folder: Path) -> dict[str, str]:
    """Writes the files of a stream of `length` bytes into a folder that is empty; returns their sha256 (hex) by name.

    Raises:
      NotWhole: it does not say what comes, or something else comes.
      OSError: there is no room.
    """
    room = memoryview(bytearray(PIECE_BYTES))
    files, begun = _listed(read, length, room)
    hashes = {}
    for name, size in files.items():
        path, digest = folder / name, hashlib.sha256()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb", buffering=0) as file:
            while size:
                piece, begun = (begun[:size], begun[size:]) if begun else (_piece(read, room[:size]), begun)
                digest.update(piece)
                _write(file.fileno(), piece)
                size -= len(piece)
        hashes[name] = digest.hexdigest()
    return hashes


def compared_in(folder: Path, hashes: Mapping[str, str]) -> Compared:
    """Returns what a member says of the files of a folder that it has just written, or compared; raises OSError."""
    found = {}
    for name, sha256 in hashes.items():
        known = (folder / name).lstat()
        found[name] = known.st_size, known.st_mtime_ns, known.st_ino, sha256
    return found


def link_files(given: object, folder: Path) -> dict[str, str]:
    """Links files of another folder of this disk into one that is empty; returns their sha256 (hex) by name.

    A file that the member has compared since it started, and that has not changed since, is not read again.

    `given`: {"folder": path, "files": {path in it: size}, "compared": Compared}; nobody writes to the files while they
    are there.

    Raises:
      NotWhole: these are no files in a folder.
      OSError: they cannot be linked: it is another disk, or not to be seen from here.
    """
    if not isinstance(given, dict) or not isinstance(source := given.get("folder"), str):
        raise NotWhole("it names no folder")
    for name in (files := _checked(given.get("files"))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(Path(source) / name, folder / name, follow_symlinks=False)
        if not stat.S_ISREG((folder / name).lstat().st_mode):
            raise NotWhole(f"{name} is no regular file")
    return hash_files(folder, [folder / name for name in files], _known(given.get("compared"), folder))


def _known(compared: object, folder: Path) -> Callable[[Path], str | None]:
    """Returns what gives the sha256 of a linked file where it is the very file that was compared, unchanged."""
    entries = compared if isinstance(compared, dict) else {}

    def known(path: Path) -> str | None:
        found, linked = entries.get(path.relative_to(folder).as_posix()), path.lstat()
        if not isinstance(found, list) or found[:3] != [linked.st_size, linked.st_mtime_ns, linked.st_ino]:
            return None
        sha256 = found[-1]
        return sha256 if isinstance(sha256, str) else None

    return known


def _listed(read: ReadInto, length: int, room: memoryview) -> tuple[dict[str, int], memoryview]:
    """Returns what the first line lists, and what has come of the bytes after it."""
    head = b""
    while b"\n" not in head:
        if len(head) > MOST_LISTED_BYTES:
            raise NotWhole("its first line has no end")
        head += _piece(read, room)
    line, _, rest = head.partition(b"\n")
    try:
        files = json.loads(line)
    except (ValueError, RecursionError):
        raise NotWhole("its first line is no list of files") from None
    files = _checked(files)
    if len(line) + 1 + sum(files.values()) != length:
        raise NotWhole(f"it lists {sum(files.values())} bytes of files, and {length - len(line) - 1} follow")
    return files, memoryview(rest)


def _checked(files: object) -> dict[str, int]:
    """Returns what has been read, where it is a list of files with their sizes."""
    if not isinstance(files, dict) or not all(_is_file(name, size) for name, size in files.items()):
        raise NotWhole("its first line is no list of files")
    if any(parent in files for name in files for parent in map(str, PurePosixPath(name).parents)):
        raise NotWhole("its first line lists a file as a folder")
    return files


def _is_file(name: str, size: object) -> bool:
    """Returns whether this is a path inside the folder in its only form that a disk can have, and a size."""
    if len(name) > _LONGEST_PATH or "\0" in name:
        return False
    try:
        parts = os.fsencode(name).split(b"/")
    except UnicodeEncodeError:
        return False
    path = PurePosixPath(name)
    inside = path.name and str(path) == name and not path.is_absolute() and ".." not in path.parts
    fits = len(parts) <= _DEEPEST and all(len(part) <= _LONGEST_NAME_BYTES for part in parts)
    return bool(inside) and fits and type(size) is int and size >= 0


def _piece(read: ReadInto, room: memoryview) -> memoryview:
    count = read(room)
    if not count:
        raise NotWhole("it ends too early")
    return room[:count]


def _write(descriptor: int, piece: memoryview) -> None:
    while piece:
        piece = piece[os.write(descriptor, piece) :]
