"""A segment is closed as one Parquet file, whole or not at all; its rows are read, and decoded, in groups."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.experience.closed_segment import ClosedSegment, GroupCache, rows_in, write_closed
from app.experience.open_segment import CREATED, OpenSegment

SCHEMA = pa.schema([("train_step", pa.int64()), ("image", pa.binary())], {CREATED: b"12.5", b"says": b"more"})
LARGE = 2**30


def open_segment(folder: Path, batches: list[int], image_bytes: int = 0) -> OpenSegment:
    """A segment with batches of so many rows, which are numbered."""
    segment, number = OpenSegment.create(folder, 100, SCHEMA), 0
    for rows in batches:
        steps = pa.array(range(number, number + rows), pa.int64())
        images = pa.array([bytes(image_bytes)] * rows, pa.binary())
        segment.append(pa.RecordBatch.from_arrays([steps, images], schema=SCHEMA), {})
        number += rows
    segment.close()
    return segment


def closed(path: Path, train_steps: list[int], group: int, statistics: bool = True) -> ClosedSegment:
    """A file with one row for each of these, whose first one is number 100."""
    table = pa.table({"row": range(100, 100 + len(train_steps)), "train_step": train_steps})
    pq.write_table(table, path, row_group_size=group, write_statistics=statistics)
    return ClosedSegment(path, 100, 100 + len(train_steps), 12.5)


def read(segment: ClosedSegment, start: int, least: int | None = None) -> list[tuple[int, list[int]]]:
    found = segment.read(start, GroupCache(LARGE), least)
    return [(number, batch.column("row").to_pylist()) for number, batch in found]


@pytest.mark.parametrize(
    ("batches", "image_bytes", "groups"),
    [
        ([5000, 0, 5000, 10_000, 1], 0, [8192, 8192, 3617]),  # the most rows
        ([7, 30, 3], 150_000, [16, 16, 8]),  # the fewest, however large they are
        ([3, 4], 0, [7]),
        ([8192], 0, [8192]),
        ([], 0, []),
    ],
)
def test_rows_are_kept_in_order_in_groups_whatever_batches_they_came_in(
    tmp_path: Path, batches: list[int], image_bytes: int, groups: list[int]
) -> None:
    segment = open_segment(tmp_path, batches, image_bytes)
    path = write_closed(segment, segment.schema.metadata)
    assert path.name == "0000000000000100.parquet.partial"
    assert rows_in(path) == segment.rows
    with pq.ParquetFile(path) as file:
        assert [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)] == groups
        assert file.read(["train_step"]).column(0).to_pylist() == list(range(segment.rows))
        assert file.schema_arrow.metadata[b"says"] == b"more"
    assert segment.path.exists()


def test_a_segment_that_is_gone_while_it_is_closed_leaves_no_file(tmp_path: Path) -> None:
    segment = open_segment(tmp_path, [3])
    segment.path.unlink()
    with pytest.raises(FileNotFoundError):
        write_closed(segment, segment.schema.metadata)
    assert list(tmp_path.iterdir()) == []


def test_rows_are_read_from_the_group_that_holds_the_first_one(tmp_path: Path) -> None:
    segment = closed(tmp_path / "p", [0] * 7, group=3)
    assert (segment.rows, segment.size, segment.created) == (7, (tmp_path / "p").stat().st_size, 12.5)
    groups = [(100, [100, 101, 102]), (103, [103, 104, 105]), (106, [106])]
    for start, left in ((0, 0), (100, 0), (102, 0), (103, 1), (106, 2), (107, 3)):
        assert read(segment, start) == groups[left:]


@pytest.mark.parametrize(("least", "left"), [(None, [0, 1, 2]), (-1, [0, 1, 2]), (5, [0, 2]), (6, [2]), (10, [])])
def test_groups_of_older_weights_alone_are_left_out(tmp_path: Path, least: int | None, left: list[int]) -> None:
    train_steps = [5, 1, 4, 4, -1, 9]
    groups = [(100, [100, 101]), (102, [102, 103]), (104, [104, 105])]
    assert read(closed(tmp_path / "p", train_steps, group=2), 100, least) == [groups[index] for index in left]


def test_where_a_file_does_not_say_its_train_steps_all_is_read(tmp_path: Path) -> None:
    assert read(closed(tmp_path / "p", [1, 1], group=2, statistics=False), 100, 9) == [(100, [100, 101])]


def test_groups_that_were_used_last_are_decoded_once_within_the_bound(tmp_path: Path) -> None:
    path = tmp_path / "p"
    closed(path, [0] * 40, group=10)
    with pq.ParquetFile(path) as file:
        one_group = GroupCache(LARGE).get(path, 0, file).nbytes
        cache = GroupCache(2 * one_group)
        first, second = (cache.get(path, index, file) for index in (0, 1))
        assert cache.get(path, 0, file) is first
        third = cache.get(path, 2, file)  # in the place of the second, which was not used for longer
        assert [cache.get(path, index, file) is kept for index, kept in ((2, third), (0, first))] == [True, True]
        assert cache.get(path, 1, file) is not second


def test_a_group_larger_than_the_bound_is_kept_alone(tmp_path: Path) -> None:
    path = tmp_path / "p"
    closed(path, [0] * 20, group=10)
    cache = GroupCache(1)
    with pq.ParquetFile(path) as file:
        first = cache.get(path, 0, file)
        assert cache.get(path, 0, file) is first
        cache.get(path, 1, file)
        assert cache.get(path, 0, file) is not first


def test_groups_of_two_files_are_not_mixed_up(tmp_path: Path) -> None:
    cache = GroupCache(LARGE)
    segments = [closed(tmp_path / name, [number], group=1) for number, name in enumerate("ab")]
    found = [batch.column("train_step").to_pylist() for each in segments for _, batch in each.read(0, cache)]
    assert found == [[0], [1]]


def test_a_file_that_is_gone_or_no_parquet_cannot_be_read(tmp_path: Path) -> None:
    segment = closed(tmp_path / "p", [0], group=1)
    segment.path.write_bytes(b"PAR1 it is not")
    with pytest.raises(pa.ArrowException):
        read(segment, 0)
    with pytest.raises(pa.ArrowException):
        rows_in(segment.path)
    segment.path.unlink()
    with pytest.raises(FileNotFoundError):
        read(segment, 0)
