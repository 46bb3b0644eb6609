"""A policy's recorded rows, from the segments in its folder: Parquet files, and the open one, an Arrow stream.

Read in pieces, whatever the recording's size; a server may go on recording meanwhile.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from app.errors import UnusablePolicy
from app.experience import closed_segment, open_segment
from app.experience.arrow import SPEC, Values, shape_column, values_of
from app.experience.open_segment import whole_batches
from app.experience.schema import STRING, Column, columns_of
from app.wire.tensors import Array
from saver.artifact import PolicySpec

_PIECE_ROWS = 1 << 16
_PIECE_BYTES = 64 << 20


@dataclass(frozen=True)
class Piece:
    """Rows one below the other: `arrays` [rows, …] by column.

    `versions`: which of `version_names` has answered, and `modes` of `mode_names` how. `starts`: a number for each
    start of a session, `environments` for each row of these; the same in all pieces.
    """

    rows: int
    arrays: Mapping[str, Array]
    version_names: list[str]
    versions: Array
    mode_names: list[str]
    modes: Array
    starts: Array
    environments: Array


class Recording:
    """The segments of one policy, the oldest first.

    Args:
      folder: `DIR/{policy}`.
      spec: of the policy that the rows have to be of.

    Raises:
      UnusablePolicy: no rows lie there.
    """

    def __init__(self, folder: Path, spec: PolicySpec) -> None:
        self._folder = folder
        self._columns = columns_of(spec)
        # Where a size is not known it counts as one: what is gathered is weighed as it is.
        sizes = (math.prod(size or 1 for size in column.shape) for column in self._columns)
        self._row_bytes = 8 * sum(sizes)
        self._starts: dict[tuple[str, str], int] = {}
        self._environments: dict[tuple[int, int], int] = {}
        self.rows = sum(self._count(path) for path in self._segments())
        if not self.rows:
            raise UnusablePolicy(f"{folder} holds no recorded rows yet")

    @property
    def environments(self) -> int:
        """How many environments the pieces had so far."""
        return len(self._environments)

    def pieces(self) -> Iterator[Piece]:
        """Yields all rows in the order in which they were recorded.

        Raises:
          UnusablePolicy: a segment is damaged, or of another policy.
        """
        left, done = self.rows, set[str]()
        while fresh := [path for path in self._segments() if path.stem not in done]:
            for path in fresh:
                try:
                    for table in self._read(path):
                        if left <= 0:
                            return  # what was recorded since
                        for part in self._of_one_shape(path, table.slice(0, left)):
                            yield self._piece(path, part)
                        left -= table.num_rows
                except FileNotFoundError:
                    break  # closed meanwhile, or removed as the oldest: what lies there now is listed again
                done.add(path.stem)

    def _segments(self) -> list[Path]:
        """Of a segment that is being closed, both files may be there."""
        try:
            found = [
                path for path in self._folder.iterdir() if path.suffix in (closed_segment.SUFFIX, open_segment.SUFFIX)
            ]
        except OSError as error:
            raise UnusablePolicy(f"{self._folder} cannot be read: {error.strerror}") from None
        chosen: dict[str, Path] = {}
        for path in sorted(found):
            if (
                path.stem.isdigit()
                and path.exists()
                and (path.suffix == closed_segment.SUFFIX or path.stem not in chosen)
            ):
                chosen[path.stem] = path
        return [chosen[stem] for stem in sorted(chosen)]

    def _count(self, path: Path) -> int:
        """The rows of a segment; those that are in an open one now."""
        try:
            if path.suffix == closed_segment.SUFFIX:
                return closed_segment.rows_in(path)
            return sum(batch.num_rows for batch in _stream(path))
        except FileNotFoundError:
            return 0
        except (pa.ArrowException, OSError) as error:
            raise _damaged(path, error) from None

    def _read(self, path: Path) -> Iterator[pa.Table]:
        try:
            yield from _gathered(self._closed(path) if path.suffix == closed_segment.SUFFIX else self._open(path))
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError) as error:
            raise _damaged(path, error) from None

    def _closed(self, path: Path) -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(path) as file:
            self._check(path, file.schema_arrow)
            yield from file.iter_batches(max(1, min(_PIECE_ROWS, _PIECE_BYTES // self._row_bytes)))

    def _open(self, path: Path) -> Iterator[pa.RecordBatch]:
        with pa.OSFile(str(path)) as file:
            self._check(path, pa.ipc.open_stream(file).schema)
        yield from _stream(path)

    def _check(self, path: Path, schema: pa.Schema) -> None:
        """Compares the columns that the policy has with those in a segment; there may be more."""
        try:
            recorded = PolicySpec.from_json(json.loads((schema.metadata or {})[SPEC]))
            columns = set(columns_of(recorded))
        except (AssertionError, KeyError, TypeError, ValueError):
            raise UnusablePolicy(f"{path} says nothing of a policy's spec: it is no segment of experience") from None
        for column in self._columns:
            if column not in columns:
                there = next((_described(other) for other in columns if other.name == column.name), "not in it")
                raise UnusablePolicy(
                    f"{path} was recorded of another policy: {column.name} is {there}, expected {_described(column)}"
                )
            if column.name not in schema.names:
                raise UnusablePolicy(f"{path} has no column {column.name}: an earlier server has written it")

    def _of_one_shape(self, path: Path, table: pa.Table) -> Iterator[pa.Table]:
        """Cuts a table where the shape of a tensor changes of which not all dimensions are known."""
        changes = np.zeros(table.num_rows - 1, bool)
        for column in self._columns:
            if None in column.shape:
                try:
                    shapes = np.array(table.column(shape_column(column.name)).to_pylist())
                except KeyError as error:
                    raise _damaged(path, error) from None
                changes |= (shapes[1:] != shapes[:-1]).any(axis=1)
        edges = [0, *(np.flatnonzero(changes) + 1).tolist(), table.num_rows]
        for start, end in pairwise(edges):
            yield table.slice(start, end - start)

    def _piece(self, path: Path, table: pa.Table) -> Piece:
        try:
            version_names, versions = _encoded(table.column("version"))
            mode_names, modes = _encoded(table.column("mode"))
            kept = [column for column in self._columns if column.name not in _BY_CODE]
            values = values_of(kept, table)
            arrays = {column.name: _array(values[column.name], column) for column in kept}
            starts, environments = self._numbered(table, arrays["row"])
        except (pa.ArrowException, ValueError, KeyError) as error:
            raise _damaged(path, error) from None
        return Piece(table.num_rows, arrays, version_names, versions, mode_names, modes, starts, environments)

    def _numbered(self, table: pa.Table, rows: Array) -> tuple[Array, Array]:
        """[rows] the numbers of each one's start of a session, and of its environment."""
        sessions, session = _encoded(table.column("session"))
        incarnations, incarnation = _encoded(table.column("incarnation"))
        found, inverse = np.unique(session * len(incarnations) + incarnation, return_inverse=True)
        keys = [
            (sessions[code // len(incarnations)], incarnations[code % len(incarnations)]) for code in found.tolist()
        ]
        starts = np.array([self._starts.setdefault(key, len(self._starts)) for key in keys], np.int64)[inverse]
        width = int(rows.max()) + 1
        found, inverse = np.unique(starts * width + rows, return_inverse=True)
        pairs = [divmod(code, width) for code in found.tolist()]
        numbers = [self._environments.setdefault(pair, len(self._environments)) for pair in pairs]
        return starts, np.array(numbers, np.int64)[inverse]


# Columns of which few values come again and again: they are read as numbers.
_BY_CODE = ("version", "mode", "session", "incarnation", "run_id")


def _stream(path: Path) -> Iterator[pa.RecordBatch]:
    """The whole batches of an open segment; what its writer is just writing comes another time."""
    with pa.OSFile(str(path)) as file:
        for batch, _ in whole_batches(pa.ipc.open_stream(file)):
            yield batch


def _gathered(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Batches together to pieces of some size: an open segment has many small ones."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(b.num_rows for b in waiting) >= _PIECE_ROWS or sum(b.nbytes for b in waiting) >= _PIECE_BYTES:
            yield pa.Table.from_batches(waiting)
            waiting = []
    if sum(b.num_rows for b in waiting):
        yield pa.Table.from_batches(waiting)


def _encoded(column: pa.ChunkedArray) -> tuple[list[str], Array]:
    """The different values of a column of strings, and for each row the place of its own among them."""
    encoded = pc.dictionary_encode(column).combine_chunks()
    encoded = encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def _array(values: Values, column: Column) -> Array:
    if column.dtype != STRING:
        return np.asarray(values)
    return np.array(values, object).reshape(len(values), *(size or -1 for size in column.shape))


def _described(column: Column) -> str:
    return f"{column.dtype} {list(column.shape)}"


def _damaged(path: Path, error: Exception) -> UnusablePolicy:
    lines = str(error).strip().splitlines()
    return UnusablePolicy(f"{path} is damaged: {lines[0][:200] if lines else type(error).__name__}")
