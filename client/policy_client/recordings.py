"""Experience from a server or from a folder of its segments, for the command that exports it. Needs pyarrow."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Optional

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
# A server that closes a segment puts the Parquet file into its place, and then removes the other one.
_CLOSED, _OPEN = ".parquet", ".arrows"
# The size of each dimension of a column's values, None where it is not known.
Shape = Sequence[Optional[int]]


class Recording(NamedTuple):
    """The policy's specs, as its description has them, and its rows, in tables of at most some ten thousand."""

    specs: Mapping[str, Any]
    tables: Iterator[pa.Table]


class NoRecording(Exception):
    """There is nothing to export; the message says where, and what was expected."""


def of_server(experience: Experience) -> Recording:
    """Reads what there is now."""
    specs = experience.policy.describe()["specs"]
    shapes = _shapes_of(specs)

    def tables() -> Iterator[pa.Table]:
        while (batch := experience.read(wait_ms=0)).rows:
            yield table_of(batch.columns, shapes)

    return Recording(specs, tables())


def of_folder(folder: Path) -> Recording:
    """Reads the segments of a policy: DIR/{policy}, where the server was started with `--experience-dir DIR`.

    Raises:
      NoRecording: it has none.
    """
    if not folder.is_dir():
        raise NoRecording(f"{folder} is no folder, and no address of a server")
    segments = sorted(_segments(folder))
    if not segments:
        inside = sorted(path.name for path in folder.iterdir() if path.is_dir() and _segments(path))
        hint = f"; it has the policies {', '.join(inside[:5])}: name one of their folders" if inside else ""
        raise NoRecording(f"{folder} has no segments of experience (*{_CLOSED}, *{_OPEN}){hint}")
    newest = _opened(folder, segments[-1])
    metadata = {} if newest is None else newest[0].metadata or {}
    if _SPEC not in metadata:
        raise NoRecording(f"{folder / segments[-1]} is no segment of experience: its schema has no {_SPEC.decode()}")
    specs = json.loads(metadata[_SPEC])["specs"]
    return Recording(specs, (table for segment in segments for table in _tables(folder, segment)))


def table_of(columns: Mapping[str, Any], shapes: Mapping[str, Shape]) -> pa.Table:
    """Columns as a table: tensors as lists, whose shape the field's metadata has.

    `shapes`: of the policy's own columns. Where one has a size that is not known, a column behind it has each row's.
    """
    arrays: dict[str, pa.Array] = {}
    fields: list[pa.Field] = []
    for name, values in columns.items():
        shape = shapes.get(name, ())
        if None in shape:
            arrays[name], arrays[_shape_column(name)] = _lists(values, len(shape))
        elif shape:
            size = math.prod(each or 0 for each in shape)
            arrays[name] = pa.FixedSizeListArray.from_arrays(pa.array(np.asarray(values).reshape(-1)), size)
        else:
            arrays[name] = pa.array(values)
        metadata = {"shape": json.dumps(shape)}
        fields += [pa.field(each, arrays[each].type, metadata=metadata) for each in list(arrays)[len(fields) :]]
    return pa.Table.from_arrays(list(arrays.values()), schema=pa.schema(fields))


def _lists(values: Any, dimensions: int) -> tuple[pa.Array, pa.Array]:
    """Each row's values, and its shape."""
    parts = [np.asarray(value) for value in values]
    offsets = np.cumsum([0, *(part.size for part in parts)], dtype=np.int32)
    lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate([part.reshape(-1) for part in parts])))
    sizes = np.array([part.shape for part in parts], np.int32).reshape(-1)
    return lists, pa.FixedSizeListArray.from_arrays(pa.array(sizes), dimensions)


def values_in(table: pa.Table, name: str) -> Any:
    """A column as an array [rows, …], or a list: of text, or of arrays where those of the rows differ in shape."""
    field, column = table.schema.field(name), table.column(name).combine_chunks()
    shape = tuple(json.loads((field.metadata or {}).get(b"shape", b"[]")))
    if not shape:
        is_text = pa.types.is_string(column.type)
        return column.to_pylist() if is_text else column.to_numpy(zero_copy_only=False)
    flat: Array = column.flatten().to_numpy(zero_copy_only=False)
    if None in shape:
        sizes = table.column(_shape_column(name)).combine_chunks().flatten().to_numpy().reshape(-1, len(shape))
        if (sizes != sizes[:1]).any():
            parts = np.split(flat, np.cumsum(sizes.prod(axis=1))[:-1])
            return [_plain(part.reshape(each)) for part, each in zip(parts, sizes)]
        shape = tuple(sizes[0])
    return _plain(flat.reshape(len(column), *shape))


def _plain(values: Array) -> Any:
    """Text as lists, as it comes from a server."""
    return values.tolist() if values.dtype == object else values


def _shape_column(name: str) -> str:
    return f"{name}#shape"


def _shapes_of(specs: Mapping[str, Any]) -> dict[str, Shape]:
    """The shapes of the columns that a policy's nests have."""
    inputs = specs["inputs"]["dict"]
    return {
        **_shapes_in("observation", inputs["observation"]),
        **_shapes_in("action", specs["action"]),
        **_shapes_in("policy_info", specs["info"]),
        **_shapes_in("reward", inputs["reward"]),
    }


def _shapes_in(path: str, nest: Mapping[str, Any]) -> dict[str, Shape]:
    children = nest.get("dict", nest.get("list"))
    if children is None:
        return {path: nest["shape"]}
    pairs = children.items() if "dict" in nest else enumerate(children)
    return {name: shape for key, child in pairs for name, shape in _shapes_in(f"{path}/{key}", child).items()}


def _segments(folder: Path) -> set[str]:
    """The names of segments, without what they end in: each is there once, whichever file it has by now."""
    return {path.stem for end in (_OPEN, _CLOSED) for path in folder.glob(f"*{end}") if path.stem.isdigit()}


def _opened(folder: Path, segment: str) -> tuple[pa.Schema, Iterator[pa.RecordBatch]] | None:
    """A segment's schema and its batches; None where it was removed, as the oldest one."""
    for end in (_CLOSED, _OPEN, _CLOSED):  # it may be closed between two looks
        path = folder / f"{segment}{end}"
        with suppress(FileNotFoundError):
            if end == _CLOSED:
                file = pyarrow.parquet.ParquetFile(path)
                return file.schema_arrow, file.iter_batches(_MOST_ROWS)
            stream = pyarrow.ipc.open_stream(pa.OSFile(str(path)))
            return stream.schema, _whole_batches(stream)
    return None


def _whole_batches(stream: Any) -> Iterator[pa.RecordBatch]:
    while True:
        try:
            batch = stream.read_next_batch()
        except (StopIteration, OSError, pa.ArrowInvalid):  # a server may be writing the next one
            return
        yield batch


def _tables(folder: Path, segment: str) -> Iterator[pa.Table]:
    opened = _opened(folder, segment)
    for batch in () if opened is None else opened[1]:
        table = pa.Table.from_batches([batch])
        yield table.drop_columns([name for name in _OWN if name in table.column_names])
