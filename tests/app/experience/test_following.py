"""Journals are followed into rows: each once, whatever is killed, and whichever worker wrote which step."""

import errno
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from app.experience import following
from app.experience.following import Follower
from app.experience.journal import JournalLimits, JournalWriter
from tests.support.recorded_steps import LAST, LAYOUT, MID, SPEC, RowsInMemory, write


def writer(folder: Path, size: int = 4096) -> JournalWriter:
    return JournalWriter(folder / "journals", LAYOUT.digest, JournalLimits(size, 2**30))


def journals(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "journals").iterdir())


def test_step_becomes_a_row_when_the_next_one_is_there(tmp_path: Path) -> None:
    rows, journal = RowsInMemory(), writer(tmp_path)
    follower = Follower(tmp_path, SPEC, rows)
    assert follower.advance() == 0
    write(journal, 0)
    assert follower.advance() == 0
    write(journal, 1)
    assert follower.advance() == 1
    (row,) = rows.rows
    assert (row["step"], row["step_type"], row["next_step_type"], row["observation"]) == (0, 0, 1, [0.0, 0.0])
    assert (row["reward"], row["discount"], row["version"], row["action"]) == (10.0, 0.5, "v0", 0)
    assert (row["session"], row["run_id"], row["incarnation"], row["seed"], row["mode"]) == ("s", "run", "one", -1, "")
    assert follower.lost_events == 0


def test_rows_are_there_once_however_often_the_recorder_is_killed(tmp_path: Path) -> None:
    rows, journal = RowsInMemory(), writer(tmp_path, size=512)
    for step in range(40):
        for session in ("a", "b"):
            write(journal, step, session)
        if step % 3 == 0:
            follower = Follower(tmp_path, SPEC, rows)  # as another process begins
        follower.advance()
        if step % 7 == 0:
            follower.advance()
    assert rows.steps("a") == [("a", 0, step) for step in range(39)]
    assert rows.steps("b") == [("b", 0, step) for step in range(39)]
    assert len(journals(tmp_path)) == 1, "what is read is removed"
    assert follower.lost_events == 0


def test_kill_between_the_append_and_the_removal_of_a_journal_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, journal = RowsInMemory(), writer(tmp_path)
    for step in range(3):
        write(journal, step)
    journal.close()
    follower = Follower(tmp_path, SPEC, rows)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            follower.advance()
    assert len(rows.rows) == 2
    assert len(journals(tmp_path)) == 1
    follower = Follower(tmp_path, SPEC, rows)
    follower.advance()
    assert len(rows.rows) == 2
    assert journals(tmp_path) == []
    write(journal, 3)
    follower.advance()
    assert [row["step"] for row in rows.rows] == [0, 1, 2], "the last step was kept, though its journal is gone"


def test_session_that_goes_from_worker_to_worker_is_one(tmp_path: Path) -> None:
    rows, workers = RowsInMemory(), [writer(tmp_path) for _ in range(3)]
    follower = Follower(tmp_path, SPEC, rows)
    for step in range(30):
        write(workers[-step % 3], step)  # the one that is read first has the later step
        if step % 4 == 0:
            follower.advance()
    follower.advance()
    assert [row["step"] for row in rows.rows] == list(range(29))
    assert follower.lost_events == 0


def test_step_that_is_missing_costs_its_rows_and_no_others(tmp_path: Path) -> None:
    rows, one, other = RowsInMemory(), writer(tmp_path), writer(tmp_path)
    follower = Follower(tmp_path, SPEC, rows)
    for step in (0, 1, 3, 4):
        write(one, step, "gap")
        write(other, step, "gap")  # sent again
    for step in range(3):
        write(other, step, "whole")
    follower.advance()
    follower.advance()  # in the first round, the one that is missing may still come
    assert [row["step"] for row in rows.rows if row["session"] == "gap"] == [0, 3]
    assert [row["step"] for row in rows.rows if row["session"] == "whole"] == [0, 1]
    assert follower.lost_events == 1


