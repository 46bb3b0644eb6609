"""Stamps, which show whether a checkpoint's files have changed since they were read, without reading them again."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG

# Name, size, times of the last change of content and of anything, inode, who may read it.
FileStamp = tuple[str, int, int, int, int, int]
# A file that changes twice within one tick of its file system's clock looks the same: FAT has ticks of 2 s.
_TICK_NS = 2_000_000_000
_VARIABLES, _ASSETS = "variables/", "assets/"


@dataclass(frozen=True)
class Stamp:
    """The files of a checkpoint, and the folders that they lie in, as they were at one moment.

    `settled`: they had not changed for so long that whatever changes later shows.
    """

    files: tuple[FileStamp, ...]
    folders: tuple[FileStamp, ...]
    settled: bool

    def holds(self, folder: Path) -> bool:
        """Returns whether nothing has changed since: one stat of each file, no listing. False where it is unknown."""
        if not self.settled:
            return False
        top = str(folder)
        try:
            return all(_of(known[0], os.stat(f"{top}/{known[0]}")) == known for known in (*self.folders, *self.files))
        except OSError:
            return False

    @property
    def has_variables(self) -> bool:
        """True where there is a folder of variables."""
        return any(name == _VARIABLES for name, *_ in self.folders)

    @property
    def written_at(self) -> float:
        """Unix time of the newest file; 0 without any."""
        return max([stamp[2] for stamp in self.files], default=0) / 1e9


def stamp_of(folder: Path) -> Stamp:
    """Reads the stamp of the files right in a folder and in its `variables/` and `assets/`."""
    files: list[FileStamp] = []
    folders: list[FileStamp] = []
    odd = False
    top = str(folder)
    for below in ("", _VARIABLES, _ASSETS):
        try:
            folders.append(_of(below, os.stat(f"{top}/{below}")))  # before its entries: what comes meanwhile shows
            with os.scandir(f"{top}/{below}") as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        continue
                    try:
                        status = entry.stat()
                    except OSError:  # it has gone just now, or is a link that leads nowhere
                        odd = True
                        continue
                    if S_ISREG(status.st_mode):
                        files.append(_of(below + entry.name, status))
                    else:
                        odd = True
        except OSError as error:
            odd |= below != _ASSETS or not isinstance(error, FileNotFoundError)  # few have any
    changed_at = max([stamp[3] for stamp in (*folders, *files)], default=0)
    return Stamp(tuple(sorted(files)), tuple(folders), not odd and changed_at < time.time_ns() - _TICK_NS)


def _of(name: str, status: os.stat_result) -> FileStamp:
    return name, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_mode
