"""A listing says which folders may be checkpoints, which of them are new, and why the rest is none."""

import errno
import os
from pathlib import Path

import pytest

from app.control.listing import Listing


def make(parent: Path, *names: str) -> Path:
    for name in names:
        (parent / name).mkdir(parents=True, exist_ok=True)
    return parent


def test_it_says_what_is_new_and_nothing_where_nothing_has_changed(tmp_path: Path) -> None:
    listing = Listing([make(tmp_path, "a")])
    assert listing.read() == {tmp_path / "a"}
    assert listing.read() is None
    make(tmp_path, "b")
    assert listing.read() == {tmp_path / "b"}
    (tmp_path / "a").rmdir()
    assert listing.read() == set()
    assert listing.folders == {"b": tmp_path / "b"}


def test_another_folder_under_the_same_name_is_new(tmp_path: Path) -> None:
    listing = Listing([make(tmp_path / "c", "a")])
    listing.read()
    make(tmp_path, "other")
    (tmp_path / "c" / "a").rename(tmp_path / "before")
    (tmp_path / "other").rename(tmp_path / "c" / "a")
    assert listing.read() == {tmp_path / "c" / "a"}


def test_of_one_name_in_two_folders_the_first_one_wins(tmp_path: Path) -> None:
    first, second = make(tmp_path / "1", "a"), make(tmp_path / "2", "a", "b")
    listing = Listing([first, second])
    assert listing.read() == {first / "a", second / "b"}
    assert listing.folders == {"a": first / "a", "b": second / "b"}
    (first / "a").rmdir()
    assert listing.read() == {second / "a"}


def test_a_folder_that_is_not_there_yet_is_empty(tmp_path: Path) -> None:
    listing = Listing([tmp_path / "checkpoints"])
    assert listing.read() == set()
    make(tmp_path / "checkpoints", "a")
    assert set(listing.folders) == set()
    assert listing.read() == {tmp_path / "checkpoints" / "a"}


def test_what_is_being_written_is_not_there_yet(tmp_path: Path) -> None:
    listing = Listing([make(tmp_path, ".a.partial", "_tmp")])
    listing.read()
    assert (listing.folders, listing.others, listing.unreadable) == ({}, {}, {})


def test_what_is_no_checkpoint_has_its_reason(tmp_path: Path) -> None:
    make(tmp_path, "a b", "export")
    (tmp_path / "step-5").write_text("")
    (tmp_path / "model.h5").write_text("")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "link").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    listing = Listing([tmp_path])
    assert listing.read() == set()
    assert {name: reason.partition(",")[0].partition(":")[0] for name, reason in listing.others.items()} == {
        "a b": "its name cannot be asked for",
        f"{tmp_path.name}/export": "its name is that of the export's own weights",
        "link": "it is a link that leads nowhere",
        "pipe": "it is a pipe",
        "step-5": "it is a file",
    }
    assert list(listing.unreadable) == ["model.h5"]


def test_a_link_to_a_folder_may_be_a_checkpoint_and_is_known_as_a_link(tmp_path: Path) -> None:
    make(tmp_path, "a")
    (tmp_path / "latest").symlink_to("a")
    listing = Listing([tmp_path])
    listing.read()
    assert listing.folders == {"a": tmp_path / "a", "latest": tmp_path / "latest"}
    assert listing.links == {tmp_path / "latest"}


def test_a_path_belongs_to_the_folder_that_it_lies_in(tmp_path: Path) -> None:
    listing = Listing([make(tmp_path / "1", "a"), make(tmp_path / "2", "b")])
    listing.read()
    assert listing.named(f"{tmp_path}/1/a/variables/x") == tmp_path / "1" / "a"
    assert listing.named(f"{tmp_path}/2/b") == tmp_path / "2" / "b"
    assert listing.named(f"{tmp_path}/1/gone/x") is None
    assert listing.named(f"{tmp_path}/11/a") is None


def test_a_folder_that_may_not_be_read_has_its_reason_and_the_others_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, open_ = make(tmp_path / "closed", "a"), make(tmp_path / "open", "b")
    refuse(monkeypatch, closed, errno.EACCES)
    listing = Listing([closed, open_])
    listing.read()
    assert listing.unreadable == {"closed": "no checkpoint can be looked for: Permission denied"}
    assert list(listing.folders) == ["b"]


def test_what_the_machine_is_to_blame_for_takes_no_checkpoint_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = Listing([make(tmp_path, "a")])
    listing.read()
    refuse(monkeypatch, tmp_path, errno.EMFILE)
    with pytest.raises(OSError, match="Too many open files"):
        listing.read()
    assert list(listing.folders) == ["a"]


def refuse(monkeypatch: pytest.MonkeyPatch, folder: Path, code: int) -> None:
    """No listing of the folder can be had."""
    scandir = os.scandir

    def refusing(path: Path) -> object:
        if path == folder:
            raise OSError(code, os.strerror(code), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
