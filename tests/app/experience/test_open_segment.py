"""A segment grows by whole batches, is read from any row on, and is opened again with all that was written whole."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from app.experience import open_segment
from app.experience.open_segment import CREATED, OpenSegment

SCHEMA = pa.schema([("step", pa.int64()), ("name", pa.string())], {CREATED: b"12.5"})


def batch(*steps: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([{"step": step, "name": f"s{step}"} for step in steps], SCHEMA)


def read(segment: OpenSegment, start: int) -> list[tuple[int, list[int]]]:
    return [(number, found.column("step").to_pylist()) for number, found in segment.read(start)]


@contextmanager
def created(folder: Path, first: int = 0) -> Iterator[OpenSegment]:
    segment = OpenSegment.create(folder, first, SCHEMA)
    try:
        yield segment
    finally:
        segment.close()


@contextmanager
def recovered(path: Path) -> Iterator[tuple[OpenSegment, dict[bytes, bytes]]]:
    segment, noted = OpenSegment.recover(path)
    try:
        yield segment, noted
    finally:
        segment.close()


def test_a_new_one_is_named_for_its_first_row_and_is_a_stream_of_its_columns(tmp_path: Path) -> None:
    with created(tmp_path, 42) as segment:
        assert (segment.first, segment.end, segment.rows, segment.created) == (42, 42, 0, 12.5)
        segment.append(batch(1, 2), {})
        segment.append(batch(3), {})
        assert (segment.first, segment.end, segment.rows) == (42, 45, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["0000000000000042.arrows"]
    assert segment.path.stat().st_size == segment.size
    table = pa.ipc.open_stream(segment.path.read_bytes()).read_all()
    assert table.column("name").to_pylist() == ["s1", "s2", "s3"]


def test_one_that_cannot_be_begun_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError("full")

    with monkeypatch.context() as patch:
        patch.setattr(open_segment.os, "pwrite", full)
        with pytest.raises(OSError, match="full"):
            OpenSegment.create(tmp_path, 0, SCHEMA)
    assert list(tmp_path.iterdir()) == []
    assert not [link for link in map(os.path.realpath, Path("/proc/self/fd").iterdir()) if str(tmp_path) in link]


def test_it_is_read_from_the_batch_that_holds_a_row(tmp_path: Path) -> None:
    with created(tmp_path, 10) as segment:
        for steps in ((0, 1, 2), (), (3,), (4, 5)):
            segment.append(batch(*steps), {})
        whole = [(10, [0, 1, 2]), (13, [3]), (14, [4, 5])]
        for start, left in ((0, 0), (10, 0), (12, 0), (13, 1), (14, 2), (15, 2), (16, 3), (99, 3)):
            assert read(segment, start) == whole[left:]
    assert read(segment, 13) == whole[1:], "when it is closed, too"
    segment.path.unlink()
    with pytest.raises(FileNotFoundError):
        read(segment, 13)
    assert read(segment, 16) == []


def test_a_disk_that_takes_a_few_bytes_at_a_time_gets_the_whole_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.pwrite
    monkeypatch.setattr(open_segment.os, "pwrite", lambda number, data, at: write(number, data[:7], at))
    with created(tmp_path) as segment:
        segment.append(batch(1, 2), {})
        assert read(segment, 0) == [(0, [1, 2])]


def test_it_is_opened_again_with_what_was_noted_last_and_goes_on(tmp_path: Path) -> None:
    with created(tmp_path, 7) as segment:
        segment.append(batch(1, 2), {b"a": b"old", b"b": b"kept"})
        segment.append(batch(), {b"a": b"new"})
    with recovered(segment.path) as (again, noted):
        assert noted == {b"a": b"new", b"b": b"kept"}
        assert (again.first, again.end, again.created, again.size) == (7, 9, 12.5, segment.size)
        again.append(batch(3), {})
        assert read(again, 8) == [(7, [1, 2]), (9, [3])]
    with recovered(segment.path) as (once_more, _):
        assert once_more.batches == again.batches


def test_half_a_batch_at_its_end_is_cut_off(tmp_path: Path) -> None:
    with created(tmp_path) as segment:
        segment.append(batch(1), {b"a": b"1"})
        whole = segment.size
        segment.append(batch(2, 3), {b"a": b"2"})
    os.truncate(segment.path, segment.size - 9)
    with recovered(segment.path) as (again, noted):
        assert (again.end, again.size, noted) == (1, whole, {b"a": b"1"})
        assert segment.path.stat().st_size == whole
        again.append(batch(4), {})
        assert read(again, 0) == [(0, [1]), (1, [4])]


@pytest.mark.parametrize("content", [b"", b"\xff\xff\xff\xff\x10", b"no stream at all" * 10])
def test_what_has_not_even_its_columns_is_an_error_and_stays_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "0000000000000000.arrows"
    path.write_bytes(content)
    with pytest.raises((OSError, ValueError)):  # Arrow's own errors are of both kinds
        OpenSegment.recover(path)
    assert path.read_bytes() == content
