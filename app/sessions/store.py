"""What sessions need of the place where they are stored."""

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
    """The bounds of a store: see the settings of the same names. `retained_versions`: of each policy.

    `per_client`: open sessions that one client has started.
    """

    sessions: int
    size_bytes: int
    idle_s: float
    retained_versions: int
    per_client: int = 12288


# Returns what is wrong with a record; empty where nothing is. Called with None and a reason where it cannot be read.
Unusable: TypeAlias = "Callable[[Key, Record | None, str], str]"


class SessionStore(Protocol):
    """Keeps the newest record of each session, until it was idle for too long.

    Every method may raise NotReady where the store cannot be reached.
    """

    def check_by(self, unusable: Unusable) -> None:
        """Drops from now on each record that is read and found wrong by this function; it counts as none."""

    async def get(self, key: Key) -> Record | None:
        """Returns the session's record, which counts as used now; None where there is none."""

    async def check_room(self, key: Key, retained: str | None, client: str = "") -> None:
        """Raises where no session may start. `retained`: the digest of the weights that it would keep.

        `client`: which starts it; "" where that is not known, and not counted.

        Raises:
          Overloaded: there are as many sessions, of this client or of all, or retained versions, as may be.
        """

    async def begin(self, key: Key, before: Record | None, record: Record, client: str = "") -> bool:
        """Starts a session of `client` in the place of `before`, or of none; returns False where there is another.

        Raises as `check_room` does.
        """

    async def follow(self, key: Key, before: Record, after: Record) -> bool:
        """Puts `after` in the place of `before`; returns False where that is not the newest any more."""

    async def end(self, key: Key, run_id: str | None) -> Record | None:
        """Ends the session, or only that run of it. Returns its record; None where there is none."""

    async def retained(self, policy: str) -> set[str]:
        """Returns the digests of the versions that sessions of the policy keep."""

    async def count(self) -> int:
        """Returns how many sessions are open, of all policies."""

    async def close(self) -> None:
        """Closes the connections to the store."""


def no_room(sessions: int) -> Overloaded:
    """Returns the refusal where there are as many sessions as may be."""
    return Overloaded(f"{sessions} sessions are open, which is the most; try again when one has ended")


def too_many_of(client: str, sessions: int) -> Overloaded:
    """Returns the refusal where one client has started as many sessions as it may."""
    return Overloaded(
        f"{sessions} sessions that were started from {client} are open, which is the most for one client; "
        "try again when one has ended"
    )


def too_many_retained(versions: int) -> Overloaded:
    """Returns the refusal where episodes keep as many versions as may be."""
    return Overloaded(f"episodes keep {versions} versions of the policy, the most there may be; try again later")
