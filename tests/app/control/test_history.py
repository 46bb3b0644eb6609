from pathlib import Path

import pytest

from app.control import history as history_module
from app.control.history import History
from app.control.plan import Candidate
from app.control.source import Scan
from app.control.states import State
from app.metrics import Metrics


@pytest.fixture
def history() -> History:
    return History("p", Metrics().policy("p"))


def scan(*names: str, unreadable: dict[str, str] | None = None) -> Scan:
    """A look that found checkpoints; each has its name as digest."""
    return Scan([Candidate(name, Path(name), name, 7) for name in names], unreadable=unreadable or {})


def states_of(history: History) -> dict[str, str]:
    return {version.name: version.state.value for version in history.all()}


def test_version_is_made_once_and_is_known_by_name_and_digest(history):
    first = history.version("a", "1", 7)
    assert (first.name, first.digest, first.train_step, first.state) == ("a", "1", 7, State.FOUND)
    assert history.version("a", "1", 99) is first
    assert history.version("a", "2", 7) is not first
    assert history.version("b", "1", 7) is not first
    assert len(history.all()) == 3


def test_latest_seen_comes_first(history):
    for seen_at, name in ((2.0, "b"), (3.0, "c"), (1.0, "a")):
        history.version(name, name, 7).seen_at = seen_at
    assert list(states_of(history)) == ["c", "b", "a"]


def test_of_those_that_one_look_has_found_the_newest_come_first(history):
    found = [Candidate(f"c{step}", Path(f"c{step}"), f"d{step}", step) for step in (3, 10, 1, 2)]
    history.observe(Scan(found))
    assert [version.train_step for version in history.all()] == [10, 3, 2, 1]
    history.observe(Scan([*found, Candidate("late", Path("late"), "l", 0)]))
    assert [version.train_step for version in history.all()] == [0, 10, 3, 2, 1]


def test_look_finds_versions_and_forgets_those_found_that_are_gone(history):
    history.observe(scan("a", "b"))
    history.version("a", "a", 7).move(State.LOADED)
    history.observe(scan("c"))
    assert states_of(history) == {"a": "loaded", "c": "found"}


def test_unreadable_checkpoint_is_refused_once(history):
    for _ in range(2):
        history.observe(scan(unreadable={"bad": "its index is damaged"}))
    [bad] = history.all()
    assert (bad.name, bad.state, bad.reason) == ("bad", State.REFUSED, "its index is damaged")


def test_what_was_refused_is_what_watching_passes_over(history):
    history.observe(scan("a", "b"))
    history.refuse(history.version("b", "b", 7), "it holds NaN", "its stamp")
    assert history.refused() == {("b", "its stamp")}
    history.version("b", "b", 7).move(State.FOUND)
    assert history.refused() == set()


def test_only_the_oldest_of_what_is_done_are_forgotten(history, monkeypatch):
    monkeypatch.setattr(history_module, "KEPT_VERSIONS", 2)
    history.version("serving", "s", 7).state = State.ACTIVE
    for name in "abcd":
        history.refuse(history.version(name, name, 7), "it holds NaN")
    history.observe(scan())
    assert set(states_of(history)) == {"serving", "c", "d"}
