"""A fleet as a model: the agreement, members that see it late, and everything that can happen to them.

Each action of a member is the function that the server uses; what is modelled is only the order in which they happen,
and what a member does with its workers. `Broken` says which promise an order of actions breaks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import msgspec

from app.artifacts.records import VersionRecord
from app.fleet import protocol
from app.fleet.protocol import Busy, Change, Committed, Fenced, Local, Phase, PolicyState, Refused, Report, Task


class Broken(AssertionError):
    """A promise that an order of actions breaks."""


NOTHING, NEW = Report(), Local()


def record(number: int) -> VersionRecord:
    return VersionRecord(f"v{number}", f"d{number}", number)


@dataclass(frozen=True)
class Member:
    """One member. `serves`: train step of what its workers answer from; `holding`: they do not answer.

    `stage`: how far its own change is; `view`: those that held a lease when it read the agreement, None once another
    member has changed that: the step that it makes from there is a compare-and-set, which then fails. `said`: what it
    has reported; `report`: what has come of that.
    """

    local: Local = NEW
    serves: int = 0
    holding: bool = False
    alive: bool = True
    leased: bool = False
    known: Committed | None = None
    stage: str = ""
    view: frozenset[str] | None = None
    said: Report = NOTHING
    report: Report = NOTHING


@dataclass(frozen=True)
class Fleet:
    """All members, the agreement (None: Redis has lost it), and what has been promised.

    `acknowledged`: the train step of the last reload that has answered. `settling`: since Redis has lost it, those that
    have not read it again: nobody joins before they have, which takes less time than a state settles. `before`: the
    agreement before the last step; all but those in `fresh` may still act on it, since its notice came late.
    """

    members: tuple[Member, ...]
    state: PolicyState | None = None
    acknowledged: int = 0
    changes: int = 0
    deaths: int = 0
    lapses: int = 0
    losses: int = 0
    anew: int = 0
    unanswered: int = 0
    settling: frozenset[int] = frozenset()
    before: PolicyState | None = None
    fresh: frozenset[int] = frozenset()

    def live(self) -> set[str]:
        """Those that hold a lease in Redis."""
        known = (i for i, member in enumerate(self.members) if member.alive and member.leased)
        return {str(i) for i in known if i not in self.settling}

    def reports(self) -> dict[str, Report]:
        return {str(i): member.report for i, member in enumerate(self.members)}

    def put(self, i: int, member: Member, **more: object) -> Fleet:
        return replace(self, members=(*self.members[:i], member, *self.members[i + 1 :]), **more)


@dataclass(frozen=True)
class Bounds:
    """How much may happen in one order of actions."""

    changes: int = 2
    deaths: int = 1
    lapses: int = 1
    losses: int = 0
    refusals: bool = False
    # Members hold for as long as it takes, and all are waited for: then no client sees an older version after a newer.
    all_hold: bool = False
    # A member may be unable to serve what is committed; where nobody takes part, it has the fleet begin anew.
    anew: int = 0
    # Who loses its lease is without one for so long that what it has reported is deleted.
    forgotten: bool = False
    # What a member writes may be lost, whatever else Redis does for it.
    unanswered: int = 0
    # A member may act on the agreement before the last step, whose notice came late.
    late: bool = True


@dataclass
class Step:
    """One action and what it leads to."""

    name: str
    fleet: Fleet = field(repr=False)


def steps(fleet: Fleet, bounds: Bounds) -> Iterator[Step]:
    """Yields everything that can happen next."""
    for i, member in enumerate(fleet.members):
        if not member.alive:
            continue
        for step in _surroundings(fleet, i, member, bounds):
            yield Step(step.name, _agreed(fleet, step.fleet, None, bounds))
        if not member.leased:
            leased = replace(member, leased=True)
            if bounds.forgotten:
                leased = replace(leased, report=NOTHING, local=_noted(member, unreported=True))
            yield Step(f"{i} begins a lease", fleet.put(i, leased))
            continue
        for step in _own(fleet, i, member, bounds):
            yield Step(step.name, _agreed(fleet, step.fleet, i, bounds))
        if not member.stage and fleet.before is not None and i not in fleet.fresh:
            yield from _follow_late(fleet, i, member, bounds, fleet.before)


def _own(fleet: Fleet, i: int, member: Member, bounds: Bounds) -> Iterator[Step]:
    if member.stage:
        yield from _coordinate(fleet, i, member, bounds)
        return
    yield from _follow(fleet, i, member, bounds)
    if fleet.changes < bounds.changes and member.local.joined:
        yield from _claim(fleet, i, member, bounds)


def _agreed(before: Fleet, after: Fleet, by: int | None, bounds: Bounds) -> Fleet:
    """What all know after a step: a member that coordinates goes on from its own ones."""
    known = frozenset({by}) if bounds.late and by is not None else frozenset()
    if after.state is before.state:
        return replace(after, fresh=after.fresh | known)
    members = tuple(
        member if i == by and member.stage else replace(member, view=None) for i, member in enumerate(after.members)
    )
    return replace(after, members=members, before=before.state if bounds.late else None, fresh=known)


def _surroundings(fleet: Fleet, i: int, member: Member, bounds: Bounds) -> Iterator[Step]:
    if fleet.deaths < bounds.deaths:
        yield Step(
            f"{i} dies",
            fleet.put(
                i, replace(member, alive=False, leased=False), deaths=fleet.deaths + 1, settling=fleet.settling - {i}
            ),
        )
    if member.leased and fleet.lapses < bounds.lapses:
        local = msgspec.structs.replace(member.local, joined=False)
        lapsed = replace(member, leased=False, local=local)
        yield Step(f"{i} loses its lease", fleet.put(i, lapsed, lapses=fleet.lapses + 1))
    if member.holding and not member.stage and not bounds.all_hold:
        # After HOLD_S, whatever the others do; the promise about answers must not need the hold.
        yield Step(f"{i} holds no longer", fleet.put(i, replace(member, holding=False)))
    if fleet.losses < bounds.losses and fleet.state is not None:
        joined = frozenset(j for j, other in enumerate(fleet.members) if other.alive)
        yield Step("Redis loses everything", replace(fleet, state=None, losses=fleet.losses + 1, settling=joined))
    known = 0 if member.known is None else member.known.epoch
    if i in fleet.settling and fleet.state is not None and fleet.state.epoch >= known:
        local = msgspec.structs.replace(member.local, joined=False)
        settled = replace(fleet, settling=fleet.settling - {i})
        yield Step(f"{i} takes part no more", settled.put(i, replace(member, leased=False, local=local)))


def _claim(fleet: Fleet, i: int, member: Member, bounds: Bounds) -> Iterator[Step]:
    try:
        assert fleet.state is not None
        state = protocol.claimed(fleet.state, str(i), fleet.live())
    except (AssertionError, Busy, Fenced):
        return
    if state.epoch != member.local.applied:
        return
    local = msgspec.structs.replace(member.local, coordinates=True)
    claimed = replace(member, local=local, stage="claimed", view=frozenset(fleet.live()))
    yield Step(f"{i} claims", fleet.put(i, claimed, state=state, changes=fleet.changes + 1))
    if fleet.unanswered < bounds.unanswered:
        unknown = replace(fleet, state=state, changes=fleet.changes + 1, unanswered=fleet.unanswered + 1)
        yield Step(f"{i} claims, and gets no answer", unknown)


def _released(fleet: Fleet, i: int, name: str, bounds: Bounds) -> Iterator[Step]:
    """Its change has ended, and so has its claim, unless what ends that is lost."""
    assert fleet.state is not None
    ended = fleet.put(i, _ended(fleet.members[i]))
    yield Step(name, replace(ended, state=protocol.released(fleet.state, str(i))))
    if fleet.unanswered < bounds.unanswered:
        yield Step(f"{name}, and its release is lost", replace(ended, unanswered=fleet.unanswered + 1))


def _ended(member: Member, **more: object) -> Member:
    return replace(member, stage="", view=None, holding=False, local=_noted(member, coordinates=False), **more)


def _noted(member: Member, **changes: object) -> Local:
    return msgspec.structs.replace(member.local, **changes)


def _coordinate(fleet: Fleet, i: int, member: Member, bounds: Bounds) -> Iterator[Step]:
    me, live = str(i), member.view
    if fleet.state is None:
        yield Step(f"{i} gives its change up", fleet.put(i, _ended(member)))
        return
    if live != fleet.live():
        yield Step(f"{i} reads", fleet.put(i, replace(member, view=frozenset(fleet.live()))))
    if live is None:
        return
    try:
        if member.stage == "claimed":
            target = record(fleet.state.last_epoch + 1)
            state = protocol.preparing(fleet.state, me, target)
            yield Step(f"{i} has all prepare", fleet.put(i, replace(member, stage="preparing"), state=state))
        elif member.stage == "preparing":
            if not protocol.unprepared(fleet.state, me, fleet.reports(), live):
                state = protocol.holding(fleet.state, me, fleet.reports(), live)
                held = replace(member, stage="holding", holding=True)
                yield Step(f"{i} has all hold", fleet.put(i, held, state=state))
        elif member.stage == "holding" and (
            not bounds.all_hold or not protocol.unheld(fleet.state, me, fleet.reports(), live)
        ):
            yield from _commit(fleet, i, member, bounds)
        elif member.stage == "committed":
            said = Report(applied=member.local.applied)
            mine = fleet.put(i, replace(member, said=said, report=said))
            if not protocol.unapplied(fleet.state, me, mine.reports(), live):
                done = replace(mine, acknowledged=max(fleet.acknowledged, member.serves))
                yield from _released(done, i, f"{i} acknowledges {member.serves}", bounds)
    except Refused:
        yield from _released(fleet, i, f"{i} is refused", bounds)
    except Fenced:
        yield Step(f"{i} is fenced", fleet.put(i, _ended(member)))


def _commit(fleet: Fleet, i: int, member: Member, bounds: Bounds) -> Iterator[Step]:
    assert fleet.state is not None
    change = fleet.state.change
    if change is None or change.target is None:
        raise Fenced("it has no change")
    served = (*fleet.state.committed.served, change.target)[-3:]
    new = msgspec.structs.replace(fleet.state.committed, served=served)
    assert member.view is not None
    state = protocol.committed(fleet.state, str(i), new, member.view)
    local = _noted(member, applied=state.epoch, prepared=0, held=0)
    done = replace(
        member, stage="committed", holding=False, serves=state.committed.active.train_step, local=local,
        known=state.committed,
    )  # fmt: skip
    unheld = protocol.unheld(fleet.state, str(i), fleet.reports(), fleet.live())
    name = f"{i} commits{' without all' if unheld else ''}"
    yield Step(name, fleet.put(i, done, state=state))
    if fleet.unanswered < bounds.unanswered:
        unknown = fleet.put(i, _ended(member), state=state, unanswered=fleet.unanswered + 1)
        yield Step(f"{name}, and gets no answer", unknown)


def _follow(fleet: Fleet, i: int, member: Member, bounds: Bounds) -> Iterator[Step]:
    """Acts on the agreement as it is now: a step from that is a compare-and-set."""
    me, state = str(i), fleet.state
    task = protocol.next_task(state, me, member.local, fleet.live())
    if task is Task.RECOVER:
        known = member.known
        new = protocol.founded((record(0),), None) if known is None else protocol.recovered(state, known, 0)
        if new is not None:
            yield Step(f"{i} writes anew", replace(fleet, state=new))
    elif task is Task.CATCH_UP:
        assert state is not None
        yield from _catch_up(fleet, i, member, bounds, state)
        if fleet.anew < bounds.anew and state.epoch > member.local.applied:
            yield from _begin_anew(fleet, i, member, state)
    elif task is Task.ABANDON:
        assert state is not None
        ended = protocol.abandoned(state, me, member.local, fleet.live())
        yield Step(f"{i} ends a change that nobody coordinates", replace(fleet, state=ended))
    elif task is Task.REPORT:
        yield Step(f"{i} reports", fleet.put(i, _delivered(member)))
    elif state is not None:
        yield from _take_part(fleet, i, member, bounds, state, task)


def _follow_late(fleet: Fleet, i: int, member: Member, bounds: Bounds, state: PolicyState) -> Iterator[Step]:
    """Acts on the agreement of before: for what it has to write it reads first."""
    live = fleet.live() | ({state.change.coordinator} if state.change is not None else set())
    task = protocol.next_task(state, str(i), member.local, live)
    late = [*_take_part(fleet, i, member, bounds, state, task)]
    if task is Task.CATCH_UP and state.epoch > member.local.applied:
        late += _reported(fleet, i, _applied(member, state), f"{i} serves what is committed", bounds)
    for step in late:
        yield Step(f"{step.name}, late", step.fleet)


def _take_part(fleet: Fleet, i: int, member: Member, bounds: Bounds, state: PolicyState, task: Task) -> Iterator[Step]:
    """What a member does by itself, and reports."""
    if task is Task.PREPARE:
        yield from _reported(fleet, i, _did(member, prepared=_change(state).epoch), f"{i} prepares", bounds)
        if bounds.refusals:
            yield from _reported(fleet, i, _did(member, refused=_change(state).epoch), f"{i} refuses", bounds)
    elif task is Task.HOLD:
        held = replace(_did(member, held=_change(state).epoch), holding=True)
        yield from _reported(fleet, i, held, f"{i} holds", bounds)
    elif task is Task.APPLY:
        yield from _reported(fleet, i, _applied(member, state), f"{i} switches", bounds)
    elif task is Task.GIVE_UP:
        given_up = replace(member, holding=False, local=_noted(member, prepared=0, held=0))
        yield Step(f"{i} gives up what it prepared", fleet.put(i, given_up))


def _change(state: PolicyState | None) -> Change:
    assert state is not None
    assert state.change is not None
    return state.change


def _applied(member: Member, state: PolicyState) -> Member:
    serves = state.committed.active.train_step
    done = replace(_did(member, applied=state.epoch), serves=serves, holding=False, known=state.committed)
    return replace(done, local=_noted(done, prepared=0, held=0))


def _did(member: Member, **epoch: int) -> Member:
    """A member that has done something and is to report it."""
    said = msgspec.structs.replace(member.said, **epoch)
    return replace(member, said=said, local=_noted(member, unreported=True, **epoch))


def _delivered(member: Member) -> Member:
    return replace(member, report=member.said, local=_noted(member, unreported=False))


def _reported(fleet: Fleet, i: int, member: Member, name: str, bounds: Bounds) -> Iterator[Step]:
    """It has done something: its report is written at once, or lost, and then a step of its own."""
    yield Step(name, fleet.put(i, _delivered(member)))
    if fleet.unanswered < bounds.unanswered:
        lost = fleet.put(i, member, unanswered=fleet.unanswered + 1)
        yield Step(f"{name}, and its report is lost", lost)


def _catch_up(fleet: Fleet, i: int, member: Member, bounds: Bounds, state: PolicyState) -> Iterator[Step]:
    if state.epoch > member.local.applied:
        yield from _reported(fleet, i, _applied(member, state), f"{i} serves what is committed", bounds)
        return
    if fleet.settling:
        return
    try:
        new = protocol.joined(state, str(i), member.local.applied, fleet.live())
    except (Busy, Fenced):
        return
    yield Step(f"{i} joins", fleet.put(i, replace(member, local=_noted(member, joined=True)), state=new))


def _begin_anew(fleet: Fleet, i: int, member: Member, state: PolicyState) -> Iterator[Step]:
    """What was acknowledged counts no more where nobody was left that could have it, as the server's table says."""
    new = protocol.founded_anew(state, (record(member.serves),), None, fleet.live())
    if new is not state:
        forgotten = not state.members & fleet.live()
        acknowledged = member.serves if forgotten else fleet.acknowledged
        yield Step(f"{i} begins anew", replace(fleet, state=new, acknowledged=acknowledged, anew=fleet.anew + 1))


