"""Batches of rows → a file that grows: an Arrow IPC stream, each batch written at once and complete in itself.

What a process that was killed wrote last may be a part of a batch: it is cut off when the file is opened again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

SUFFIX = ".arrows"
# When it was begun, in the metadata of its schema: Unix time.
CREATED = b"policy_server.created"
# While it is made.
PARTIAL_SUFFIX = ".partial"


class Written(NamedTuple):
    """A batch in the file: its first row's number, how many rows it has, and its bytes."""

    first: int
    rows: int
    offset: int
    size: int


class _Sink:
    """Takes what Arrow writes, until it is taken."""

    closed = False

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, piece: bytes) -> int:
        self._pieces.append(bytes(piece))
        return len(piece)

    def flush(self) -> None:
        """Has nothing to do."""

    def close(self) -> None:
        """Has nothing to do."""

    def take(self) -> bytes:
        taken, self._pieces = b"".join(self._pieces), []
        return taken


class OpenSegment:
    """The segment that rows are appended to. One thread writes; others may read what `batches` lists."""

    def __init__(self, path: Path, first: int, schema: pa.Schema, descriptor: int, size: int) -> None:
        self.path = path
        self.first = first
        self.schema = schema
        self.created = float(schema.metadata[CREATED])
        self.size = size
        self.batches: list[Written] = []
        self._descriptor = descriptor
        self._sink = _Sink()
        self._writer = pa.ipc.new_stream(pa.PythonFile(self._sink, mode="w"), schema)
        self._writer.write_batch(pa.RecordBatch.from_pylist([], schema))  # with it comes the schema, which is there
        self._sink.take()

    @classmethod
    def create(cls, folder: Path, first: int, schema: pa.Schema) -> OpenSegment:
        """Makes a new one, whose first row will have the number `first`.

        Raises:
          OSError: it cannot be written.
        """
        path = folder / f"{first:016d}{SUFFIX}"
        partial = path.with_suffix(PARTIAL_SUFFIX)
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            segment = cls(path, first, schema, descriptor, 0)
            segment._write(schema.serialize().to_pybytes())
            os.fsync(descriptor)  # or after a power cut nobody knows where to go on
            partial.rename(path)
            sync_folder(folder)
        except BaseException:
            os.close(descriptor)
            partial.unlink(missing_ok=True)
            raise
        return segment

    @classmethod
    def recover(cls, path: Path) -> tuple[OpenSegment, dict[bytes, bytes]]:
        """Opens one that is there, and returns it with what was noted last, by its key; cuts off half of a batch.

        Raises:
          OSError, pa.ArrowInvalid, ValueError: there is not even a schema in it, or it cannot be read.
        """
        number = first = int(path.stem)
        noted: dict[bytes, bytes] = {}
        batches = []
        with pa.OSFile(str(path)) as file:
            reader = pa.ipc.open_stream(file)
            size = _place(file)
            for batch, with_it in whole_batches(reader):
                end = _place(file)
                batches.append(Written(number, batch.num_rows, size, end - size))
                number, size = number + batch.num_rows, end
                noted |= with_it
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        os.ftruncate(descriptor, size)
        segment = cls(path, first, reader.schema, descriptor, size)
        segment.batches = batches
        return segment, noted

    @property
    def end(self) -> int:
        """The number that the next row gets."""
        return self.batches[-1].first + self.batches[-1].rows if self.batches else self.first

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return self.end - self.first

    def append(self, batch: pa.RecordBatch, noted: Mapping[bytes, bytes]) -> None:
        """Writes a batch, whole or not at all.

        Raises:
          OSError: it cannot be written; the segment is as it was before.
        """
        self._writer.write_batch(batch, custom_metadata=dict(noted))
        data = self._sink.take()
        written = Written(self.end, batch.num_rows, self.size, len(data))
        self._write(data)
        self.batches.append(written)

    def close(self) -> None:
        """Closes the file; it can be read further."""
        os.close(self._descriptor)

    def read(self, start: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yields the numbers of first rows and batches, from the one that holds the row `start`.

        Raises:
          FileNotFoundError: it is gone, closed or removed meanwhile.
        """
        batches = self.batches[self._index(start) :]
        if not batches:
            return
        with self.path.open("rb") as file:
            for written in batches:
                if written.rows:
                    data = os.pread(file.fileno(), written.size, written.offset)
                    yield written.first, pa.ipc.read_record_batch(pa.py_buffer(data), self.schema)

    def _index(self, row: int) -> int:
        low, high = 0, len(self.batches)
        while low < high:
            middle = (low + high) // 2
            written = self.batches[middle]
            low, high = (middle + 1, high) if written.first + written.rows <= row else (low, middle)
        return low

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.pwrite(self._descriptor, rest, self.size + len(data) - len(rest)) :]
        except OSError:
            os.ftruncate(self._descriptor, self.size)
            raise
        self.size += len(data)


def sync_folder(folder: Path) -> None:
    """Has the names in a folder be on the disk; raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _place(file: pa.OSFile) -> int:
    """Returns how far a file has been read."""
    return os.lseek(file.fileno(), 0, os.SEEK_CUR)


def whole_batches(reader: pa.RecordBatchStreamReader) -> Iterator[tuple[pa.RecordBatch, dict[bytes, bytes]]]:
    """Yields each whole batch of a stream, and what was noted with it; half a batch at its end is left out."""
    while True:
        try:
            batch, noted = reader.read_next_batch_with_custom_metadata()
        except (StopIteration, OSError, pa.ArrowInvalid):
            return
        yield batch, dict(noted or {})
