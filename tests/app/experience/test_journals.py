"""The journals of a folder are found, read on in the order of their names within bounds, and removed when they end."""

import logging
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from app.experience import journals as module
from app.experience.journal import JournalLimits, JournalWriter
from app.experience.journals import Journals, Read, of_sources
from app.experience.sources import Sources
from app.experience.steps import STEPS
from tests.support.recorded_steps import LAYOUT, event, who

FILE_BYTES = 4096
HOUR_NS = 3600 * 10**9


class Scenario:
    """A folder of journals, and what is read of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sources = Sources(LAYOUT)
        self.journals = Journals(folder, LAYOUT.digest, self.sources)

    def begun(self, *steps: int, session: str = "s") -> tuple[JournalWriter, Path]:
        """A writer that has written steps, and its file."""
        before = set(self.folder.iterdir())
        writer = JournalWriter(self.folder, LAYOUT.digest, JournalLimits(FILE_BYTES, 2**30))
        write(writer, *steps, session=session)
        (path,) = set(self.folder.iterdir()) - before
        return writer, path

    def closed(self, name: str, *steps: int, session: str = "s") -> Path:
        """The journal of a writer that is gone, under a name."""
        writer, path = self.begun(*steps, session=session)
        writer.close()
        return path.rename(self.folder / f"{name}.journal")

    def found(self) -> Journals:
        self.journals.find()
        return self.journals


def write(writer: JournalWriter, *steps: int, session: str = "s") -> None:
    for step in steps:
        writer.write(event(step), session, who(session, session), "v")


@pytest.fixture
def scenario(tmp_path: Path) -> Scenario:
    return Scenario(tmp_path)


def steps_in(read: Read) -> list[int]:
    return [int(step) for step in read.steps["step"]]


def test_journals_are_read_in_the_order_of_their_names_and_on_from_where_it_ended(scenario: Scenario) -> None:
    scenario.closed("b", 2, 3)
    scenario.closed("a", 0, 1)
    journals = scenario.found()
    read = journals.read()
    assert (steps_in(read), read.is_all) == ([0, 1, 2, 3], True)
    assert steps_in(journals.read()) == [0, 1, 2, 3], "until it goes on"
    journals.go_on(read)
    assert steps_in(journals.read()) == []
    assert journals.places() == dict(zip(("a.journal", "b.journal"), read.ends.values(), strict=True))
    assert (journals.ends(), journals.size) == (read.ends, 2 * FILE_BYTES)


def test_what_is_written_meanwhile_comes_with_the_next_reading(scenario: Scenario) -> None:
    writer, path = scenario.begun(0)
    journals = scenario.found()
    until = {path.name: journals.ends()[journals.source(path.name)]}
    write(writer, 1)
    read = journals.read(until)
    assert (steps_in(read), read.is_all) == ([0], True)
    assert steps_in(journals.read({"another.journal": 10**9})) == []
    journals.go_on(read)
    assert journals.is_ahead(journals.ends())
    journals.go_on(journals.read())
    assert not journals.is_ahead(journals.ends())
    writer.close()


@pytest.mark.parametrize(
    ("of_each", "expected"),
    [
        (False, [([0, 1], False), ([2, 3, 4, 5], False), ([10, 11, 12, 13], False), ([14, 15], True)]),
        (True, [([0, 10], False), ([1, 2, 3, 11, 12, 13], False), ([4, 5, 14, 15], True)]),
    ],
    ids=["the oldest first", "of each"],
)
def test_a_reading_is_bounded(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch, of_each: bool, expected: list[tuple[list[int], bool]]
) -> None:
    monkeypatch.setattr(module, "_MOST_STEPS", 4)  # of which the names at the start of each journal are two
    scenario.closed("a", *range(6))
    scenario.closed("b", *range(10, 16), session="t")
    journals, found = scenario.found(), []
    for _ in expected:
        read = journals.read(of_each=of_each)
        found.append((steps_in(read), read.is_all))
        journals.go_on(read)
    assert found == expected


def test_a_journal_that_is_read_and_has_no_writer_is_over_and_goes_with_its_sessions(scenario: Scenario) -> None:
    writer, path = scenario.begun(0)
    left = scenario.closed("a", 0, session="t")
    journals = scenario.found()
    assert journals.over() == []
    journals.go_on(journals.read())
    assert journals.over() == ["a.journal"]
    write(writer, 1)
    writer.close()
    assert journals.over() == ["a.journal"], "the other one has a step that was not read"
    journals.go_on(journals.read())
    assert {*journals.over()} == {"a.journal", path.name}
    (session,) = journals.remove("a.journal").tolist()
    assert (left.exists(), path.exists(), journals.size) == (False, True, FILE_BYTES)
    assert [scenario.sources.whos[session], scenario.sources.whos[1 - session]] == [None, who("s", "s")]


def test_a_folder_that_is_not_there_yet_has_no_journals(tmp_path: Path) -> None:
    scenario = Scenario(tmp_path / "none")
    assert steps_in(scenario.found().read()) == []
    scenario.folder.mkdir()
    scenario.closed("a", 0)
    assert steps_in(scenario.found().read()) == [0]


@pytest.mark.parametrize(("changed_ns", "expected"), [(-HOUR_NS, [0]), (HOUR_NS, [0, 1])], ids=["long ago", "just now"])
def test_the_folder_is_searched_again_when_it_has_changed_or_may_have(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch, changed_ns: int, expected: list[int]
) -> None:
    now = 2 * HOUR_NS
    monkeypatch.setattr(module, "time", SimpleNamespace(time_ns=lambda: now))
    scenario.closed("a", 0)
    os.utime(scenario.folder, ns=(0, now + changed_ns))
    scenario.found()
    scenario.closed("b", 1)
    os.utime(scenario.folder, ns=(0, now + changed_ns))
    assert steps_in(scenario.found().read()) == expected
    os.utime(scenario.folder, ns=(0, now))
    assert steps_in(scenario.found().read()) == [0, 1]


def test_a_file_that_is_no_journal_is_lost_once_and_removed_when_nobody_writes_it(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "policy_server")
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(
        module,
        "time",
        SimpleNamespace(monotonic=lambda: clock.now, time=lambda: 0.0, time_ns=lambda: 0),
    )
    rubbish, (writer, written) = scenario.folder / "0.journal", scenario.begun(0)
    rubbish.write_bytes(b"x" * 100)
    with written.open("r+b") as file:
        file.write(b"damaged")
    journals = scenario.found()
    scenario.found()
    assert (journals.lost, journals.places()) == (2, {})
    assert caplog.messages[0] == f"{rubbish} is left out: it is no journal"
    assert len(caplog.messages) == 2
    journals.tidy()
    assert (rubbish.exists(), written.exists()) == (False, True)
    writer.close()
    clock.now += 59.0
    journals.tidy()
    assert written.exists()
    clock.now += 1.0
    journals.tidy()
    assert not written.exists()


def test_what_is_no_record_ends_a_journal_and_the_next_one_is_read(
    scenario: Scenario, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "policy_server")
    path, _ = scenario.closed("a", 0, 1, 2), scenario.closed("b", 5)
    journals = scenario.found()
    end = journals.ends()[journals.source(path.name)]
    with path.open("r+b") as file:
        file.seek(end - len(event(2)))
        file.write(bytes(len(event(2))))
    read = journals.read()
    assert (steps_in(read), read.is_all) == ([0, 1, 5], False)
    journals.go_on(read)
    read = journals.read()
    assert (steps_in(read), read.is_all) == ([], True)
    journals.go_on(read)
    assert (journals.lost, {*journals.over()}) == (1, {"a.journal", "b.journal"})
    assert caplog.messages == [f"{path} is left out from there: at {end - len(event(2))} is no record"]


def test_records_that_cannot_be_used_are_lost_when_it_goes_on_behind_them(scenario: Scenario) -> None:
    path = scenario.closed("a", 0, 1, 2)
    journals = scenario.found()
    number, end = journals.source(path.name), journals.ends()[journals.source(path.name)]
    with path.open("r+b") as file:
        file.seek(end - len(event(2)) + 6)
        file.write(b"\xff")  # the mode
    read = journals.read()
    assert steps_in(read) == [0, 1]
    journals.go_on(read._replace(ends={number: end - len(event(2))}))
    assert journals.lost == 0
    journals.go_on(journals.read())
    assert journals.lost == 1


def test_places_of_steps_are_those_of_their_sources() -> None:
    steps = np.zeros(3, STEPS)
    steps["source"] = [4, 9, 4]
    assert of_sources(steps, {4: 100, 7: 50}).tolist() == [100, 0, 100]
