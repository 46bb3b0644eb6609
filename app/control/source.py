"""Scans of a policy's folder, which find its checkpoints. Blocks; runs in the control thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

from app.artifacts.foreign import foreign_folder
from app.artifacts.stamps import Stamp, stamp_of
from app.control.listing import Listing
from app.control.plan import Candidate, newest_first
from app.errors import Incomplete, SwapRefused, UnknownVersion, is_passing
from saver.artifact import CHECKPOINTS_FOLDER

# tf-agents' trainers export to policies/{policy,collect_policy,greedy_policy} with one folder of checkpoints.
_TRAINER_FOLDERS = ("policy", "collect_policy", "greedy_policy")
# A scan that is not given what has changed reads so many checkpoints: the newest, the ones that changed last, and
# the others by turns. 5 ms of every two seconds, however many there are.
_NEWEST = _LATEST = 64
TURNS = 256


class Identity(Protocol):
    """Result of `identify`."""

    @property
    def digest(self) -> str:
        """The sha256 over all files of the checkpoint."""

    @property
    def train_step(self) -> int:
        """Its train step; -1 if unknown."""


@dataclass(eq=False)
class Scan:
    """Findings of one scan: complete checkpoints, incomplete ones (why), and unreadable ones (why).

    `still_changing` are the incomplete ones that changed just now: another scan is worth it soon. `others` lie among
    them and lead to no folder (why).
    """

    complete: list[Candidate] = field(default_factory=list)
    incomplete: dict[str, str] = field(default_factory=dict)
    still_changing: set[str] = field(default_factory=set)
    unreadable: dict[str, str] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)

    @cached_property
    def newest_first(self) -> list[Candidate]:
        """The complete ones, the newest first."""
        return newest_first(self.complete)

    def has(self, name: str) -> bool:
        """Returns whether a checkpoint of that name is there, whatever its condition."""
        return name in self._names or name in self.incomplete or name in self.unreadable

    @cached_property
    def _names(self) -> set[str]:
        return {candidate.name for candidate in self.complete}

    def named(self, name: str) -> Candidate:
        """Returns the complete checkpoint of that name.

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
        there = sorted((candidate.name for candidate in self.newest_first[:5]), reverse=True)
        raise UnknownVersion(f"no checkpoint {name!r}; the newest are: {', '.join(there) or 'none'}")


def checkpoint_folders(policy: Path) -> list[Path]:
    """Lists the folders in which a policy's checkpoints may lie. None has to exist yet."""
    folders = [policy / CHECKPOINTS_FOLDER]
    if policy.name in _TRAINER_FOLDERS:
        folders.append(policy.parent / CHECKPOINTS_FOLDER)
    return folders


@dataclass
class _Seen:
    """What a checkpoint was found to be. `lasting`: until its files change; else the next scan reads it again.

    `sure`: its files had been at rest for so long when they were read that no later change can have gone unnoticed.
    """

    stamp: Stamp
    found: Candidate | None = None
    incomplete: str = ""
    still_changing: bool = False
    unreadable: str = ""
    lasting: bool = False
    sure: bool = False

    @property
    def outcome(self) -> object:
        """The part of it that a scan reports."""
        return self.found, self.incomplete, self.still_changing, self.unreadable


