"""Files of versions that were deleted: the next version's are written over them.

A new file takes new pages of the system's cache, and blocks of the disk: where a virtual machine gives free pages back
to its host, up to 150 ms for 50 MB, and pages that are there 12 (docs/decisions/0039).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from saver.artifact.publishing import staged_folder

_LARGE_BYTES = 1 << 20


class SpareFiles:
    """Those of one policy, in a hidden folder beside its versions, which goes with this process.

    Each has two names for as long as its version is there, and one after that.
    """

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._folder: Path | None = None
        self._count = 0
        weakref.finalize(self, self._stack.close)

    def note(self, version: Path, names: Iterable[str]) -> None:
        """Notes these files of a version in its place: they are spare once it has been deleted."""
        with contextlib.suppress(OSError):  # a file system without second names has no spare files
            for path in [version / name for name in names]:
                if path.stat().st_size >= _LARGE_BYTES:
                    self._count += 1
                    os.link(path, self._made_beside(version) / str(self._count))

    def opened(self, target: Path, size: int) -> BinaryIO:
        """Opens a new file to be written: a spare one, still with its bytes, for what is large, or an empty one."""
        if size >= _LARGE_BYTES:
            for spare in self._found():
                if _is_unused(spare):
                    spare.rename(target)
                    return target.open("r+b")
                spare.unlink()
        return target.open("wb")

    def _made_beside(self, version: Path) -> Path:
        if self._folder is None:
            self._folder = self._stack.enter_context(staged_folder(version.with_name("spare")))
        return self._folder

    def _found(self) -> list[Path]:
        """Files that no version has any more."""
        if self._folder is None or not self._folder.is_dir():
            return []
        return [path for path in self._folder.iterdir() if path.stat().st_nlink == 1]


def _is_unused(path: Path) -> bool:
    """Whether nobody has the file open: a version that is given to another server, say, may be deleted meanwhile."""
    if not hasattr(fcntl, "F_SETLEASE"):
        return False
    try:
        with path.open("r+b") as file:
            fcntl.fcntl(
                file, fcntl.F_SETLEASE, fcntl.F_WRLCK
            )  # which the system grants to the only one; closing ends it
    except OSError:
        return False
    return True