def check(fleet: Fleet, bounds: Bounds) -> None:
    """Raises Broken where a member that is ready would answer from older weights than a reload has acknowledged.

    And, where members are all_hold, from older ones than another member answers from.
    """
    ready = {
        i: member.serves
        for i, member in enumerate(fleet.members)
        if member.alive and member.leased and member.local.joined and not member.holding
    }
    for i, serves in ready.items():
        if serves < fleet.acknowledged:
            raise Broken(f"member {i} serves {serves}, and {fleet.acknowledged} is acknowledged")
    if bounds.all_hold and len(set(ready.values())) > 1:
        raise Broken(f"the members answer from {ready}")
    state = fleet.state
    if state is not None and state.change is not None and state.change.phase is Phase.HOLDING:
        assert state.change.target is not None


def check_at_rest(fleet: Fleet) -> None:
    """Raises Broken where nothing happens any more by itself, and the members do not serve the same."""
    living = [member for member in fleet.members if member.alive]
    if living and (fleet.state is None or fleet.state.change is not None):
        raise Broken(f"nothing happens any more, and the agreement is {fleet.state}")
    for member in living:
        assert fleet.state is not None
        behind = member.serves != fleet.state.committed.active.train_step
        if not member.local.joined or behind or member.local.unreported:
            raise Broken(f"nothing happens any more, and a member is {member}")
