"""A folder of a process goes with it; one that a killed process left goes when the next one starts."""

import fcntl
import os
import tempfile
import time
from pathlib import Path

import pytest

from app.artifacts.temporary import emptied, own_folder


def left_behind(parent: Path, name: str = "own-left", ago_s: float = 60) -> Path:
    folder = parent / name
    folder.mkdir(mode=0o700)
    (folder / "file").write_text("")
    os.utime(folder, (time.time() - ago_s,) * 2)
    return folder


def test_it_is_there_while_it_is_used_and_gone_afterwards(tmp_path: Path) -> None:
    with own_folder("own-", tmp_path) as folder:
        assert folder.parent == tmp_path
        assert folder.name.startswith("own-")
        (folder / "file").write_text("")
    assert list(tmp_path.iterdir()) == []


def test_without_a_parent_it_lies_among_the_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with own_folder("own-") as folder:
        assert folder.parent == tmp_path


def test_what_a_killed_process_left_is_deleted(tmp_path: Path) -> None:
    left = left_behind(tmp_path)
    with own_folder("own-", tmp_path):
        assert not left.exists()


def test_what_another_process_uses_is_kept(tmp_path: Path) -> None:
    with own_folder("own-", tmp_path) as folder:
        os.utime(folder, (0, 0))
        with own_folder("own-", tmp_path) as other:
            assert folder.is_dir()
            assert other != folder


@pytest.mark.parametrize("kept", ["young", "of another prefix", "open to others", "a link"])
def test_what_may_belong_to_somebody_else_is_kept(tmp_path: Path, kept: str) -> None:
    name = "others-left" if kept == "of another prefix" else "own-left"
    if kept == "a link":
        (tmp_path / name).symlink_to(left_behind(tmp_path, "elsewhere"))
    else:
        left_behind(tmp_path, name, ago_s=0 if kept == "young" else 60)
    if kept == "open to others":
        (tmp_path / name).chmod(0o755)
    with own_folder("own-", tmp_path):
        assert (tmp_path / name / "file").exists()


def test_a_folder_of_a_clock_that_was_ahead_is_deleted(tmp_path: Path) -> None:
    left = left_behind(tmp_path, ago_s=-3600)
    with own_folder("own-", tmp_path):
        assert not left.exists()


def test_its_lock_is_released_with_it(tmp_path: Path) -> None:
    with own_folder("own-", tmp_path) as folder:
        descriptor = os.open(folder, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)


def test_an_emptied_folder_is_there_and_holds_nothing(tmp_path: Path) -> None:
    left = left_behind(tmp_path)
    for folder in (left, tmp_path / "new"):
        assert emptied(folder) == folder
        assert list(folder.iterdir()) == []
        assert folder.stat().st_mode & 0o077 == 0
