"""A stamp shows every change of a checkpoint's files, once they were at rest when it was taken."""

import os
import time
from pathlib import Path

import pytest

from app.artifacts import stamps
from app.artifacts.stamps import Stamp, stamp_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "step-5"
    (folder / "variables").mkdir(parents=True)
    (folder / "checkpoint.json").write_text("{}")
    (folder / "variables" / "variables.index").write_text("index")
    return folder


@pytest.fixture
def rested(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that nobody has changed for a minute."""
    written = max(path.stat().st_ctime_ns for path in (folder, *folder.rglob("*")))
    probe = folder.parent / "probe"
    probe.touch()
    while probe.stat().st_ctime_ns <= written:  # what changes in one tick of the file system's clock cannot be seen
        probe.touch()
    later = time.time_ns() + 60 * 10**9
    monkeypatch.setattr(stamps.time, "time_ns", lambda: later)
    return folder


def test_it_holds_while_nothing_changes(rested: Path) -> None:
    stamp = stamp_of(rested)
    assert stamp.settled
    assert stamp.holds(rested)
    assert stamp == stamp_of(rested)
    assert [one[0] for one in stamp.files] == ["checkpoint.json", "variables/variables.index"]


def grow(folder: Path) -> None:
    (folder / "variables" / "variables.index").write_text("longer index")


def same_size_and_time(folder: Path) -> None:
    path = folder / "variables" / "variables.index"
    before = path.stat()
    path.write_text("xedni")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(folder: Path) -> None:
    (folder / "new").write_text("index")
    (folder / "new").replace(folder / "variables" / "variables.index")


def add(folder: Path) -> None:
    (folder / "variables" / "variables.data-00000-of-00001").write_text("")


def delete(folder: Path) -> None:
    (folder / "checkpoint.json").unlink()


def forbid(folder: Path) -> None:
    (folder / "checkpoint.json").chmod(0)


@pytest.mark.parametrize("change", [grow, same_size_and_time, replace, add, delete, forbid])
def test_every_change_shows(rested: Path, change: object) -> None:
    stamp = stamp_of(rested)
    assert callable(change)
    change(rested)
    assert not stamp.holds(rested)


def test_a_folder_that_changed_just_now_is_not_trusted(folder: Path) -> None:
    stamp = stamp_of(folder)
    assert not stamp.settled
    assert not stamp.holds(folder)


@pytest.mark.parametrize("odd", ["link that leads nowhere", "pipe", "no variables", "no folder"])
def test_what_is_not_only_files_never_settles(rested: Path, odd: str) -> None:
    if odd == "pipe":
        os.mkfifo(rested / "variables" / "pipe")
    elif odd == "link that leads nowhere":
        (rested / "variables" / "link").symlink_to("nowhere")
    elif odd == "no variables":
        (rested / "variables").rename(rested / "weights")
    else:
        rested = rested / "gone"
    assert not stamp_of(rested).settled
    assert not stamp_of(rested).holds(rested)


def test_other_folders_in_it_do_not_count(rested: Path) -> None:
    before = stamp_of(rested)
    (rested / "serving").mkdir()
    (rested / "serving" / "saved_model.pb").write_text("graph")
    stamp = stamp_of(rested)
    assert stamp.settled
    assert stamp.files == before.files


def test_files_that_the_graph_of_an_export_reads_count(rested: Path) -> None:
    (rested / "assets").mkdir()
    (rested / "assets" / "vocabulary").write_text("a b")
    stamp = stamp_of(rested)
    assert stamp.holds(rested)
    (rested / "assets" / "vocabulary").write_text("a b c")
    assert not stamp.holds(rested)
    assert stamp_of(rested).files != stamp.files


def test_it_says_whether_there_are_variables_and_when_the_newest_file_was_written(folder: Path) -> None:
    os.utime(folder / "checkpoint.json", (1000, 1000))
    os.utime(folder / "variables" / "variables.index", (2000, 2000))
    assert stamp_of(folder).has_variables
    assert stamp_of(folder).written_at == 2000
    assert not stamp_of(folder / "variables").has_variables
    assert Stamp((), (), settled=True).written_at == 0
