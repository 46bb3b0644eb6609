"""A journal keeps what was written; where nothing can be written, that is an error, said at once, until it is over."""

import ctypes
import errno
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.experience.event import Who
from app.experience.journal import JournalFull, JournalLimits, JournalReader, JournalWriter
from app.experience.records import Unreadable
from app.experience.sources import Sources
from tests.support.recorded_steps import LAYOUT, event, who, write


def writer(folder: Path, file: int = 4096, unread: int = 2**30) -> JournalWriter:
    ticks = itertools.count(0, 10)
    return JournalWriter(folder, LAYOUT.digest, JournalLimits(file, unread), lambda: next(ticks))


def write_all(journal: JournalWriter, count: int) -> None:
    for step in range(count):
        write(journal, step)


def read(folder: Path) -> list[tuple[Who, str, int, int]]:
    """The session of each step, the version that answered it, its number and its rows."""
    sources, found = Sources(LAYOUT), []
    for path in sorted(folder.glob("*.journal")):
        reader = JournalReader(path, LAYOUT.digest)
        part = sources.read(sources.add(reader.records), (reader.at, reader.end()), (2**20, 2**30))
        assert (part.place, len(part.unusable)) == (reader.end(), 0)
        for step in part.steps:
            who, version = sources.who(int(step["session"])), sources.version(int(step["version"]))
            found.append((who, version, int(step["step"]), int(step["rows"])))
        reader.close()
    return found


def test_events_are_read_as_they_were_written(tmp_path: Path) -> None:
    journal = writer(tmp_path)
    expected = []
    for step in range(200):
        session, rows = "ab"[step % 2], 1 + step // 30 % 3
        write(journal, step, session, types=[1] * rows, incarnation=session)
        expected.append((who(session, session), f"v{step}", step, rows))
    assert read(tmp_path) == expected
    assert len(list(tmp_path.iterdir())) > 1


def test_names_are_written_once_in_each_file_and_again_where_another_session_has_them(tmp_path: Path) -> None:
    journal = writer(tmp_path)
    for step in range(40):
        journal.write(event(step), "s", who(), "v")
    journal.write(event(40), "other", who(), "v")  # of the same incarnation, which chance does not give
    journal.write(event(41), "s", who(), "v")
    assert [session for (session, _, _), _, _, _ in read(tmp_path)] == ["s"] * 40 + ["other", "s"]
    assert b"".join(path.read_bytes() for path in tmp_path.iterdir()).count(b"srunone") == 2


def test_event_larger_than_a_journal_has_one_of_its_own(tmp_path: Path) -> None:
    journal = writer(tmp_path)
    for step, rows in ((0, 1), (1, 1000), (2, 1)):
        write(journal, step, types=[1] * rows)
    assert [(step, rows) for _, _, step, rows in read(tmp_path)] == [(0, 1), (1, 1000), (2, 1)]


def test_journal_is_over_when_its_writer_has_moved_on_or_is_gone(tmp_path: Path) -> None:
    journal = writer(tmp_path)
    write(journal, 0)
    (path,) = tmp_path.iterdir()
    reader = JournalReader(path, LAYOUT.digest)
    assert not reader.is_over()
    journal.close()
    assert reader.is_over()
    reader.close()


def test_full_disk_is_an_error_until_there_is_room_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    journal = JournalWriter(tmp_path, LAYOUT.digest, JournalLimits(4096, 2**30), lambda: now[0])
    tried = []

    def full(*_: object) -> None:
        tried.append(now[0])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        for _ in range(5):
            with pytest.raises(OSError, match="No space"):
                write(journal, 0)
        assert tried == [0.0], "the disk is not asked for each event"
        now[0] = 2.0
        with pytest.raises(OSError, match="No space"):
            write(journal, 0)
    assert list(tmp_path.iterdir()) == []
    now[0] = 4.0
    write(journal, 1)
    assert len(read(tmp_path)) == 1


def test_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        write(writer(tmp_path / "file" / "journals"), 0)


def test_file_size_limit_is_an_error_and_kills_nobody(tmp_path: Path) -> None:
    code = f"""
import resource
from pathlib import Path
from tests.app.experience.test_journal import write, writer
resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))
try:
    write(writer(Path({str(tmp_path)!r})), 0)
except OSError as error:
    print(error.strerror)
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": "."}, timeout=60, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout.strip()) == (0, "File too large"), ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_real_disk_that_is_full_costs_events_and_nothing_else(tmp_path: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", str(tmp_path).encode(), b"tmpfs", 0, b"size=64k") != 0:
        pytest.skip("no file system may be mounted here")
    try:
        journal = writer(tmp_path / "journals", 16384)
        with pytest.raises(OSError, match="No space"):
            write_all(journal, 100_000)
        steps = [step for _, _, step, _ in read(tmp_path / "journals")]
        assert steps == list(range(len(steps)))
        assert len(steps) > 100
        for path in list((tmp_path / "journals").iterdir()):
            path.unlink()
        write(journal, 1)
        journal.close()
    finally:
        libc.umount2(str(tmp_path).encode(), 2)


def test_what_nobody_reads_is_bounded(tmp_path: Path) -> None:
    journal = writer(tmp_path, 4096, unread=16384)
    with pytest.raises(JournalFull):
        write_all(journal, 1000)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 16384


def test_journal_of_another_policy_is_refused(tmp_path: Path) -> None:
    write(writer(tmp_path), 0)
    (path,) = tmp_path.iterdir()
    with pytest.raises(Unreadable, match="another spec"):
        JournalReader(path, b"x" * 16)
