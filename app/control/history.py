"""The versions of one policy that were seen, with their states and the reasons of refusals. Event loop only."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable, Set

from app.control.plan import newest_first
from app.control.source import Scan
from app.control.states import State, Version
from app.errors import readable
from app.logs import about
from app.metrics import PolicyMetrics

log = logging.getLogger("policy_server.swap")

# The versions that are still listed once they are released or refused.
KEPT_VERSIONS = 100


class History:
    """The versions of the policy `policy`, by name and digest. `revision` grows with each change of them.

    `observer`: is called with the policy, a version, and the name of what has begun for it: see `Version.times`.
    """

    def __init__(
        self, policy: str, metrics: PolicyMetrics, observer: Callable[[str, Version, str], None] = lambda *_: None
    ) -> None:
        self.metrics = metrics
        self.revision = 0
        self._policy = policy
        self._observer = observer
        self._versions: dict[tuple[str, str], Version] = {}
        self._observed: tuple[Scan, Set[tuple[str, str]], int] | None = None

    def version(self, name: str, digest: str, train_step: int) -> Version:
        """Returns the version with this identity; a new one, found just now, where it was never seen."""
        found = self._versions.get((name, digest))
        if found is None:
            found = self._versions[name, digest] = Version(name, digest, train_step, observer=self._changed)
            self.revision += 1
        return found

    def _changed(self, version: Version, name: str) -> None:
        self.revision += 1
        self._observer(self._policy, version, name)

    def refuse(self, version: Version, reason: str, stamp: object = None) -> None:
        """Notes that the version may not serve, as its files were when they had this stamp."""
        if version.state is State.REFUSED:  # for another reason than before
            version.move(State.FOUND)
        version.move(State.REFUSED, reason)
        version.refused_stamp = stamp
        self.metrics.refused()
        log.warning("%s: refused %s: %s", self._policy, version.name, reason, extra=about(self._policy, version.name))

    def explain(self, version: Version, reason: str) -> None:
        """Notes why a version is in its state."""
        version.reason = readable(reason)
        self.revision += 1

    def mended(self, name: str) -> None:
        """Forgets what was unreadable under that name: it is so no more."""
        if self._versions.pop((name, ""), None) is not None:
            self.revision += 1

    def observe(self, scan: Scan, besides: Set[tuple[str, str]] = frozenset()) -> None:
        """Notes what a scan has found, and forgets what is gone or long done.

        `besides` are names and digests of what is there too.
        """
        if self._observed == (scan, besides, self._ended()):
            return  # a scan that found nothing new: there may be thousands
        new = [c for c in scan.complete if (c.name, c.digest) not in self._versions]
        for candidate in reversed(newest_first(new)):  # so that the newest is the latest seen
            self.version(candidate.name, candidate.digest, candidate.train_step)
        for candidate in scan.complete:
            self.mended(candidate.name)
        unreadable = scan.others | scan.unreadable
        for name, reason in unreadable.items():
            version = self.version(name, "", -1)
            if version.state is not State.REFUSED or version.reason != readable(reason):
                self._versions.pop(version.key)
                self.refuse(self.version(name, "", -1), reason)
        there = {*besides, *((candidate.name, candidate.digest) for candidate in scan.complete)}
        gone = [key for key, v in self._versions.items() if v.state is State.FOUND and key not in there]
        # Only what is gone from the folder: a refusal that is forgotten would be tried again.
        done = [
            key
            for key, v in self._versions.items()
            if v.state in (State.RELEASED, State.REFUSED) and key not in there and key[0] not in unreadable
        ]
        for key in (*gone, *done[:-KEPT_VERSIONS]):
            del self._versions[key]
            self.revision += 1
        self._observed = scan, besides, self._ended()

    def _ended(self) -> int:
        return sum(v.state is State.RELEASED or v.state is State.REFUSED for v in self._versions.values())

    def refused(self) -> set[tuple[str, object]]:
        """Returns digest and stamp of what may not serve."""
        return {(v.digest, v.refused_stamp) for v in self._versions.values() if v.state is State.REFUSED}

    @property
    def total(self) -> int:
        """How many versions there are."""
        return len(self._versions)

    def latest(self, count: int) -> list[Version]:
        """Returns the first so many of `all`, without sorting the others: there may be thousands."""
        return heapq.nlargest(count, reversed(self._versions.values()), key=lambda version: version.seen_at)

    def all(self) -> list[Version]:
        """Returns every version, the latest seen first."""
        versions = list(self._versions.values())[::-1]  # those seen at one moment too
        return sorted(versions, key=lambda version: version.seen_at, reverse=True)
