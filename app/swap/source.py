"""Which checkpoints are there: looks at a policy's folder. Blocks; runs in the control lane."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG
from typing import Protocol

from app.errors import Incomplete, SwapRefused, UnknownVersion, is_passing
from app.folders.foreign import NOT_A_FOLDER, foreign_files, foreign_folder, no_folder, shown
from app.swap.plan import Candidate, newest_first
from app.swap.states import EXPORT
from saver.artifact import CHECKPOINTS_FOLDER, is_name

# tf-agents' trainers export to policies/{policy,collect_policy,greedy_policy} with one folder of checkpoints.
_TRAINER_FOLDERS = ("policy", "collect_policy", "greedy_policy")
_NO_NAME = "its name cannot be asked for: expected letters, digits, '.', '_' and '-'"
_Stamp = tuple[tuple[str, int, int, int, int], ...]


class Identity(Protocol):
    """What `identify` returns."""

    @property
    def digest(self) -> str:
        """The sha256 over all files of the checkpoint."""

    @property
    def train_step(self) -> int:
        """Its train step; -1 if unknown."""


@dataclass
class Sight:
    """What one look found: complete checkpoints, incomplete ones (why), and unreadable ones (why).

    `unsettled` are the incomplete ones that changed just now: another look is worth it soon. `others` lie among
    them and lead to no folder (why).
    """

    complete: list[Candidate] = field(default_factory=list)
    incomplete: dict[str, str] = field(default_factory=dict)
    unsettled: set[str] = field(default_factory=set)
    unreadable: dict[str, str] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)

    def names(self) -> set[str]:
        """Every checkpoint that is there, whatever its condition."""
        return {*(candidate.name for candidate in self.complete), *self.incomplete, *self.unreadable}

    def named(self, name: str) -> Candidate:
        """The complete checkpoint of that name.

        Raises:
          SwapRefused: it is not complete, or cannot be read.
          UnknownVersion: there is none; the message lists the newest.
        """
        for candidate in self.complete:
            if candidate.name == name:
                return candidate
        for kind, reasons in (("refused", self.unreadable), ("incomplete", self.incomplete)):
            if name in reasons:
                raise SwapRefused(f"checkpoint {name} is {kind}: {reasons[name]}")
        if name in self.others:
            raise UnknownVersion(f"no checkpoint {name!r}: {self.others[name]}")
        there = sorted((candidate.name for candidate in newest_first(self.complete)[:5]), reverse=True)
        raise UnknownVersion(f"no checkpoint {name!r}; the newest are: {', '.join(there) or 'none'}")


def checkpoint_folders(policy: Path) -> list[Path]:
    """Where a policy's checkpoints may lie. Neither has to exist yet."""
    folders = [policy / CHECKPOINTS_FOLDER]
    if policy.name in _TRAINER_FOLDERS:
        folders.append(policy.parent / CHECKPOINTS_FOLDER)
    return folders


class Source:
    """Looks again and again at one policy's checkpoints; reads only what has changed since the last look.

    `identify(folder, rest_s)` tells a checkpoint's identity, or raises Incomplete or SwapRefused. `more` are folders
    outside the policy's own that are looked into as well; of one name in several folders, theirs wins.
    """

    def __init__(self, policy: Path, identify: Callable[[Path, float], Identity], more: Sequence[Path] = ()) -> None:
        self.folders = [*more, *checkpoint_folders(policy)]
        self._identify = identify
        self._known: dict[Path, tuple[_Stamp, Identity | str]] = {}

    def look(self, rest_s: float, afresh: bool = False) -> Sight:
        """Every checkpoint that is there now. `afresh` forgets what earlier looks have found."""
        if afresh:
            self._known.clear()
        sight = Sight()
        present = {folder for folder in self._folders(sight) if self._look_at(folder, rest_s, sight)}
        self._known = {folder: known for folder, known in self._known.items() if folder in present}
        return sight

    def _folders(self, sight: Sight) -> list[Path]:
        found: dict[str, Path] = {}
        for parent in self.folders:
            try:
                names = sorted(os.listdir(parent))
            except FileNotFoundError:
                continue  # not there yet
            except OSError as error:
                if is_passing(error) and error.errno != errno.EACCES:
                    raise  # or all that is there would seem to be gone
                sight.unreadable[parent.name] = f"no checkpoint can be looked for: {error.strerror}"
                continue
            files = []
            for name in names:
                path = parent / name
                if name.startswith((".", "_")):
                    continue  # being written
                if os.path.isfile(path):
                    files.append(name)
                elif (reason := no_folder(path)) is not None:
                    sight.others[shown(name)] = reason
                elif not is_name(name):
                    sight.others[shown(name)] = _NO_NAME
                elif name == EXPORT:
                    sight.others[f"{parent.name}/{name}"] = "its name is that of the export's own weights"
                else:
                    found.setdefault(name, path)
            for name, reason in foreign_files(files).items():
                kind = sight.others if reason is NOT_A_FOLDER else sight.unreadable
                kind.setdefault(shown(name), reason)
        return list(found.values())

    def _look_at(self, folder: Path, rest_s: float, sight: Sight) -> bool:
        stamp = _stamp(folder)
        known = self._known.get(folder)
        identity: Identity | str
        if known is not None and known[0] == stamp:
            identity = known[1]
        else:
            try:
                reason = foreign_folder(folder)
                identity = reason if reason is not None else self._identify(folder, rest_s)
            except Incomplete as error:
                sight.incomplete[folder.name] = str(error)
                if not error.settled:
                    sight.unsettled.add(folder.name)
                return False
            except FileNotFoundError:
                return False  # it has gone just now
            except Exception as error:  # one odd folder must not stop the looks at the others
                identity = _reason(error)
                if _for_now(error):  # the next look reads it again, whatever its files look like
                    sight.unreadable[folder.name] = identity
                    return False
            self._known[folder] = (stamp, identity)
        if isinstance(identity, str):
            sight.unreadable[folder.name] = identity
        else:
            written_at = max((mtime / 1e9 for _, _, mtime, *_ in stamp), default=0.0)
            sight.complete.append(
                Candidate(folder.name, folder, identity.digest, identity.train_step, stamp, written_at)
            )
        return True


def _reason(error: Exception) -> str:
    if isinstance(error, SwapRefused):
        return str(error)
    what = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
    return f"it cannot be read: {what}"[:300]


def _for_now(error: Exception) -> bool:
    return is_passing(error) or (isinstance(error, SwapRefused) and error.for_now)


def _stamp(folder: Path) -> _Stamp:
    """Changes whenever a file of the checkpoint does: names, sizes, times, inodes, who may read it."""
    stamp = []
    for path in (folder, folder / "variables"):
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):  # it has gone just now, or is a link that leads nowhere
                        stat = entry.stat()
                        if not S_ISREG(stat.st_mode):
                            continue
                        stamp.append((entry.name, stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_mode))
        except OSError:
            continue
    return tuple(sorted(stamp))
