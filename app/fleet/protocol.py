"""What the members of a fleet agree on for one policy, and every step from one agreement to the next.

Two phases, fenced by an epoch: a change is prepared by all members that take part, then they all hold their requests
for a moment, then it is committed, and each switches. Everything here is a pure function of values; `store` makes each
step one compare-and-set in Redis, so that of two members that step at the same time one starts again.

    claimed ──► preparing ──► holding ──► (committed) claimed ──► none
       └────────────┴─────────────┴──► none: given up, nothing has changed
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping

import msgspec

from app.artifacts.records import Pin, VersionRecord

FORMAT = 1
_SKIPPED_EPOCHS = 1000


class Phase(enum.StrEnum):
    """How far a change is."""

    CLAIMED = "claimed"
    PREPARING = "preparing"
    HOLDING = "holding"


class Committed(msgspec.Struct, frozen=True):
    """What every member that takes part serves.

    `served`: the versions that served, the oldest first and the active one last; `pin`: None while the newest serves;
    `paused`: the mode of the pause that is in force, None for none; `traffic`: what is tried beside the active version,
    and how the last trial ended: JSON of `app.control.trial.SavedTraffic`; empty where nothing was ever tried.
    """

    epoch: int
    served: tuple[VersionRecord, ...]
    pin: Pin | None = None
    paused: str | None = None
    traffic: str = ""

    @property
    def active(self) -> VersionRecord:
        """The version that serves."""
        return self.served[-1]


class Change(msgspec.Struct, frozen=True):
    """The change under way: who coordinates it, and the version that is to serve from `epoch` on, once it is known."""

    epoch: int
    coordinator: str
    phase: Phase
    target: VersionRecord | None = None


class PolicyState(msgspec.Struct, frozen=True):
    """The agreement about one policy.

    `last_epoch`: the highest that was given to a change; `revision` grows with each step. `members`: those that take
    part, which serve what is committed or are about to. `settles_ms`: when Redis has lost it, and a member has
    written it anew, nobody takes part before this time of Redis's clock: whoever knows of a later epoch comes first.
    """

    committed: Committed
    last_epoch: int
    members: frozenset[str] = frozenset()
    change: Change | None = None
    revision: int = 0
    settles_ms: int = 0
    format: int = FORMAT

    @property
    def epoch(self) -> int:
        """The epoch of what is committed."""
        return self.committed.epoch


class Report(msgspec.Struct, frozen=True):
    """What a member has done; one writer each. Epochs, 0 for none.

    `refused`: the epoch that it cannot prepare, with the reason; `for_now`: it may later. `applied`: what it serves.
    """

    prepared: int = 0
    held: int = 0
    applied: int = 0
    refused: int = 0
    reason: str = ""
    for_now: bool = False


Reports = Mapping[str, Report]


class Busy(Exception):
    """Another member coordinates a change, or changes were lost: to be asked again."""


class Fenced(Exception):
    """The fleet went on without this member: what it wanted to do counts no more."""


class Refused(Exception):
    """A member cannot prepare the version; the message says which and why. `for_now`: it may later."""

    def __init__(self, message: str, for_now: bool) -> None:
        super().__init__(message)
        self.for_now = for_now


def founded(served: tuple[VersionRecord, ...], pin: Pin | None) -> PolicyState:
    """Returns the state of a policy that no member has served yet; who writes it has still to join."""
    return PolicyState(Committed(1, served, pin), 1)


def recovered(state: PolicyState | None, known: Committed, settles_ms: int) -> PolicyState | None:
    """Returns the state after Redis has lost what was `known` to be committed; None where it has not."""
    if state is not None and state.epoch >= known.epoch:
        return None
    # Beyond the epochs of changes that were under way when it was lost, and that nobody may take for a later one.
    last = max(known.epoch, 0 if state is None else state.last_epoch) + _SKIPPED_EPOCHS
    return PolicyState(known, last, revision=0 if state is None else state.revision + 1, settles_ms=settles_ms)


def founded_anew(
    state: PolicyState, served: tuple[VersionRecord, ...], pin: Pin | None, live: Collection[str]
) -> PolicyState:
    """Returns the state of a policy whose committed version nobody has any more; the same where anybody takes part."""
    if taking_part(state, live):
        return state
    epoch = state.last_epoch + 1
    committed = Committed(epoch, served, pin, state.committed.paused)
    return _step(state, committed=committed, last_epoch=epoch, members=frozenset(), change=None)


def joined(state: PolicyState, member: str, serves: int, live: Collection[str], now_ms: int = 0) -> PolicyState:
    """Returns the state in which a member takes part that serves what was committed in the epoch `serves`.

    Raises:
      Fenced: another epoch is committed; the member has to serve that first.
      Busy: the others hold their requests just now, or the state settles.
    """
    if state.epoch != serves:
        raise Fenced(f"epoch {state.epoch} is committed, and {serves} served")
    if now_ms < state.settles_ms:
        raise Busy("the fleet's agreement was lost and settles")
    if state.change is not None and state.change.phase is Phase.HOLDING and state.change.coordinator in live:
        raise Busy("a change is being committed")
    return _step(state, members=state.members | {member})


def left(state: PolicyState, member: str) -> PolicyState:
    """Returns the state in which a member takes no part, which cannot serve what is committed; nobody waits for it."""
    return _step(state, members=state.members - {member}) if member in state.members else state


def claimed(state: PolicyState, member: str, live: Collection[str]) -> PolicyState:
    """Returns the state in which a member coordinates a change.

    Raises:
      Busy: another member does.
      Fenced: the member does not take part.
    """
    if member not in state.members:
        raise Fenced("this server does not take part now")
    if state.change is not None and state.change.coordinator in live and state.change.coordinator != member:
        raise Busy(f"{state.change.coordinator} changes the policy")
    return _started(state, Change(0, member, Phase.CLAIMED))


def preparing(state: PolicyState, member: str, target: VersionRecord) -> PolicyState:
    """Returns the state in which all members prepare a version; raises Fenced."""
    _own(state, member)
    return _started(state, Change(0, member, Phase.PREPARING, target))


def unprepared(state: PolicyState, member: str, reports: Reports, live: Collection[str]) -> set[str]:
    """Returns the members that this one waits for before it has them hold their requests.

    Raises:
      Fenced: the fleet went on without this member.
      Refused: one of the others cannot.
    """
    change, waiting = _own(state, member), set()
    for other in sorted(taking_part(state, live) - {member}):
        report = reports.get(other, Report())
        if report.refused == change.epoch:
            raise Refused(f"{other}: {report.reason}", report.for_now)
        if report.prepared != change.epoch:
            waiting.add(other)
    return waiting


def holding(state: PolicyState, member: str, reports: Reports, live: Collection[str]) -> PolicyState:
    """Returns the state in which all members hold their requests, those that are gone left out.

    Raises:
      Fenced: the fleet went on without this member.
      Busy: somebody is not prepared, who has joined meanwhile.
      Refused: a member cannot prepare the version.
    """
    change = _own(state, member)
    if unprepared(state, member, reports, live):
        raise Busy("a member is not prepared")
    return _step(state, members=taking_part(state, live), change=msgspec.structs.replace(change, phase=Phase.HOLDING))


def unheld(state: PolicyState, member: str, reports: Reports, live: Collection[str]) -> set[str]:
    """Returns the members that this one waits for before it commits; raises Fenced."""
    epoch = _own(state, member).epoch
    others = taking_part(state, live) - {member}
    return {other for other in others if reports.get(other, Report()).held != epoch}


def committed(state: PolicyState, member: str, new: Committed, live: Collection[str]) -> PolicyState:
    """Returns the state in which something else is committed; the member goes on coordinating.

    `new` has a version that all have prepared, or the one that serves; its epoch is set here.

    Raises:
      Fenced: the fleet went on without this member.
    """
    change = _own(state, member)
    if new.active != state.committed.active and (change.phase is not Phase.HOLDING or change.target != new.active):
        raise Fenced("the version was not prepared by all")
    members = taking_part(state, live) | {member}
    done = _step(state, committed=msgspec.structs.replace(new, epoch=change.epoch), members=members)
    return _started(done, Change(0, member, Phase.CLAIMED))


def unapplied(state: PolicyState, member: str, reports: Reports, live: Collection[str]) -> set[str]:
    """Returns the members that do not serve yet what this one has committed; raises Fenced."""
    _own(state, member)
    others = taking_part(state, live) - {member}
    return {other for other in others if reports.get(other, Report()).applied < state.epoch}


def released(state: PolicyState, member: str) -> PolicyState:
    """Returns the state in which a member coordinates no more; what was not committed is given up."""
    return _step(state, change=None) if state.change is not None and state.change.coordinator == member else state


def abandoned(state: PolicyState, member: str, local: Local, live: Collection[str]) -> PolicyState:
    """Returns the state without a change that nobody coordinates, as a member knows; the same where there is none."""
    return _step(state, change=None) if _is_abandoned(state.change, member, local, live) else state


def is_awaited(before: PolicyState | None, after: PolicyState) -> bool:
    """Returns whether anybody waits for this step: nobody does for a claim where there was no change."""
    return after.change is None or (before is not None and before.change is not None)


def taking_part(state: PolicyState, live: Collection[str]) -> frozenset[str]:
    """Returns the members that take part and hold a lease."""
    return state.members & frozenset(live)


class Task(enum.Enum):
    """What a member does next for a change that another one coordinates."""

    NOTHING = "nothing"
    RECOVER = "write anew what Redis has lost"
    CATCH_UP = "serve what is committed, and join"
    PREPARE = "prepare the version"
    HOLD = "hold requests"
    APPLY = "switch to what is committed"
    GIVE_UP = "release what was held and prepared"
    REPORT = "write again what it has done"
    ABANDON = "end a change that nobody coordinates"


class Local(msgspec.Struct, frozen=True):
    """What a member knows of itself: epochs, 0 for none.

    `joined`: it has taken part since its lease began; `coordinates`: its own change is under way. `unreported`: what
    it has done may not have reached Redis.
    """

    applied: int = 0
    prepared: int = 0
    held: int = 0
    refused: int = 0
    joined: bool = False
    coordinates: bool = False
    unreported: bool = False


def next_task(state: PolicyState | None, member: str, local: Local, live: Collection[str]) -> Task:
    """Returns what a member does next, as it sees the agreement."""
    if local.coordinates:
        return Task.NOTHING
    if state is None or state.epoch < local.applied:
        return Task.RECOVER
    change = state.change
    under_way = change.epoch if change is not None and change.phase is not Phase.CLAIMED else 0
    if state.epoch > local.applied:
        ready = local.joined and member in state.members and local.prepared == state.epoch
        return Task.APPLY if ready else Task.CATCH_UP
    if _is_abandoned(change, member, local, live):
        return Task.ABANDON
    if local.prepared and local.prepared != under_way:
        return Task.GIVE_UP
    if not local.joined or member not in state.members:
        return Task.CATCH_UP
    if change is not None and under_way:
        if change.phase is Phase.PREPARING and change.epoch not in (local.prepared, local.refused):
            return Task.PREPARE
        if change.phase is Phase.HOLDING and local.prepared == change.epoch != local.held:
            return Task.HOLD
    return Task.REPORT if local.unreported else Task.NOTHING


def _is_abandoned(change: Change | None, member: str, local: Local, live: Collection[str]) -> bool:
    """Its coordinator is gone; or it is this member, which has ended it, and Redis has not taken that."""
    if change is None:
        return False
    return not local.coordinates if change.coordinator == member else change.coordinator not in live


def _own(state: PolicyState, member: str) -> Change:
    if state.change is None or state.change.coordinator != member or member not in state.members:
        raise Fenced("the fleet went on without this server")
    return state.change


def _started(state: PolicyState, change: Change) -> PolicyState:
    """An epoch of its own for each attempt, so that no report on an earlier one counts."""
    epoch = state.last_epoch + 1
    return _step(state, change=msgspec.structs.replace(change, epoch=epoch), last_epoch=epoch)


def _step(state: PolicyState, **changes: object) -> PolicyState:
    return msgspec.structs.replace(state, revision=state.revision + 1, **changes)
