"""An open segment → a Parquet file, which appears whole; and the reading of its rows."""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from app.experience.open_segment import PARTIAL_SUFFIX, OpenSegment

SUFFIX = ".parquet"
# The rows that are read, or decoded, at a time: a few milliseconds of work, and at least a few rows.
_GROUP_BYTES, _MOST_GROUP_ROWS, _LEAST_GROUP_ROWS = 2 * 2**20, 8192, 16


class ClosedSegment:
    """A Parquet file with the rows from `first` to before `end`; `created`: Unix time."""

    def __init__(self, path: Path, first: int, end: int, created: float) -> None:
        self.path = path
        self.first = first
        self.end = end
        self.created = created
        self.size = path.stat().st_size

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return self.end - self.first

    def read(
        self, start: int, cache: GroupCache, least_train_step: int | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yields the numbers of first rows and batches, from the one that holds the row `start`.

        `least_train_step`: batches may be left out that have no row of so many steps.

        Raises:
          OSError, pa.ArrowException: it is gone, or cannot be read.
        """
        with pq.ParquetFile(self.path) as file:
            number = self.first
            for index in range(file.metadata.num_row_groups):
                group = file.metadata.row_group(index)
                if number + group.num_rows > start and not _is_older(group, least_train_step):
                    yield number, cache.get(self.path, index, file)
                number += group.num_rows


class GroupCache:
    """Decoded groups of rows, those used last, of at most so many bytes: readers go through them step by step."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._groups: OrderedDict[tuple[Path, int], pa.RecordBatch] = OrderedDict()
        self._bytes = 0

    def get(self, path: Path, index: int, file: pq.ParquetFile) -> pa.RecordBatch:
        """Returns a group of rows of a file."""
        key = (path, index)
        batch = self._groups.pop(key, None)
        if batch is None:
            table = file.read_row_group(index, use_threads=False).combine_chunks()
            batch = table.to_batches()[0]
            self._bytes += batch.nbytes
        self._groups[key] = batch
        while self._bytes > self._most_bytes and len(self._groups) > 1:
            self._bytes -= self._groups.popitem(last=False)[1].nbytes
        return batch


def rows_in(path: Path) -> int:
    """Returns how many rows a file has; raises OSError or pa.ArrowException where it cannot be read."""
    count: int = pq.read_metadata(path).num_rows
    return count


def metadata_in(path: Path) -> dict[bytes, bytes]:
    """Returns the metadata of a file's schema; raises OSError or pa.ArrowException where it cannot be read."""
    return dict(pq.read_metadata(path).metadata or {})


def write_closed(segment: OpenSegment, metadata: Mapping[bytes, bytes]) -> Path:
    """Writes the rows of a segment as Parquet, under a name that no reader looks at; returns the path.

    `metadata`: of the file's schema. It is on the disk when this returns, as the segment is removed then.

    Raises:
      OSError: it cannot be written.
    """
    partial = segment.path.with_suffix(SUFFIX + PARTIAL_SUFFIX)
    each = segment.size // max(1, segment.rows) + 1
    rows = max(_LEAST_GROUP_ROWS, min(_MOST_GROUP_ROWS, _GROUP_BYTES // each))
    try:
        schema = segment.schema.with_metadata(metadata)
        with pq.ParquetWriter(partial, schema, compression="zstd", compression_level=1) as writer:
            waiting: list[pa.RecordBatch] = []
            for _, batch in segment.read(segment.first):
                waiting.append(batch)
                while (count := sum(each.num_rows for each in waiting)) >= rows:
                    table = pa.Table.from_batches(waiting)
                    writer.write_table(table.slice(0, rows), row_group_size=rows)
                    waiting = table.slice(rows).to_batches() if count > rows else []
            if waiting:
                writer.write_table(pa.Table.from_batches(waiting), row_group_size=rows)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    return partial


def _is_older(group: pq.RowGroupMetaData, least_train_step: int | None) -> bool:
    if least_train_step is None:
        return False
    for index in range(group.num_columns):
        column = group.column(index)
        if column.path_in_schema == "train_step":
            found = column.statistics
            return found is not None and found.has_min_max and found.max < least_train_step
    return False
