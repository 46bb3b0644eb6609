"""Versions that were tried and stopped: nothing but their names, asked for by an operator, has them serve."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from app.control.history import History
from app.control.plan import Candidate
from app.control.source import Scan
from app.control.states import State
from app.control.trial import Stopped

# The newest of them are known.
_MOST = 50


class StoppedVersions:
    """Those of one policy. `known`: as they are saved."""

    def __init__(self) -> None:
        self.known: tuple[Stopped, ...] = ()

    def add(self, digest: str, reason: str) -> None:
        """Notes a version that was stopped."""
        self.known = (*self.known, Stopped(digest, reason))[-_MOST:]

    def forget(self, digest: str) -> None:
        """Forgets one that serves now."""
        self.known = tuple(stopped for stopped in self.known if stopped.digest != digest)

    def allowed(self, candidates: Iterable[Candidate]) -> list[Candidate]:
        """Returns the others of these."""
        stopped = {stopped.digest for stopped in self.known}
        return [candidate for candidate in candidates if candidate.digest not in stopped]

    def refuse(self, history: History, scan: Scan, used: Collection[str]) -> None:
        """Refuses those that are there still. `used`: digests of what serves or is tried again: an operator asked."""
        reasons = {stopped.digest: stopped.reason for stopped in self.known if stopped.digest not in used}
        for candidate in scan.complete:
            if candidate.digest in reasons:
                version = history.version(candidate.name, candidate.digest, candidate.train_step)
                if version.state is not State.REFUSED:
                    version.find()
                    history.refuse(version, reasons[candidate.digest], candidate.stamp)
