"""Folders that go with their process; those of processes that were killed go when the next server starts."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

# A younger one may belong to a server that has yet to lock it.
_YOUNG_S = 30.0


@contextlib.contextmanager
def own_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """Makes a new folder whose name starts with `prefix`, locked while it is used.

    It lies in `parent`, as a rule the system's folder for temporary files.

    Folders of that prefix that nobody has locked are deleted first.

    Raises:
      OSError: none can be made.
    """
    parent = parent or Path(tempfile.gettempdir())
    for path in parent.glob(f"{prefix}*"):
        _delete_if_left(path)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True) as name:
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _locked(descriptor)
            yield Path(name)
        finally:
            os.close(descriptor)


def emptied(folder: Path) -> Path:
    """Makes a folder anew and returns it: nothing is in it that a process which was killed has left there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _delete_if_left(folder: Path) -> None:
    """Deletes a folder of ours that no process uses any more."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            return
        if 0 <= time.time() - found.st_mtime < _YOUNG_S or not _locked(descriptor):
            return
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    """Whether this process has the lock now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
