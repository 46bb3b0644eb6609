"""Every order of what members of a fleet can do, of changes, deaths, lost leases and messages, a Redis that forgets."""

from collections import deque

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.fleet import protocol
from app.fleet.protocol import Local
from tests.app.fleet import model
from tests.app.fleet.model import Bounds, Broken, Fleet, Member

_founded_anew, _abandoned, _next_task = protocol.founded_anew, protocol.abandoned, protocol.next_task


def started(count: int) -> Fleet:
    """A fleet of which every member takes part."""
    state = protocol.founded((model.record(0),), None)
    members = []
    for i in range(count):
        state = protocol.joined(state, str(i), 1, {str(i)})
        members.append(Member(Local(applied=1, joined=True), leased=True, known=state.committed))
    return Fleet(tuple(members), state)


def explore(fleet: Fleet, bounds: Bounds, most: int) -> tuple[int, int, int]:
    """Goes through every order of actions; returns how many states there are, how many are at rest, and late steps."""
    seen, waiting, at_rest, late = {_key(fleet)}, deque([(fleet, ())]), 0, 0
    while waiting:
        now, trail = waiting.popleft()
        moved = False
        for step in model.steps(now, bounds):
            key = _key(step.fleet)
            moved = moved or (key != _key(now) and not _is_trouble(step.name))
            if key in seen:
                continue
            seen.add(key)
            late += step.name.endswith("late")
            assert len(seen) <= most, f"more than {most} states: the bounds of the exploration are too wide"
            try:
                model.check(step.fleet, bounds)
            except Broken as broken:
                raise AssertionError("\n".join([str(broken), *trail, step.name])) from None
            waiting.append((step.fleet, (*trail, step.name)))
        if not moved:
            at_rest += 1
            try:
                model.check_at_rest(now)
            except Broken as broken:
                raise AssertionError("\n".join([str(broken), *trail])) from None
    return len(seen), at_rest, late


def _is_trouble(name: str) -> bool:
    """Whether it need not happen: everything has to come to rest without it."""
    return any(word in name for word in ("dies", "loses", "claims", "refuses"))


def _key(fleet: Fleet) -> object:
    """The revision counts steps, and two orders that lead to the same are the same."""
    state, before = (one and msgspec.structs.replace(one, revision=0) for one in (fleet.state, fleet.before))
    return (
        fleet.members,
        msgspec.json.encode((state, before)),
        fleet.fresh,
        fleet.acknowledged,
        fleet.changes,
        fleet.deaths,
        fleet.lapses,
        fleet.losses,
        fleet.anew,
        fleet.unanswered,
    )


SMALL = {
    "two members": (2, Bounds(changes=2, deaths=1, lapses=1)),
    "Redis forgets": (2, Bounds(changes=1, deaths=0, lapses=1, losses=1)),
    "refusals": (2, Bounds(changes=2, deaths=0, lapses=0, refusals=True)),
    "nobody has it": (2, Bounds(changes=1, deaths=1, lapses=2, anew=1)),
    "three members": (3, Bounds(changes=1, deaths=1, lapses=0)),
    "one version at a time": (3, Bounds(changes=2, deaths=0, lapses=0, refusals=True, all_hold=True)),
    "a member is forgotten": (2, Bounds(changes=1, deaths=0, lapses=2, forgotten=True)),
    "lost messages": (2, Bounds(changes=2, deaths=0, lapses=0, refusals=True, unanswered=2)),
    "a lost lease, and a lost message": (2, Bounds(changes=2, deaths=0, lapses=1, unanswered=1)),
    "a death, and a lost message": (2, Bounds(changes=2, deaths=1, lapses=0, unanswered=1)),
}
# Some minutes.
LARGE = {
    "three members": (3, Bounds(changes=2, deaths=1, lapses=1, late=False)),
    "three members, and Redis forgets": (3, Bounds(changes=1, deaths=1, lapses=1, losses=1, late=False)),
    "two changes and a death": (3, Bounds(changes=2, deaths=1, lapses=0)),
    "two changes and a lost lease": (3, Bounds(changes=2, deaths=0, lapses=1)),
    "a death and a lost lease": (3, Bounds(changes=1, deaths=1, lapses=1)),
    "a death, and Redis forgets": (3, Bounds(changes=1, deaths=1, lapses=0, losses=1)),
    "a lost lease, and Redis forgets": (3, Bounds(changes=1, deaths=0, lapses=1, losses=1)),
    "a member is forgotten": (3, Bounds(changes=1, deaths=0, lapses=1, forgotten=True, unanswered=1)),
    "two lost messages": (3, Bounds(changes=2, deaths=0, lapses=0, refusals=True, unanswered=2)),
    "lost leases and messages": (2, Bounds(changes=2, deaths=0, lapses=1, forgotten=True, unanswered=2)),
}


def test_no_order_of_actions_breaks_a_promise_and_each_comes_to_rest(full):
    for name, (members, bounds) in (LARGE if full else SMALL).items():
        states, at_rest, late = explore(started(members), bounds, 600_000)
        print(f"{name}: {states} states, {at_rest} at rest, {late} reached by acting on what was agreed before")
        assert states > 100
        assert at_rest > 0
        assert bool(late) is bounds.late


def _joins_unseen(state, member, serves, live, now_ms=0):
    """A member that is back takes part without a step that a coordinator would see."""
    if state.epoch != serves:
        raise protocol.Fenced
    return state


def _waits_for_nobody(*_):
    return set()


def _begins_anew_among_others(state, served, pin, _):
    return _founded_anew(state, served, pin, frozenset())


def _keeps_its_own(state, member, local, live):
    return state if state.change.coordinator == member else _abandoned(state, member, local, live)


def _reports_once(state, member, local, live):
    return _next_task(state, member, msgspec.structs.replace(local, unreported=False), live)


@pytest.mark.parametrize(
    ("name", "mutant", "bounds"),
    [
        ("joined", _joins_unseen, Bounds(changes=1, deaths=0, lapses=1)),
        ("unapplied", _waits_for_nobody, Bounds(changes=1, deaths=0, lapses=0)),
        ("unheld", _waits_for_nobody, Bounds(changes=1, deaths=0, lapses=0, all_hold=True)),
        ("abandoned", lambda state, *_: state, Bounds(changes=1, deaths=1, lapses=0)),
        ("abandoned", _keeps_its_own, Bounds(changes=1, deaths=0, lapses=0, unanswered=1)),
        ("next_task", _reports_once, Bounds(changes=1, deaths=0, lapses=0, unanswered=1)),
        ("founded_anew", _begins_anew_among_others, Bounds(changes=1, deaths=0, lapses=1, anew=1)),
    ],
    ids=[
        "joins unseen",
        "acknowledges early",
        "commits before all hold",
        "never gives up",
        "keeps its own claim",
        "reports once",
        "begins anew among others",
    ],
)
def test_a_protocol_with_a_fault_is_caught(name, mutant, bounds, monkeypatch):
    fleet = started(2)
    monkeypatch.setattr(protocol, name, mutant)
    with pytest.raises(AssertionError, match=r"serves|answer from|nothing happens"):
        explore(fleet, bounds, 400_000)


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_long_random_orders_with_three_members(data):
    fleet = started(3)
    bounds = Bounds(changes=6, deaths=2, lapses=6, losses=1, refusals=True, unanswered=6)
    for _ in range(120):
        possible = list(model.steps(fleet, bounds))
        if not possible:
            break
        fleet = data.draw(st.sampled_from(possible), label="step").fleet
        model.check(fleet, bounds)
