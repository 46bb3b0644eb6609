"""Folders on disk: hash them, compare them with a manifest, and publish them so that nobody sees half of one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# Names of policies and checkpoints. A leading dot is what a folder still being written has.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class IncompleteError(Exception):
    """A folder does not hold what its manifest says: still being written, damaged, or mixed from two saves."""


def is_name(text: str) -> bool:
    """Whether `text` may name a policy or a checkpoint: `[A-Za-z0-9][A-Za-z0-9._-]*`."""
    return _NAME.fullmatch(text) is not None


def hash_files(folder: Path, paths: list[Path]) -> dict[str, str]:
    """sha256 (hex) of each file, keyed by its path relative to `folder`, in the order of the keys."""
    hashes = {}
    for path in sorted(paths):
        with path.open("rb") as file:
            hashes[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
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
    root = folder.resolve()
    for name, expected in hashes.items():
        path = folder / name
        if not path.resolve().is_relative_to(root):
            raise IncompleteError(f"{name} leads outside {folder.name}")
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            raise IncompleteError(f"{name} is missing") from None
        except OSError as error:
            raise IncompleteError(f"{name} cannot be read: {error.strerror}") from None
        if found != expected:
            raise IncompleteError(f"{name} has sha256 {found[:12]}…, its manifest says {expected[:12]}…")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a manifest.

    Raises:
      FileNotFoundError: there is no such file.
      IncompleteError: it is no JSON object, or cannot be read.
    """
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise IncompleteError(f"{path.name} cannot be read: {error.strerror}") from None
    except ValueError as error:
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


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Writes a manifest beside `path` and renames it into place: a reader finds the old one or the new one."""
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    with staged.open("w", encoding="utf-8") as file:
        json.dump(data, file, indent=1, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    staged.replace(path)


@contextlib.contextmanager
def staged_folder(destination: Path) -> Iterator[Path]:
    """Gives a new hidden folder beside `destination`; on leaving, it is gone unless it was renamed away.

    It lies beside and not in the system's temporary folder because a rename is atomic only inside one file
    system. The leading dot keeps readers from taking it for a checkpoint.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
    try:
        staged.chmod(0o755)  # mkdtemp makes it private; the server may run as another user
        yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def sync_tree(folder: Path) -> None:
    """Asks the disk to keep every file and folder below `folder`, so that a power cut cannot undo a rename."""
    for path in [*(p for p in folder.rglob("*")), folder]:
        _sync(path)


def publish(staged: Path, destination: Path) -> None:
    """Puts the finished folder `staged` where `destination` is or was.

    The only moment at which a reader may miss the folder is the one between the two renames that replace
    an earlier one; it never meets a mixture.
    """
    sync_tree(staged)
    while True:
        try:
            staged.rename(destination)
            break
        except OSError:
            if not destination.exists():
                raise
            with contextlib.suppress(FileNotFoundError):
                discard(destination)
    _sync(destination.parent)


def publish_over(staged: Path, destination: Path) -> None:
    """Replaces the files of an export that exists, one by one; the manifest goes last.

    Files of other owners in `destination` (its checkpoints) stay. Between the first file and the manifest
    the folder is mixed, and the digests in its manifest say so.
    """
    sync_tree(staged)
    kept = {path.relative_to(staged) for path in staged.rglob("*")}
    for name in sorted(kept, key=lambda name: (name.suffix == ".json" and len(name.parts) == 1, name)):
        source, target = staged / name, destination / name
        if source.is_dir():
            target.mkdir(exist_ok=True)
        else:
            source.replace(target)
    for path in (destination / "variables").iterdir():
        if path.relative_to(destination) not in kept:
            path.unlink()
    _sync(destination)


def discard(folder: Path) -> None:
    """Deletes a folder by renaming it first: a reader sees all of it or none."""
    gone = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    try:
        folder.rename(gone / folder.name)
    finally:
        shutil.rmtree(gone, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
