"""A journal keeps what was written; where nothing can be written, that is an error, said at once, until it is over."""

import ctypes
import errno
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.experience.event import read_event
from app.experience.journal import JournalFull, JournalLimits, JournalReader, JournalWriter, Unreadable
from tests.support.recorded_steps import LAYOUT, event


def writer(folder: Path, file: int = 4096, unread: int = 2**30) -> JournalWriter:
    ticks = itertools.count(0, 10)
    return JournalWriter(folder, LAYOUT.digest, JournalLimits(file, unread), lambda: next(ticks))


def write_all(journal: JournalWriter, count: int) -> None:
    for step in range(count):
        journal.write(event(step))


def read(folder: Path) -> list[bytes]:
    found = []
    for path in sorted(folder.glob("*.journal")):
        reader = JournalReader(path, LAYOUT.digest)
        while (data := reader.data(reader.end())) is not None:
            found.append(bytes(data))
            reader.at += len(data)
        reader.close()
    return found


def test_events_are_read_as_they_were_written(tmp_path: Path) -> None:
    journal = writer(tmp_path)
    events = [event(step, types=[1] * (1 + step % 3)) for step in range(60)]
    for each in events:
        journal.write(each)
    assert read(tmp_path) == events
    assert len(list(tmp_path.iterdir())) > 1


def test_event_larger_than_a_journal_has_one_of_its_own(tmp_path: Path) -> None:
    journal = writer(tmp_path)
    large = event(1, types=[1] * 1000)
    for each in (event(0), large, event(2)):
        journal.write(each)
    found = read(tmp_path)
    assert len(found) == 3
    assert found[1] == large


def test_journal_is_over_when_its_writer_has_moved_on_or_is_gone(tmp_path: Path) -> None:
    journal = writer(tmp_path)
    journal.write(event(0))
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
                journal.write(event(0))
        assert tried == [0.0], "the disk is not asked for each event"
        now[0] = 2.0
        with pytest.raises(OSError, match="No space"):
            journal.write(event(0))
    assert list(tmp_path.iterdir()) == []
    now[0] = 4.0
    journal.write(event(1))
    assert len(read(tmp_path)) == 1


def test_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        writer(tmp_path / "file" / "journals").write(event(0))


def test_file_size_limit_is_an_error_and_kills_nobody(tmp_path: Path) -> None:
    code = f"""
import resource
from pathlib import Path
from tests.app.experience.test_journal import event, writer
resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))
try:
    writer(Path({str(tmp_path)!r})).write(event(0))
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
        steps = [read_event(each).head.step for each in read(tmp_path / "journals")]
        assert steps == list(range(len(steps)))
        assert len(steps) > 100
        for path in list((tmp_path / "journals").iterdir()):
            path.unlink()
        journal.write(event(1))
        journal.close()
    finally:
        libc.umount2(str(tmp_path).encode(), 2)


def test_what_nobody_reads_is_bounded(tmp_path: Path) -> None:
    journal = writer(tmp_path, 4096, unread=16384)
    with pytest.raises(JournalFull):
        write_all(journal, 1000)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 16384


def test_journal_of_another_policy_is_refused(tmp_path: Path) -> None:
    writer(tmp_path).write(event(0))
    (path,) = tmp_path.iterdir()
    with pytest.raises(Unreadable, match="another spec"):
        JournalReader(path, b"x" * 16)
