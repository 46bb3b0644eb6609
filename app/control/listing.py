"""The folders that may be checkpoints: read from the listings of the folders that they lie in. Blocks."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from app.artifacts.foreign import NOT_A_FOLDER, foreign_files, no_folder, shown
from app.artifacts.names import EXPORT
from app.errors import is_passing
from saver.artifact import is_name

_NO_NAME = "its name cannot be asked for: expected letters, digits, '.', '_' and '-'"
_FOLDER, _FILE, _LINK = "folder", "file", "link"
# Name, inode, kind or why it leads to no folder.
_Entry = tuple[str, int, str]


class Listing:
    """Content of the folders `parents`, of which the first one wins where two have the same name.

    `folders` may be checkpoints, by name; `links` are those of them that are links. `others` and `unreadable` say why
    the rest is none.
    """

    def __init__(self, parents: Sequence[Path]) -> None:
        self._parents = tuple(parents)
        self._entries: list[list[_Entry] | str | None] = []
        self._inodes: dict[Path, int] = {}
        self.folders: dict[str, Path] = {}
        self.links: set[Path] = set()
        self.others: dict[str, str] = {}
        self.unreadable: dict[str, str] = {}

    def read(self) -> set[Path] | None:
        """Reads the listings; returns the folders that are new, or others than before; None where nothing has changed.

        Raises:
          OSError: no listing can be read for now, or all that is there would seem to be gone.
        """
        entries = [_entries(parent) for parent in self._parents]
        if entries == self._entries:
            return None
        self._entries = entries
        before, inodes = self._inodes, {}
        paths = {str(path): path for path in before}
        self.folders, self.links, self.others, self.unreadable = {}, set(), {}, {}
        for parent, listed in zip(self._parents, entries, strict=True):
            if isinstance(listed, str):
                self.unreadable[parent.name] = f"no checkpoint can be looked for: {listed}"
                continue
            for name, inode, kind in self._sorted_out(parent, listed or []):
                path = paths.get(f"{parent}/{name}") or parent / name
                if self.folders.setdefault(name, path) is path:
                    inodes[path] = inode
                    if kind == _LINK:
                        self.links.add(path)
        self._inodes = inodes
        return {path for path, inode in inodes.items() if before.get(path) != inode}

    def named(self, path: str) -> Path | None:
        """Returns the folder that a path lies in or is; None where it is none of these."""
        for parent in self._parents:
            if path.startswith(f"{parent}/"):
                name = path[len(str(parent)) + 1 :].split("/", 1)[0]
                if name in self.folders:
                    return self.folders[name]
        return None

    def _sorted_out(self, parent: Path, listed: list[_Entry]) -> list[_Entry]:
        """The entries that may be checkpoints; why the others are none is noted."""
        files, kept = [], []
        for name, inode, kind in sorted(listed):
            if kind == _FILE:
                files.append(name)
            elif kind not in (_FOLDER, _LINK):
                self.others[shown(name)] = kind
            elif not is_name(name):
                self.others[shown(name)] = _NO_NAME
            elif name == EXPORT:
                self.others[f"{parent.name}/{name}"] = "its name is that of the export's own weights"
            else:
                kept.append((name, inode, kind))
        for name, reason in foreign_files(files).items():
            kinds = self.others if reason is NOT_A_FOLDER else self.unreadable
            kinds.setdefault(shown(name), reason)
        return kept


def _entries(parent: Path) -> list[_Entry] | str | None:
    """What lies in a folder, but for what is being written; why it cannot be read; None where it is not there yet."""
    try:
        with os.scandir(parent) as entries:
            return [
                (entry.name, entry.inode(), _kind(entry)) for entry in entries if not entry.name.startswith((".", "_"))
            ]
    except FileNotFoundError:
        return None
    except OSError as error:
        if is_passing(error) and error.errno != errno.EACCES:
            raise
        return str(error.strerror)


def _kind(entry: os.DirEntry[str]) -> str:
    if entry.is_dir(follow_symlinks=False):
        return _FOLDER
    if os.path.isfile(entry.path):
        return _FILE
    return no_folder(Path(entry.path)) or _LINK
