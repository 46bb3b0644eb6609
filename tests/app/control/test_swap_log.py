"""What is shown of swaps, by the states of versions alone."""

from typing import Any

import pytest

from app.control.history import History
from app.control.states import State, Version
from app.control.swap_log import SwapLog
from app.metrics import Metrics


class Log:
    def __init__(self) -> None:
        self.log = SwapLog()
        self.changes = 0
        self.log.changed = self._changed
        self.histories: dict[str, History] = {}

    def _changed(self) -> None:
        self.changes += 1

    def version(self, name: str, policy: str = "p") -> Version:
        made = self.histories.setdefault(policy, History(policy, Metrics().policy(policy), self.log.observe))
        return made.version(name, f"digest of {name}", 7)

    def load(self, version: Version) -> None:
        version.want()
        version.move(State.LOADED, at=version.times["wanted"] + 0.25)
        version.engine = "litert"
        version.move(State.VERIFIED, at=version.times["wanted"] + 0.5)

    def activate(self, version: Version, old: Version | None = None) -> None:
        self.load(version)
        version.move(State.ACTIVE, at=version.times["wanted"] + 0.75)
        if old is not None:
            old.move(State.DRAINING)
            old.move(State.RELEASED, at=old.times["draining"] + 0.125)

    @property
    def shown(self) -> list[dict[str, Any]]:
        return list(self.log.swaps.values())


def test_a_swap_goes_through_its_stages() -> None:
    log = Log()
    first, second = log.version("export"), log.version("a")
    assert not log.log.serves("p")
    log.activate(first)
    assert log.log.serves("p")
    assert not log.log.serves("q")
    (start,) = log.shown
    assert (start["state"], start["stages"]) == ("done", {"loaded": 0.25, "verified": 0.25, "active": 0.25})
    assert "previous" not in start
    second.want()
    assert (log.shown[1]["state"], log.shown[1]["previous"], log.shown[1]["stages"]) == ("preparing", "export", {})
    log.log.step("p", "compiled", 0.0301)
    log.log.step("q", "compiled", 1.0)  # of a policy without a swap
    assert log.shown[1]["steps"] == {"compiled": 0.0301}
    second.move(State.LOADED)
    assert log.shown[1]["state"] == "loaded"
    second.engine = "litert"
    second.move(State.VERIFIED)
    second.move(State.ACTIVE)
    assert (log.shown[1]["state"], log.shown[1]["engine"]) == ("active", "litert")
    first.move(State.DRAINING)
    first.move(State.RELEASED, at=first.times["draining"] + 0.125)
    assert log.shown[1]["state"] == "done"
    assert log.shown[1]["stages"]["drained"] == 0.125
    assert log.shown[1]["took_s"] >= 0.125
    assert log.changes >= 10


def test_back_to_a_version_that_served_shows_nothing_of_its_first_time() -> None:
    log = Log()
    first, second = log.version("export"), log.version("a")
    log.activate(first)
    log.activate(second, first)
    first.want()
    assert log.shown[-1]["stages"] == {}
    first.move(State.LOADED, at=first.times["wanted"] + 0.1)
    assert set(log.shown[-1]["stages"]) == {"loaded"}


def test_a_refusal_ends_the_swap_to_that_version_alone() -> None:
    log = Log()
    log.activate(log.version("export"))
    wanted, other = log.version("a"), log.version("b")
    wanted.want()
    log.histories["p"].refuse(other, "it is incomplete")
    assert log.shown[-1]["state"] == "preparing"
    log.histories["p"].refuse(wanted, "its weights are not finite")
    assert (log.shown[-1]["state"], log.shown[-1]["reason"]) == ("refused", "its weights are not finite")
    assert len(log.shown) == 2
    log.histories["p"].refuse(other, "for another reason")
    assert len(log.shown) == 2


def test_a_swap_that_an_error_has_ended_is_given_up_when_the_next_begins() -> None:
    log = Log()
    log.version("a").want()
    log.version("b").want()
    assert [(swap["version"], swap["state"]) for swap in log.shown] == [("a", "refused"), ("b", "preparing")]


@pytest.mark.parametrize("policies", [1, 60])
def test_the_last_fifty_swaps_are_kept_and_late_news_of_others_is_dropped(policies: int) -> None:
    log = Log()
    old = {f"p{number}": log.version("export", f"p{number}") for number in range(policies)}
    for version in old.values():
        log.activate(version)
    for number in range(60):
        policy = f"p{number % policies}"
        version = log.version(f"v{number}", policy)
        log.activate(version, old[policy])
        old[policy] = version
    assert len(log.shown) == 50
    assert list(map(int, log.log.swaps)) == sorted(map(int, log.log.swaps))
    assert {swap["state"] for swap in log.shown} == {"done"}


def test_what_was_shown_is_never_changed_in_place() -> None:
    log = Log()
    version = log.version("export")
    version.want()
    (before,) = log.shown
    copy = dict(before)
    version.move(State.LOADED)
    assert before == copy
