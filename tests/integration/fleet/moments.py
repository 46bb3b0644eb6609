"""Moments of a fleet's swap, as its bytes show them: where a member can be killed, each time at the same point.

What members write to Redis is known by fields of its JSON (app/fleet/protocol.py): a state in each step of the one
that coordinates, a report in each step of the others.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from tests.support.fleet import Fleet, Member
from tests.support.relay import Moment

_STATE, _REPORT = b'"last_epoch"', b'"prepared"'
# Of one swap: states are claimed, preparing, holding, committed, released; reports prepared, held, applied.
STATES = ("claimed", "preparing", "holding", "committed", "released")
REPORTS = ("prepared", "held", "applied")
PIECES = (1, 3)


@dataclass(frozen=True)
class Stage:
    """Who is killed, and when.

    `who`: "coordinator", "follower", "giver" or "receiver"; `number`: of its state, report, or piece of a file, from 1;
    `after`: when that has been sent, or just before.
    """

    who: str
    number: int
    after: bool

    def __str__(self) -> str:
        names = {"coordinator": STATES, "follower": REPORTS}.get(self.who)
        what = names[self.number - 1] if names else f"piece {self.number}"
        return f"{self.who} {'after' if self.after else 'before'} {what}"

    def of(self, fleet: Fleet, coordinator: int, hit: Callable[[Member], None]) -> list[Moment]:
        """Has `hit` called with the member, once, in the next swap; the last member's folder lacks the version."""
        receiver = len(fleet.members) - 1
        others = [member for member in fleet.members if member.number != coordinator]
        if self.who == "coordinator":
            member = fleet[coordinator]
            return [member.redis.at(Moment(_STATE, lambda: hit(member), self.number, self.after))]
        if self.who == "follower":
            member = random.choice(others)
            return [member.redis.at(Moment(_REPORT, lambda: hit(member), self.number, self.after))]
        # Who gives is found by chance.
        hits = [member if self.who == "giver" else fleet[receiver] for member in fleet.members]
        return [
            giver.given.at(Moment(b"", lambda one=one: hit(one), self.number, self.after, from_server=True))  # type: ignore[misc]
            for giver, one in zip(fleet.members, hits, strict=True)
        ]


ALL = [
    *(Stage("coordinator", number, after) for number in range(1, 6) for after in (False, True)),
    *(Stage("follower", number, after) for number in range(1, 4) for after in (False, True)),
    *(Stage(who, piece, False) for who in ("giver", "receiver") for piece in PIECES),
]
FEW = [
    Stage("coordinator", 3, True),
    Stage("follower", 2, False),
    Stage("giver", 3, False),
    Stage("coordinator", 4, True),
]
