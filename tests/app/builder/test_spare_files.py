import fcntl
import gc
import os
from pathlib import Path

import pytest

from app.builder.spare_files import SpareFiles
from saver.artifact import copy_files
from saver.artifact.publishing import discard, sweep

LARGE = 1 << 20


@pytest.fixture
def versions(tmp_path: Path) -> Path:
    (tmp_path / "versions").mkdir()
    return tmp_path / "versions"


def published(versions: Path, name: str, spares: SpareFiles, data: bytes, small: bytes = b"index") -> Path:
    """A version with a large file and a small one, written as a builder does."""
    source = versions.parent / "source"
    source.mkdir(exist_ok=True)
    (source / "data").write_bytes(data)
    (source / "index").write_bytes(small)
    copy_files(source, ["data", "index"], versions / name, {}, spares.opened)
    spares.note(versions / name, ["data", "index"])
    return versions / name


def inode(version: Path) -> int:
    return (version / "data").stat().st_ino


def hidden(versions: Path) -> list[Path]:
    return [path for folder in versions.iterdir() if folder.name.startswith(".") for path in folder.iterdir()]


def links_of_what_is_read_while_it_is_deleted(versions: Path) -> int:
    """Has the next version published meanwhile: each keeps its bytes."""
    spares = SpareFiles()
    first = published(versions, "first", spares, b"1" * LARGE)
    with (first / "data").open("rb") as reading:
        discard(first)
        second = published(versions, "second", spares, b"2" * LARGE)
        assert reading.read() == b"1" * LARGE
        assert (second / "data").read_bytes() == b"2" * LARGE
        return os.fstat(reading.fileno()).st_nlink


def test_the_file_of_a_deleted_version_is_written_over(versions):
    spares = SpareFiles()
    first = published(versions, "first", spares, b"1" * LARGE)
    place = inode(first)
    discard(first)
    assert [path.stat().st_ino for path in hidden(versions)] == [place], "it is not free for any other file"
    second = published(versions, "second", spares, b"2" * (LARGE + 7), b"another")
    assert inode(second) == place
    assert (second / "data").read_bytes() == b"2" * (LARGE + 7)
    assert (second / "index").read_bytes() == b"another"


def test_a_shorter_file_has_nothing_of_the_longer_one_before(versions):
    spares = SpareFiles()
    discard(published(versions, "first", spares, b"1" * 3 * LARGE))
    assert (published(versions, "second", spares, b"2" * LARGE) / "data").read_bytes() == b"2" * LARGE


def test_a_version_that_is_there_stays_as_it_is(versions):
    spares = SpareFiles()
    first = published(versions, "first", spares, b"1" * LARGE)
    second = published(versions, "second", spares, b"2" * LARGE)
    assert inode(first) != inode(second)
    assert (first / "data").read_bytes() == b"1" * LARGE


def test_a_file_that_somebody_reads_is_left_to_him(versions):
    assert links_of_what_is_read_while_it_is_deleted(versions) == 0, "it goes with its reader"


def test_of_many_deleted_versions_the_next_one_leaves_nothing(versions):
    spares = SpareFiles()
    for name in [published(versions, str(number), spares, b"1" * LARGE) for number in range(4)]:
        discard(name)
    assert len(hidden(versions)) == 4
    fifth = published(versions, "fifth", spares, b"2" * LARGE)
    assert [path.stat().st_ino for path in hidden(versions)] == [inode(fifth)]


@pytest.mark.parametrize("missing", ["F_SETLEASE", "links"])
def test_where_the_system_does_not_say_who_uses_a_file_none_is_written_over(versions, monkeypatch, missing):
    if missing == "links":  # a file system that counts none
        monkeypatch.setattr(os, "link", lambda path, name: Path(name).write_bytes(Path(path).read_bytes()))
    else:
        monkeypatch.delattr(fcntl, missing)
    links_of_what_is_read_while_it_is_deleted(versions)


def test_a_small_file_takes_no_place(versions):
    spares = SpareFiles()
    discard(published(versions, "first", spares, b"1" * LARGE))
    second = published(versions, "second", spares, b"2" * 10)
    assert (second / "data").read_bytes() == b"2" * 10
    assert (second / "data").stat().st_blocks * 512 < LARGE


def test_the_folder_goes_with_its_owner_and_stays_while_he_is_there(versions):
    spares = SpareFiles()
    published(versions, "first", spares, b"1" * LARGE)
    sweep(versions)
    assert len(hidden(versions)) == 1
    del spares
    gc.collect()
    assert [path.name for path in versions.iterdir()] == ["first"]


def test_without_second_names_there_are_no_spare_files(versions, monkeypatch):
    def refused(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refused)
    spares = SpareFiles()
    discard(published(versions, "first", spares, b"1" * LARGE))
    assert (published(versions, "second", spares, b"2" * LARGE) / "data").read_bytes() == b"2" * LARGE


def test_a_deleted_folder_of_spare_files_is_no_fault(versions):
    spares = SpareFiles()
    discard(published(versions, "first", spares, b"1" * LARGE))
    discard(hidden(versions)[0].parent)
    assert (published(versions, "second", spares, b"2" * LARGE) / "data").read_bytes() == b"2" * LARGE
