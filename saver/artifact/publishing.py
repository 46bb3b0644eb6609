"""Folders put where readers look for them, so that nobody sees half of one, also when the writer is killed."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import re
import secrets
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from saver.artifact.files import IncompleteError, read_json

# What is being written or deleted: .saver.<machine>.<name>.<random>. `machine` changes with each boot.
_HIDDEN = re.compile(r"\.saver\.([0-9a-f]{8})\..+")
_OTHER_MACHINE_S = 24 * 3600
# What of an export is replaced last.
_GRAPH, _MANIFEST = "saved_model.pb", "policy.json"


@contextlib.contextmanager
def staged_folder(destination: Path) -> Iterator[Path]:
    """Gives a new hidden folder beside `destination`; on leaving, it is gone unless it was renamed away.

    It lies beside and not in the system's temporary folder because a rename is atomic only inside one file
    system. The leading dot keeps readers from taking it for a checkpoint. What killed writers have left beside
    `destination` is deleted first.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    around = _around(destination)
    sweep(around)
    staged = around / _hidden_name(destination).name
    with contextlib.ExitStack() as stack:
        stack.callback(_delete, staged)
        with locked(around):  # or it could be swept before it has a lock
            staged.mkdir()
            stack.enter_context(locked(staged))
        yield staged


def _around(destination: Path) -> Path:
    """The folder to write beside `destination` in; the destination itself where it is a disk of its own (a volume)."""
    if destination.is_dir() and destination.stat().st_dev != destination.parent.stat().st_dev:
        return destination
    return destination.parent


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps the folder's flock: one holder at a time, on this machine; others wait.

    It leaves no file and dies with its process. Where the file system has none, nobody is kept out.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing leaves it to a child that was forked meanwhile
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Asks the disk to keep every file and folder below `folder`, so that a power cut cannot undo a rename."""
    for path in [*(p for p in folder.rglob("*")), folder]:
        _sync(path)


def publish(staged: Path, destination: Path, sync: bool = True) -> None:
    """Puts the finished folder `staged` where `destination` is or was; an earlier one ends up deleted.

    Without `sync` the disk is not asked to keep it: for what its readers compare with digests, and can do without.

    A reader finds the old folder or the new one, at any moment. Where a system cannot exchange two folders in
    one step (Linux can, on most file systems), there is a moment at which it finds none.
    """
    if sync:
        sync_tree(staged)
    with locked(destination.parent):
        while True:
            try:
                staged.rename(destination)
                break
            except OSError:
                if not os.path.lexists(destination):
                    raise
            if _exchange(staged, destination):
                break  # `staged` is the old one now, and goes as every staged folder does
            with contextlib.suppress(FileNotFoundError):
                discard(destination)
    if sync:
        _sync(destination.parent)


def publish_over(staged: Path, destination: Path) -> None:
    """Replaces the files of an export one by one, the manifest last; the first export is a rename.

    Old files of the export go, those of other owners in `destination` (its checkpoints) stay. Between the first
    file and the manifest the folder is mixed, and the digests in the old manifest say so; where there is no
    manifest, the folder has no graph meanwhile. Writers on one machine take turns.
    """
    sync_tree(staged)
    with locked(destination.parent):
        first = not destination.exists()
        if first:
            staged.rename(destination)
    if first:
        _sync(destination.parent)
        return
    with locked(destination):
        _replace_files(staged, destination)


def discard(folder: Path) -> None:
    """Deletes a folder by renaming it first: a reader sees all of it or none."""
    gone = _hidden_name(folder)
    folder.rename(gone)
    _delete(gone)


def _replace_files(staged: Path, destination: Path) -> None:
    new = {path.relative_to(staged) for path in staged.rglob("*")}
    folders = sorted(name for name in new if (staged / name).is_dir())
    # What needs room on the disk comes before what changes the old export: new folders, new names.
    files = sorted(new.difference(folders), key=lambda name: ((destination / name).exists(), name))
    last = [name for name in (Path(_GRAPH), Path(_MANIFEST)) if name in new]
    stale = _files_of_export(destination) - new
    for name in folders:
        (destination / name).mkdir(exist_ok=True)
    if not (destination / _MANIFEST).exists():
        (destination / _GRAPH).unlink(missing_ok=True)
    for name in files:
        if name not in last:
            (staged / name).replace(destination / name)
    _delete_files(destination, stale, kept=set(folders))
    for name in last:
        for folder in (destination, *(destination / folder for folder in folders)):
            _sync(folder)
        (staged / name).replace(destination / name)
    _sync(destination)


def _files_of_export(folder: Path) -> set[Path]:
    """What an export in `folder` has written: the files of its manifest; those of a SavedModel where it has none."""
    try:
        listed = [Path(name) for name in read_json(folder / _MANIFEST)["files"]]
        return {name for name in listed if not name.is_absolute() and ".." not in name.parts}
    except (OSError, IncompleteError, KeyError, TypeError):
        if not any((folder / name).exists() for name in (_GRAPH, "fingerprint.pb")):
            return set()  # whatever it is, it is no export
        found = [path for top in ("assets", "serving", "variables") for path in (folder / top).rglob("*")]
        return {path.relative_to(folder) for path in found if path.is_file()}


def _delete_files(folder: Path, names: set[Path], kept: set[Path]) -> None:
    """Deletes these files, and the folders that are empty then, but for those in `kept`."""
    for name in sorted(names):
        if (folder / name).parent.resolve().is_relative_to(folder.resolve()):  # not through a link to elsewhere
            (folder / name).unlink(missing_ok=True)
    tops = {Path("assets"), *(parent for name in names for parent in list(name.parents)[:-1])}
    for empty in sorted(tops - kept, reverse=True):
        with contextlib.suppress(OSError):  # not empty: the new export's, or others' files
            (folder / empty).rmdir()


def sweep(parent: Path) -> None:
    """Deletes what killed writers have left in `parent`: our hidden folders that no process has locked."""
    with locked(parent):
        dead = [path for path in parent.iterdir() if _is_dead(path)]
    for path in dead:
        _delete(path)


def _is_dead(path: Path) -> bool:
    """Whether it is a hidden folder of ours without a writer.

    Locks of other machines cannot be seen on every shared disk: what comes from one (or from before the last
    boot) is dead after a day.
    """
    match = _HIDDEN.fullmatch(path.name)
    if match is None:
        return False
    try:
        if match[1] != _machine():
            return time.time() - path.lstat().st_mtime > _OTHER_MACHINE_S
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(descriptor)
    except OSError:  # locked, gone, no folder, or on a file system without locks
        return False
    return True


def _hidden_name(path: Path) -> Path:
    return path.with_name(f".saver.{_machine()}.{path.name[:40]}.{secrets.token_hex(4)}")


def _machine() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    except OSError:  # not Linux
        return f"{uuid.getnode():012x}"[-8:]


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two paths in one step; False where it cannot be done."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    at_cwd, exchange = -100, 2
    return renameat2 is not None and renameat2(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), exchange) == 0


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
