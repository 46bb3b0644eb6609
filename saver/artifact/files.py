"""Files of a folder: hash them, compare them with a manifest, read and write manifests."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

# Names of policies and checkpoints. A leading dot is what a folder still being written has.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_CHUNK_BYTES = 1 << 20


class IncompleteError(Exception):
    """A folder does not hold what its manifest says: still being written, damaged, or mixed from two saves."""


def is_name(text: str) -> bool:
    """Whether `text` may name a policy or a checkpoint: `[A-Za-z0-9][A-Za-z0-9._-]*`."""
    return _NAME.fullmatch(text) is not None


def hash_files(folder: Path, paths: list[Path], known: Callable[[Path], str | None] = lambda _: None) -> dict[str, str]:
    """sha256 (hex) of each file, keyed by its path relative to `folder`, in the order of the keys.

    `known` gives the hashes that need not be worked out.

    Raises:
      OSError: a path cannot be read, or is no regular file.
    """
    hashes = {}
    for path in sorted(paths):
        digest = known(path)
        if digest is None:
            with _open_regular(path) as file:
                digest = _sha256(file)
        hashes[path.relative_to(folder).as_posix()] = digest
    return hashes


def digest_of(hashes: Mapping[str, str]) -> str:
    """One sha256 (hex) for a set of files, from their names and hashes. The identity of a version."""
    lines = "".join(f"{hashes[name]}  {name}\n" for name in sorted(hashes))
    return hashlib.sha256(lines.encode()).hexdigest()


def check_files(folder: Path, hashes: Mapping[str, str]) -> None:
    """Compares the files of `folder` with `hashes`.

    Raises:
      IncompleteError: a file is missing, leads outside the folder, or has other bytes; the message names it.
    """
    for name, expected in hashes.items():
        with _opened_inside(folder, name) as file:
            _compare(name, _sha256(file), expected)


def _empty(target: Path, _: int) -> BinaryIO:
    return target.open("wb")


def copy_files(
    folder: Path,
    names: Iterable[str],
    destination: Path,
    hashes: Mapping[str, str],
    opened: Callable[[Path, int], BinaryIO] = _empty,
) -> dict[str, str]:
    """Copies files of `folder` into the folder `destination` and compares them with `hashes`, in one reading.

    What was compared is then what is used, whatever becomes of the originals.

    Args:
      folder: where the originals lie.
      names: paths relative to `folder`, with slashes.
      destination: where the copies go, under the same names.
      hashes: sha256 (hex) by name; a name that is not in it is not compared.
      opened: opens a copy to be written, at a path where nothing lies, for about so many bytes.

    Returns:
      sha256 (hex) of each copy, by name.

    Raises:
      IncompleteError: as `check_files`.
      OSError: there is no room for a copy.
    """
    found = {}
    for name in sorted(names):
        digest = hashlib.sha256()
        with _opened_inside(folder, name) as original:  # before anything is made: the name may lead outside
            target = destination / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with opened(target, os.fstat(original.fileno()).st_size) as copy:
                while chunk := _read_chunk(original, name):
                    digest.update(chunk)
                    copy.write(chunk)
                copy.truncate()
        found[name] = digest.hexdigest()
        _compare(name, found[name], hashes.get(name, found[name]))
    return found


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a manifest. Only a regular file is read: a FIFO in its place would block.

    Raises:
      FileNotFoundError: there is no such file.
      IncompleteError: it is no JSON object, no regular file, or cannot be read.
    """
    try:
        data = json.loads(_bytes_of(path))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise IncompleteError(f"{path.name} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise IncompleteError(f"{path.name} is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise IncompleteError(f"{path.name} holds {type(data).__name__}, expected an object")
    return data


def read_manifest(path: Path, version: int) -> dict[str, Any] | None:
    """The JSON object in a manifest of that format version; None where there is no such file.

    Raises:
      IncompleteError: it is no JSON object, or one of another format version.
    """
    try:
        data = read_json(path)
    except FileNotFoundError:
        return None
    if data.get("format") != version:
        raise IncompleteError(f"{path.name} has format {data.get('format')!r}, expected {version}")
    return data


def write_json(path: Path, data: Mapping[str, Any], sync: bool = False) -> None:
    """Writes a manifest beside `path` and renames it into place: a reader finds the old one or the new one.

    Only with `sync` is the disk asked to keep it; `publish` does that for a whole folder.
    """
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    with staged.open("w", encoding="utf-8") as file:
        json.dump(data, file, indent=1, allow_nan=False)
        file.write("\n")
        if sync:
            file.flush()
            os.fsync(file.fileno())
    staged.replace(path)


@contextlib.contextmanager
def _opened_inside(folder: Path, name: str) -> Iterator[io.BufferedReader]:
    """The file `name` of `folder`, which no link may lead out of. Raises IncompleteError."""
    path = folder / name
    try:
        is_inside = path.resolve().is_relative_to(folder.resolve())
    except ValueError:  # a NUL in it
        raise IncompleteError(f"{name!r} is no name of a file") from None
    if not is_inside:
        raise IncompleteError(f"{name} leads outside {folder.name}")
    try:
        file = _open_regular(path)
    except FileNotFoundError:
        raise IncompleteError(f"{name} is missing") from None
    except OSError as error:
        raise IncompleteError(f"{name} cannot be read: {error.strerror}") from None
    with file:
        yield file


def _read_chunk(file: io.BufferedReader, name: str) -> bytes:
    try:
        return file.read(_CHUNK_BYTES)
    except OSError as error:
        raise IncompleteError(f"{name} cannot be read: {error.strerror}") from None


def _sha256(file: io.BufferedReader) -> str:
    """What `hashlib.file_digest` gives, which Python 3.11 has and 3.9 has not."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(_CHUNK_BYTES))
    while count := file.readinto(buffer):
        digest.update(buffer[:count])
    return digest.hexdigest()


def _compare(name: str, found: str, expected: str) -> None:
    if found != expected:
        raise IncompleteError(f"{name} has sha256 {found[:12]}…, its manifest says {expected[:12]}…")


def _bytes_of(path: Path) -> bytes:
    """All bytes of a small file, without a file object, which takes three times as long: there may be thousands."""
    descriptor = _descriptor_of(path)
    try:
        chunks = []
        while chunk := os.read(descriptor, _CHUNK_BYTES):
            chunks.append(chunk)
        return b"".join(chunks)
    finally:
        os.close(descriptor)


def _open_regular(path: Path) -> io.BufferedReader:
    """Opens a file for reading; raises as `_descriptor_of` does."""
    return open(_descriptor_of(path), "rb")


def _descriptor_of(path: Path) -> int:
    """Opens a file for reading. Raises OSError for whatever is no regular file, and does not wait for a FIFO."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "not a regular file", str(path))