class Source:
    """Scans one policy's checkpoints again and again; reads only what has changed since the last scan.

    `identify(folder, rest_s)` returns a checkpoint's identity, or raises Incomplete or SwapRefused. `more` are folders
    outside the policy's own that are scanned as well; of one name in several folders, theirs wins.
    """

    def __init__(self, policy: Path, identify: Callable[[Path, float], Identity], more: Sequence[Path] = ()) -> None:
        self.folders = [*more, *checkpoint_folders(policy)]
        self._identify = identify
        self._listing = Listing(self.folders)
        self._seen: dict[Path, _Seen] = {}
        self._restless: set[Path] = set()
        self._latest: deque[Path] = deque(maxlen=_LATEST)
        self._changed: deque[Iterable[str] | None] = deque()
        self._turn = 0
        self._last_scan = Scan()

    def changed(self, paths: Iterable[str] | None) -> None:
        """Has the next scan read what these paths belong to; None: everything. For any thread."""
        self._changed.append(paths)

    def scan(self, rest_s: float, afresh: bool = False, only: Collection[str] | None = None) -> Scan:
        """Finds every checkpoint that is there now; returns the same object as before where nothing has changed.

        Args:
          rest_s: how long what has no checkpoint.json has to be at rest.
          afresh: forgets what earlier scans have found out, but for what has certainly not changed since.
          only: scans new checkpoints, those that are said to have changed, those of these names, and
            a bounded number of others; None: all.
        """
        fresh = self._listing.read()
        due = self._due(fresh or set(), only)
        changed = afresh or fresh is not None
        for folder in due:
            changed |= self._look_at(folder, rest_s, afresh)
        if fresh is not None:
            there = set(self._listing.folders.values())
            self._seen = {folder: seen for folder, seen in self._seen.items() if folder in there}
            self._restless &= there
        if changed:
            self._last_scan = self._collected()
        return self._last_scan

    def _due(self, fresh: set[Path], only: Collection[str] | None) -> Collection[Path]:
        folders = self._listing.folders
        everything = only is None or len(folders) <= TURNS
        changed: set[Path] = set()
        while self._changed:
            paths = self._changed.popleft()
            everything |= paths is None
            changed |= {folder for path in paths or () if (folder := self._listing.named(path)) is not None}
        if everything or only is None:
            return folders.values()
        newest = [candidate.folder for candidate in self._last_scan.newest_first[:_NEWEST]]
        named = [folders[name] for name in only if name in folders]
        due = {*fresh, *changed, *self._restless, *self._listing.links, *named, *self._latest, *newest, *self._turns()}
        return [folder for folder in due if folders.get(folder.name) == folder]

    def _turns(self) -> list[Path]:
        """The next ones of all, so that each has its turn."""
        folders = list(self._listing.folders.values())
        start = self._turn % len(folders)
        self._turn = start + TURNS
        return (folders[start:] + folders[:start])[:TURNS]

    def _look_at(self, folder: Path, rest_s: float, afresh: bool) -> bool:
        """Whether it is something else now than it was."""
        before = self._seen.get(folder)
        anew = before is None or not before.lasting or (afresh and (not before.sure or bool(before.unreadable)))
        if before is not None and not anew and before.stamp.holds(folder):
            return False
        stamp = stamp_of(folder)
        if before is not None and not anew and before.stamp.files == stamp.files:
            before.stamp = stamp
            return False
        seen = self._read(folder, stamp, rest_s)
        self._restless.discard(folder)
        if seen is None:
            self._restless.add(folder)
            return self._seen.pop(folder, None) is not None
        if seen.still_changing or (seen.unreadable and not seen.lasting):
            self._restless.add(folder)
        self._seen[folder] = seen
        if before is not None and before.outcome == seen.outcome:
            return False
        self._latest.append(folder)
        return True

    def _read(self, folder: Path, stamp: Stamp, rest_s: float) -> _Seen | None:
        """Finds out what it is; None where it has gone just now."""
        try:
            if not stamp.has_variables and (reason := foreign_folder(folder)) is not None:
                return _Seen(stamp, unreadable=reason, lasting=True)
            identity = self._identify(folder, rest_s)
        except Incomplete as error:
            return _Seen(stamp, incomplete=str(error), still_changing=not error.settled)
        except FileNotFoundError:
            return None
        except Exception as error:  # one odd folder must not stop the scans of the others
            return _Seen(stamp, unreadable=_reason(error), lasting=not _for_now(error))
        found = Candidate(folder.name, folder, identity.digest, identity.train_step, stamp.files, stamp.written_at)
        return _Seen(stamp, found, lasting=True, sure=stamp.settled)

    def _collected(self) -> Scan:
        scan = Scan(others=dict(self._listing.others), unreadable=dict(self._listing.unreadable))
        for name, folder in self._listing.folders.items():
            seen = self._seen.get(folder)
            if seen is None:
                continue
            if seen.found is not None:
                scan.complete.append(seen.found)
            elif seen.unreadable:
                scan.unreadable[name] = seen.unreadable
            else:
                scan.incomplete[name] = seen.incomplete
                if seen.still_changing:
                    scan.still_changing.add(name)
        return scan


def _reason(error: Exception) -> str:
    if isinstance(error, SwapRefused):
        return str(error)
    what = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
    return f"it cannot be read: {what}"[:300]


def _for_now(error: Exception) -> bool:
    return is_passing(error) or (isinstance(error, SwapRefused) and error.for_now)
