"""Experience from a server or from a folder of its segments, for the command that exports it. Needs pyarrow."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

from policy_client.experience import Experience
from policy_client.wire import Array

_SPEC = b"policy_server.spec"
# What the server adds for itself.
_OWN = ("episode", "episode_step")
_MOST_ROWS = 16_384


class Recording(NamedTuple):
    """The policy's specs, as its description has them, and its rows, in tables of at most some ten thousand."""

    specs: Mapping[str, Any]
    tables: Iterator[pa.Table]


class NoRecording(Exception):
    """There is nothing to export; the message says where, and what was expected."""


def of_server(experience: Experience) -> Recording:
    """Reads what there is now."""
    specs = experience.policy.describe()["specs"]

    def tables() -> Iterator[pa.Table]:
        while (batch := experience.read(wait_ms=0)).rows:
            yield table_of(batch.columns)

    return Recording(specs, tables())


def of_folder(folder: Path) -> Recording:
    """Reads the segments of a policy: DIR/{policy}, where the server was started with `--experience-dir DIR`.

    Raises:
      NoRecording: it has none.
    """
    if not folder.is_dir():
        raise NoRecording(f"{folder} is no folder, and no address of a server")
    closed = {path.stem: path for path in folder.glob("*.parquet")}
    growing = {path.stem: path for path in folder.glob("*.arrows") if path.stem not in closed}
    paths = [path for _, path in sorted({**closed, **growing}.items())]
    if not paths:
        inside = sorted(
            path.name for path in folder.iterdir() if any(path.glob("*.parquet")) or any(path.glob("*.arrows"))
        )
        hint = f"; it has the policies {', '.join(inside[:5])}: name one of their folders" if inside else ""
        raise NoRecording(f"{folder} has no segments of experience (*.parquet, *.arrows){hint}")
    metadata = _schema(paths[-1]).metadata or {}
    if _SPEC not in metadata:
        raise NoRecording(f"{paths[-1]} is no segment of experience: its schema has no {_SPEC.decode()}")
    specs = json.loads(metadata[_SPEC])["specs"]
    return Recording(specs, (table for path in paths for table in _tables(path)))


def table_of(columns: Mapping[str, Any]) -> pa.Table:
    """Columns as a table: tensors as fixed-size lists, whose shape the field's metadata has."""
    fields, arrays = [], []
    for name, values in columns.items():
        if isinstance(values, list):
            arrays.append(pa.array(values))
            fields.append(pa.field(name, arrays[-1].type))
            continue
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        shape = values.shape[1:]
        metadata = {"shape": json.dumps(shape)}
        size = int(np.prod(shape, dtype=np.int64))
        arrays.append(pa.FixedSizeListArray.from_arrays(flat, size) if shape else flat)
        fields.append(pa.field(name, arrays[-1].type, metadata=metadata))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def values_in(table: pa.Table, name: str) -> Any:
    """A column as an array [rows, …], or a list of text."""
    field, column = table.schema.field(name), table.column(name).combine_chunks()
    shape = tuple(json.loads((field.metadata or {}).get(b"shape", b"[]")))
    if pa.types.is_string(column.type):
        return column.to_pylist()
    if not shape:
        return column.to_numpy(zero_copy_only=False)
    if None in shape or pa.types.is_string(column.type.value_type):
        return [np.asarray(item) for item in column.to_pylist()]
    array: Array = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), *shape)
    return array


def _schema(path: Path) -> pa.Schema:
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_schema(path)
    with pa.OSFile(str(path)) as file:
        return pyarrow.ipc.open_stream(file).schema


def _tables(path: Path) -> Iterator[pa.Table]:
    if path.suffix == ".parquet":
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(_MOST_ROWS):
            yield _shown(pa.Table.from_batches([batch]))
        return
    with pa.OSFile(str(path)) as file:
        stream = pyarrow.ipc.open_stream(file)
        while True:
            try:
                batch = stream.read_next_batch()
            except (StopIteration, OSError, pa.ArrowInvalid):  # a server may be writing the next one
                return
            yield _shown(pa.Table.from_batches([batch]))


def _shown(table: pa.Table) -> pa.Table:
    return table.drop_columns([name for name in _OWN if name in table.column_names])
