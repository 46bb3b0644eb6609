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


def test_the_file_of_a_deleted_version_is_written_over(versions):
    spares = SpareFiles()
    first = published(versions, "first", spares, b"1" * LARGE)
    place = inode(first)
    discard(first)
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
    spares = SpareFiles()
    first = published(versions, "first", spares, b"1" * LARGE)
    with (first / "data").open("rb") as reading:
        discard(first)
        second = published(versions, "second", spares, b"2" * LARGE)
        assert reading.read() == b"1" * LARGE
        assert os.fstat(reading.fileno()).st_nlink == 0, "it goes with its reader"
    assert (second / "data").read_bytes() == b"2" * LARGE


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
    hidden = [path for path in versions.iterdir() if path.name.startswith(".")]
    assert len(hidden) == 1
    assert list(hidden[0].iterdir())
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
    hidden = next(path for path in versions.iterdir() if path.name.startswith("."))
    discard(hidden)
    assert (published(versions, "second", spares, b"2" * LARGE) / "data").read_bytes() == b"2" * LARGE
