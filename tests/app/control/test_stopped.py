"""A version that was tried and stopped does not serve by watching, and is refused while its checkpoint is there."""

from pathlib import Path

from app.control.history import History
from app.control.plan import Candidate
from app.control.source import Scan
from app.control.states import State
from app.control.stopped import StoppedVersions
from app.control.trial import Stopped
from app.metrics import Metrics

A, B = (Candidate(name, Path(name), name.upper(), 1, f"the files of {name}") for name in "ab")


class Scenario:
    """a was stopped; a and b are there."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.history = History("p", self.metrics.policy("p"))
        self.stopped = StoppedVersions()
        self.stopped.add("A", "a lower return")
        self.a, self.b = (self.history.version(one.name, one.digest, 1) for one in (A, B))

    def refuse(self, *used: str) -> None:
        self.stopped.refuse(self.history, Scan([A, B]), used)

    @property
    def refusals(self) -> float | None:
        return self.metrics.registry.get_sample_value("policy_server_refused_versions_total", {"policy": "p"})


def test_what_was_stopped_is_no_candidate_until_it_is_forgotten() -> None:
    stopped = Scenario().stopped
    assert stopped.allowed([A, B]) == [B]
    stopped.forget("B")
    assert stopped.allowed([A, B]) == [B]
    stopped.forget("A")
    assert (stopped.allowed([A, B]), stopped.known) == ([A, B], ())


def test_other_files_under_the_name_of_what_was_stopped_are_a_candidate() -> None:
    again = Candidate("a", Path("a"), "A2", 1)
    assert Scenario().stopped.allowed([again]) == [again]


def test_the_newest_fifty_are_known() -> None:
    stopped = StoppedVersions()
    for number in range(60):
        stopped.add(f"D{number}", "why")
    assert stopped.known == tuple(Stopped(f"D{number}", "why") for number in range(10, 60))


def test_what_was_stopped_is_refused_with_its_reason_until_its_files_change() -> None:
    scenario = Scenario()
    scenario.refuse()
    assert (scenario.a.state, scenario.a.reason) == (State.REFUSED, "a lower return")
    assert scenario.b.state is State.FOUND
    assert scenario.history.refused() == {("A", "the files of a")}


def test_what_an_operator_has_serve_or_tried_again_is_not_refused() -> None:
    scenario = Scenario()
    scenario.refuse("A")
    assert scenario.a.state is State.FOUND


def test_what_is_refused_already_is_not_refused_and_counted_again() -> None:
    scenario = Scenario()
    scenario.history.refuse(scenario.a, "its weights are not finite")
    counted = scenario.refusals
    assert counted
    scenario.refuse()
    assert (scenario.a.reason, scenario.refusals) == ("its weights are not finite", counted)


def test_one_that_was_tried_just_now_and_one_that_served_are_refused_from_the_state_that_they_are_in() -> None:
    scenario = Scenario()
    for state in (State.LOADED, State.VERIFIED, State.ACTIVE, State.DRAINING, State.RELEASED):
        scenario.a.move(state)
    scenario.stopped.add("B", "an operator ended its trial")
    for state in (State.LOADED, State.VERIFIED):
        scenario.b.move(state)
    scenario.refuse()
    assert (scenario.a.state, scenario.b.state) == (State.REFUSED, State.REFUSED)
    assert scenario.b.reason == "an operator ended its trial"
