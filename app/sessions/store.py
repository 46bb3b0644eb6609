"""What sessions ask of the place where they are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias

from app.errors import Overloaded
from app.sessions.record import Record


class Key(NamedTuple):
    """A session of a policy."""

    policy: str
    id: str


class Limits(NamedTuple):
    """How much is kept: see the settings of the same names. `retained_versions`: of each policy.

    `per_client`: sessions that one client has begun.
    """

    sessions: int
    size_bytes: int
    idle_s: float
    retained_versions: int
    per_client: int = 12288


# Tells what is wrong with a record; empty where nothing is. Called with None and a reason where it cannot be read.
Unusable: TypeAlias = "Callable[[Key, Record | None, str], str]"


class SessionStore(Protocol):
    """Keeps the newest record of each session, until it was idle for too long.

    Every method may raise NotReady where the store cannot be reached.
    """

    def check_by(self, unusable: Unusable) -> None:
        """From now on a record of which this finds that it is wrong is dropped when it is read, and counts as none."""

    async def get(self, key: Key) -> Record | None:
        """The session's record, which is used now."""

    async def check_room(self, key: Key, retained: str | None, client: str = "") -> None:
        """Whether a session may begin. `retained`: the digest of the weights that it would keep.

        `client`: who begins it; "" where that is not known, and not counted.

        Raises:
          Overloaded: there are as many sessions, of this client or of all, or retained versions, as may be.
        """

    async def begin(self, key: Key, before: Record | None, record: Record, client: str = "") -> bool:
        """A session of `client` begins in the place of `before`, or of none; False where there is another.

        Raises as `check_room` does.
        """

    async def follow(self, key: Key, before: Record, after: Record) -> bool:
        """Puts `after` in the place of `before`; False where that is not the newest any more."""

    async def end(self, key: Key, run_id: str | None) -> Record | None:
        """Forgets the session, or only that run of it. Returns what it was; None where there is none."""

    async def retained(self, policy: str) -> set[str]:
        """The digests of the versions that sessions of the policy keep."""

    async def count(self) -> int:
        """How many sessions are open, of all policies."""

    async def close(self) -> None:
        """Nothing is asked any more."""


def no_room(sessions: int) -> Overloaded:
    """There are as many sessions as may be."""
    return Overloaded(f"{sessions} sessions are open, which is the most; try again when one has ended")


def too_many_of(client: str, sessions: int) -> Overloaded:
    """One client has begun as many as it may."""
    return Overloaded(
        f"{sessions} sessions that were begun from {client} are open, which is the most for one client; "
        "try again when one has ended"
    )


def too_many_retained(versions: int) -> Overloaded:
    """Episodes keep as many versions as may be."""
    return Overloaded(f"episodes keep {versions} versions of the policy, the most there may be; try again later")
