"""Files of versions that were deleted: the next version's are written over them.

A new file takes new pages of the system's cache, and blocks of the disk: where a virtual machine gives free pages back
to its host, up to 150 ms for 50 MB, and pages that are there 12 (docs/decisions/0039).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from app.engine.savedmodel.tensor_files import LARGE_BYTES
from saver.artifact.publishing import staged_folder


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
        """Notes the large ones of these files of a version, at its place; what it had no use for is deleted."""
        with contextlib.suppress(OSError):  # a file system without second names has no spare files
            for spare in self._spare():
                spare.unlink()
            for path in [version / name for name in names]:
                if path.stat().st_size >= LARGE_BYTES:
                    self._link(path, version)

    def opened(self, target: Path, size: int) -> BinaryIO:
        """Opens a new file to be written: a spare one, still with its bytes, for what is large, or an empty one."""
        if size >= LARGE_BYTES:
            with contextlib.suppress(OSError):
                for spare in self._spare():
                    if _is_unused(spare):
                        spare.rename(target)
                        return target.open("r+b")
        return target.open("wb")

    def _link(self, path: Path, version: Path) -> None:
        if self._folder is None:
            self._folder = self._stack.enter_context(staged_folder(version.with_name("spare")))
        self._count += 1
        name = self._folder / str(self._count)
        os.link(path, name)
        if name.stat().st_nlink < 2:  # a file system that does not count them
            name.unlink()

    def _spare(self) -> list[Path]:
        """Files that no version has any more."""
        folder = self._folder
        return [] if folder is None else [path for path in folder.iterdir() if path.stat().st_nlink == 1]


def _is_unused(path: Path) -> bool:
    """Whether nobody has the file open: a version that is given to another server, say, may be deleted meanwhile."""
    if not hasattr(fcntl, "F_SETLEASE"):
        return False
    with path.open("r+b") as file:
        # Whoever opens it meanwhile has this process get a signal, which ends it where it is the usual one.
        fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
        try:
            # The system grants this to the only one who has it open. It ends with the file's closing.
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError:
            return False
        return os.fstat(file.fileno()).st_nlink == 1
