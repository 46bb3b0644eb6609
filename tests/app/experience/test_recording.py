"""What fails in a policy's folder costs rows, is tried again after a second, and is logged once for each reason."""

import errno
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.errors import DoesNotFit, NotReady
from app.experience import recording as module
from app.experience.cursor import Cursor
from app.experience.limits import RowLogLimits
from app.experience.query import Query
from app.experience.recording import Recording
from app.experience.row_log import RowLog
from app.experience.schema import columns_of
from app.rpc.messages import ExperienceFigures
from tests.support.experience import Simulator, append_steps, rows_of
from tests.support.specs import policy_spec

SPEC = policy_spec()


class FakeFollower:
    """Appends as many rows as `counts` says next; raises `error` instead, where there is one."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.error: Exception | None = None
        self.simulator = Simulator()
        self.lost_events = self.journal_bytes = 0
        self.logs: list[RowLog] = []

    def made(self, folder: Path, spec: Any, log: RowLog, kept_bytes: int) -> "FakeFollower":
        self.logs.append(log)
        return self

    def advance(self) -> int:
        if self.error is not None:
            raise self.error
        count = self.counts.pop(0) if self.counts else 0
        self.logs[-1].append(rows_of(columns_of(SPEC), [self.simulator.next() for _ in range(count)]), {})
        return count


class Scenario:
    """A recording with a clock that is put forward by hand."""

    def __init__(self, folder: Path, clock: SimpleNamespace, segment_bytes: int = 2**20) -> None:
        self.folder, self.clock = folder, clock
        self.follower = FakeFollower()
        limits = RowLogLimits(2**30, segment_bytes, 60.0)
        self.recording = Recording("p", folder, SPEC, limits, self.follower.made)

    def advance(self, *counts: int) -> list[int]:
        self.follower.counts += counts
        return [self.recording.advance() for _ in counts]

    def fail(self, reason: str) -> None:
        """Fails once, and is past the time for which nothing is tried."""
        self.follower.error = OSError(errno.EIO, reason)
        assert self.recording.advance() == 0
        self.follower.error = None
        self.clock.now += 1.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now, time=lambda: 0.0))
    return clock


@pytest.fixture
def scenario(tmp_path: Path, clock: SimpleNamespace) -> Iterator[Scenario]:
    scenario = Scenario(tmp_path / "p", clock)
    yield scenario
    scenario.recording.close()


def test_after_a_failure_nothing_is_tried_for_a_second(scenario: Scenario) -> None:
    scenario.follower.error = OSError("full")
    assert scenario.advance(1) == [0]
    scenario.follower.error = None
    scenario.clock.now += 0.99
    assert scenario.recording.advance() == 0
    scenario.clock.now += 0.02
    assert scenario.recording.advance() == 1


def test_a_reason_is_logged_once_until_there_is_another_one_or_it_is_over(
    scenario: Scenario, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "policy_server")
    for reason in ("full", "full", "broken", "full"):
        scenario.fail(reason)
    for _ in range(2):
        scenario.recording.advance()
    scenario.fail("full")
    not_recorded = "p: experience is not recorded: [Errno 5] {}; answers go on"
    assert caplog.messages == [
        *(not_recorded.format(reason) for reason in ("full", "broken", "full")),
        "p: experience is recorded again",
        not_recorded.format("full"),
    ]


def test_a_segment_that_cannot_be_closed_does_not_keep_rows_from_being_recorded(
    tmp_path: Path, clock: SimpleNamespace, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING, "policy_server")
    scenario = Scenario(tmp_path / "p", clock, segment_bytes=1)
    assert scenario.recording.close_next() is False, "there is nothing yet"
    assert scenario.advance(1, 1) == [1, 1]
    tries = []

    def full(_: RowLog) -> bool:
        tries.append(clock.now)
        raise OSError("full")

    with monkeypatch.context() as patch:
        patch.setattr(RowLog, "close_next", full)
        assert [scenario.recording.close_next() for _ in range(2)] == [False, False]
        assert scenario.advance(1) == [1]
    clock.now += 1.0
    assert (scenario.recording.close_next(), tries) == (True, [100.0])
    assert caplog.messages == ["p: experience is not closed: full; answers go on", "p: experience is closed again"]
    scenario.recording.close()


def test_an_error_that_nobody_expects_is_logged_with_its_place_and_all_is_read_anew_from_the_disk_later(
    scenario: Scenario, clock: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "policy_server")
    scenario.advance(3)
    scenario.follower.error = KeyError("speed")
    for _ in range(2):
        assert scenario.recording.advance() == 0
        clock.now += 29.0
        assert scenario.recording.advance() == 0, "it is not tried again yet"
        clock.now += 1.0
    assert scenario.recording.read(Query(), None)[0].rows == 3, "rows are read meanwhile"
    scenario.follower.error = None
    assert scenario.advance(2) == [2]
    assert len(scenario.follower.logs) == 3
    assert scenario.recording.read(Query(), None)[0].rows == 5
    assert caplog.messages == [
        "p: experience is not recorded: KeyError: 'speed'; answers go on",
        "p: experience is recorded again",
    ]
    assert caplog.records[0].exc_info is not None


def test_a_segment_whose_closing_fails_as_nobody_expects_is_tried_again(
    tmp_path: Path, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = Scenario(tmp_path / "p", clock, segment_bytes=1)
    scenario.advance(1, 1)
    with monkeypatch.context() as patch:
        patch.setattr(RowLog, "close_next", lambda _: {}["nothing"])
        assert scenario.recording.close_next() is False
    clock.now += 30.0
    assert scenario.recording.close_next() is True
    assert scenario.advance(1) == [1]
    assert len(scenario.follower.logs) == 1, "what is appended to is as it was"
    scenario.recording.close()


def test_without_a_log_reading_is_refused_with_the_reason_and_a_time_to_come_again(scenario: Scenario) -> None:
    scenario.folder.write_text("a file stands there")
    assert (scenario.recording.was_tried, scenario.advance(1)) == (False, [0])
    assert scenario.recording.was_tried
    with pytest.raises(NotReady, match=r"the experience of policy p cannot be kept now: .*File exists") as refused:
        scenario.recording.read(Query(), None)
    assert refused.value.retry_after_s == 1
    assert scenario.recording.figures() == ExperienceFigures()
    scenario.folder.unlink()


def test_a_reader_begins_with_the_oldest_row_or_the_next_one_and_goes_on_from_its_cursor(scenario: Scenario) -> None:
    scenario.advance(3)
    page, place = scenario.recording.read(Query(max_rows=2), None)
    assert (page.rows, place.row) == (2, 2)
    assert scenario.recording.read(Query(cursor=place.text()), None)[1] == place._replace(row=3)
    newest, at_end = scenario.recording.read(Query(cursor="end"), None)
    assert (newest.rows, at_end.row, at_end.reader == place.reader) == (0, 3, False)
    waited, _ = scenario.recording.read(Query(cursor="end"), place)
    assert waited.rows == 1, "one that waits goes on from where it was"


def test_a_cursor_of_another_log_or_from_behind_the_end_is_refused(scenario: Scenario) -> None:
    scenario.advance(3)
    _, place = scenario.recording.read(Query(), None)
    for other, why in (
        (place._replace(row=4), "is behind the end of what there is"),
        (Cursor(b"12345678", 0, place.reader), "is of another policy, or of experience that is gone"),
    ):
        with pytest.raises(DoesNotFit, match=f"cursor: '{other.text()}' {why}; expected the cursor of an answer"):
            scenario.recording.read(Query(cursor=other.text()), None)


def test_figures_count_what_this_process_has_recorded_and_what_the_folder_takes(
    scenario: Scenario, clock: SimpleNamespace
) -> None:
    before = RowLog(scenario.folder, columns_of(SPEC), RowLogLimits(2**30, 2**20, 60.0), SPEC.to_json())
    append_steps(before, [Simulator()], 5)
    before.close()
    scenario.follower.lost_events, scenario.follower.journal_bytes = 4, 10**6
    scenario.advance(3)
    scenario.recording.read(Query(max_rows=1), None)
    scenario.recording.read(Query(cursor="end"), None)
    figures = scenario.recording.figures()
    assert (figures.rows, figures.removed_rows, figures.lost_events, figures.behind) == (3, 0, 4, [7, 0])
    assert figures.size == 10**6 + sum(path.stat().st_size for path in scenario.folder.iterdir())
    clock.now += 120.0
    assert scenario.recording.figures().behind == [], "readers that do not come again are gone"