def test_step_that_another_machine_wrote_starts_a_row_and_ends_none(tmp_path: Path) -> None:
    rows, journal = RowsInMemory(), writer(tmp_path)
    follower = Follower(tmp_path, SPEC, rows)
    for step, copied in ((0, False), (1, False), (4, True), (5, False), (6, True), (7, False)):
        write(journal, step, copied=copied)
    write(journal, 2, "b", copied=True)
    write(journal, 3, "b")
    follower.advance()
    assert rows.steps("s") == [("s", 0, 0), ("s", 0, 4), ("s", 0, 6)]
    assert rows.steps("b") == [("b", 0, 2)]
    assert follower.lost_events == 0


def test_simulator_that_starts_anew_gives_no_row_but_a_boundary_does(tmp_path: Path) -> None:
    rows, journal = RowsInMemory(), writer(tmp_path)
    types = [[0, 0], [MID, LAST], [0, 0], [MID, MID]]
    for step, each in enumerate(types):
        write(journal, step, types=each)
    Follower(tmp_path, SPEC, rows).advance()
    assert rows.steps() == [("s", 0, 0), ("s", 1, 0), ("s", 1, 1), ("s", 0, 2), ("s", 1, 2)]


def test_rows_that_cannot_be_appended_are_appended_later(tmp_path: Path) -> None:
    rows, journal = RowsInMemory(), writer(tmp_path)
    follower = Follower(tmp_path, SPEC, rows)
    write(journal, 0)
    write(journal, 1)
    rows.error = OSError(errno.ENOSPC, "full")
    for _ in range(2):
        with pytest.raises(OSError, match="full"):
            follower.advance()
    write(journal, 2)
    rows.error = None
    assert follower.advance() == 2
    assert [row["step"] for row in rows.rows] == [0, 1]


def test_writer_that_kills_itself_loses_nothing_that_it_has_written(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from tests.app.experience.test_following import write, writer
journal = writer(Path({str(tmp_path)!r}))
for step in range(100):
    write(journal, step)
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": "."}, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    rows = RowsInMemory()
    Follower(tmp_path, SPEC, rows).advance()
    assert [row["step"] for row in rows.rows] == list(range(99))
    assert journals(tmp_path) == []


def test_journal_with_rubbish_is_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / "journals").mkdir()
    (tmp_path / "journals" / "0.journal").write_bytes(b"x" * 100)
    rows, journal = RowsInMemory(), writer(tmp_path)
    follower = Follower(tmp_path, SPEC, rows)
    write(journal, 0)
    write(journal, 1)
    assert follower.advance() == 1
    assert follower.lost_events == 1


def test_round_without_news_appends_nothing(tmp_path: Path) -> None:
    rows, journal = RowsInMemory(), writer(tmp_path)
    follower = Follower(tmp_path, SPEC, rows)
    write(journal, 0)
    write(journal, 1)
    for _ in range(5):
        follower.advance()
    assert rows.appends == 1


def test_journals_stay_for_the_last_steps_in_them_where_these_are_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each session steps once in several journals: what is oldest is what goes on next."""
    monkeypatch.setattr(following, "_FEW_CARRIED_BYTES", 1000)
    monkeypatch.setattr(following, "_MOST_CARRIED_BYTES", 2000)
    rows, journal, sessions = RowsInMemory(), writer(tmp_path, size=512), [f"s{number}" for number in range(20)]
    follower, most = Follower(tmp_path, SPEC, rows), 0
    for step in range(5):
        for session in sessions:
            write(journal, step, session)
            follower.advance()
            most = max(most, len(journals(tmp_path)))
        if step == 3:
            follower = Follower(tmp_path, SPEC, rows)  # as another process begins
    assert most > 10
    for session in sessions:
        assert rows.steps(session) == [(session, 0, step) for step in range(4)]
    assert follower.lost_events == 0


def test_what_cannot_stay_is_forgotten_and_the_log_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(following, "_FEW_CARRIED_BYTES", 1000)
    monkeypatch.setattr(following, "_MOST_CARRIED_BYTES", 2000)
    caplog.set_level(logging.WARNING, "policy_server.experience")
    rows, journal = RowsInMemory(), writer(tmp_path, size=512)
    follower = Follower(tmp_path, SPEC, rows, kept_bytes=2048)
    for step in range(4):
        for number in range(40):
            write(journal, step, f"s{number}")
            follower.advance()
    assert len(rows.rows) < 40
    assert follower.lost_events > 0
    assert len(caplog.messages) == 1
    assert "too large to be kept" in caplog.messages[0]
