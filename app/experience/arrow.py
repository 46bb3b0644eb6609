"""Columns and rows of experience ⇄ Arrow: one field a column, tensors as lists with their shape in the metadata."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from app.experience.schema import STRING, Column
from app.experience.texts import Texts
from app.wire.tensors import Array

Values: TypeAlias = "Array | list[Any] | Texts"
Rows: TypeAlias = "Mapping[str, Values]"

# Beside a policy's own columns. EPISODE: the number of the row that the row's episode starts with, -1 where its start
# was not recorded, or something in it is missing; EPISODE_STEP: how many rows of the episode come before.
EPISODE, EPISODE_STEP = "episode", "episode_step"
OF_EPISODE = (Column(EPISODE, "int64"), Column(EPISODE_STEP, "int64"))
# The metadata of a schema.
COLUMNS, SPEC = b"policy_server.columns", b"policy_server.spec"


def shape_column(name: str) -> str:
    """Returns the name of the column with the shapes of a tensor that has a dimension of unknown size."""
    return f"{name}#shape"


def schema_of(columns: Sequence[Column], metadata: Mapping[bytes, bytes]) -> pa.Schema:
    """Returns the schema of rows with these columns, from which `columns_in` reads them again."""
    fields: list[pa.Field] = []
    for column in columns:
        details = {"shape": json.dumps(column.shape), "dtype": column.dtype}
        fields.append(pa.field(column.name, _type(column), nullable=False, metadata=details))
        if None in column.shape:
            shape = pa.list_(pa.field("item", pa.int32(), nullable=False), len(column.shape))
            fields.append(pa.field(shape_column(column.name), shape, nullable=False))
    described = json.dumps([list(column) for column in columns]).encode()
    return pa.schema(fields, metadata={COLUMNS: described, **metadata})


def columns_in(schema: pa.Schema) -> tuple[Column, ...]:
    """Returns the columns that a schema was made of.

    Raises:
      ValueError, KeyError, TypeError: it was not made by `schema_of`.
    """
    described = json.loads((schema.metadata or {})[COLUMNS])
    return tuple(Column(name, dtype, tuple(shape)) for name, dtype, shape in described)


def batch_of(schema: pa.Schema, columns: Sequence[Column], rows: Rows) -> pa.RecordBatch:
    """Returns rows as a batch: of each column an array [rows, …], texts, or a list of each row's value."""
    arrays = []
    for column in columns:
        values = rows[column.name]
        arrays.append(_stored(column, values))
        if None in column.shape:
            shapes = np.array([np.shape(value) for value in values], np.int32).reshape(-1)
            field = schema.field(shape_column(column.name))
            arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(shapes), type=field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def values_of(columns: Sequence[Column], table: pa.Table) -> dict[str, Values]:
    """Returns the rows of a table as `batch_of` takes them; lists of arrays where those of a column differ in shape."""
    return {column.name: _read(column, table) for column in columns}


def _element(column: Column) -> pa.DataType:
    if column.dtype == STRING:
        return pa.string()
    return pa.from_numpy_dtype(_dtype(column))


def _dtype(column: Column) -> np.dtype[Any]:
    return np.dtype("float32" if column.dtype == "bfloat16" else column.dtype)  # which Arrow has not


def _type(column: Column) -> pa.DataType:
    if not column.shape:
        return _element(column)
    item = pa.field("item", _element(column), nullable=False)
    size = _size(column)
    return pa.list_(item, size) if size else pa.list_(item)


def _size(column: Column) -> int:
    """The size of a value where every one has the same, and Parquet can have lists of it; else 0."""
    return 0 if None in column.shape else math.prod(size or 0 for size in column.shape)


def _stored(column: Column, values: Values) -> pa.Array:
    if isinstance(values, Texts):
        return pa.array(values.texts, pa.string()).take(pa.array(values.numbers))
    is_text = column.dtype == STRING
    if is_text and not column.shape:
        return _texts(values)
    if isinstance(values, list):
        parts = [np.asarray(value, object if is_text else _dtype(column)).reshape(-1) for value in values]
        sizes, flat = [len(part) for part in parts], np.concatenate(parts) if parts else np.empty(0)
    else:
        flat = np.ascontiguousarray(values, object if is_text else _dtype(column)).reshape(-1)
        sizes = [len(flat) // max(1, len(values))] * len(values)
    elements = _texts(flat.tolist()) if is_text else pa.array(flat, _element(column))
    if not column.shape:
        return elements
    if _size(column):
        return pa.FixedSizeListArray.from_arrays(elements, type=_type(column))
    offsets = np.cumsum([0, *sizes], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), elements, type=_type(column))


def _texts(values: Any) -> pa.Array:
    try:
        return pa.array(values, pa.string())
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # bytes that are no text
        return pa.array([_text(item) for item in values], pa.string())


def _text(item: Any) -> str:
    return item.decode("utf-8", "backslashreplace") if isinstance(item, bytes) else str(item)


def _read(column: Column, table: pa.Table) -> Values:
    found, count = table.column(column.name), table.num_rows
    if column.shape == ():
        plain: Values = found.to_pylist() if column.dtype == STRING else np.asarray(found.to_numpy())
        return plain
    shape: tuple[int, ...] = tuple(size or 0 for size in column.shape)
    if not count:
        return np.zeros((0, *shape), object if column.dtype == STRING else _dtype(column))
    items = _flattened(found)
    flat = np.array(items.to_pylist(), object) if column.dtype == STRING else items.to_numpy(zero_copy_only=False)
    if None in column.shape:
        shapes = _flattened(table.column(shape_column(column.name))).to_numpy().reshape(count, -1)
        if (shapes != shapes[0]).any():
            parts = np.split(flat, np.cumsum(shapes.prod(axis=1))[:-1])
            return [_listed(part.reshape(each)) for part, each in zip(parts, shapes, strict=True)]
        shape = tuple(shapes[0].tolist())
    values: Values = _listed(flat.reshape(count, *shape))
    return values


def _listed(array: Array) -> Any:
    """Returns an array of strings as lists, which is what they are."""
    return array.tolist() if array.dtype == object else array


def _flattened(lists: pa.ChunkedArray) -> pa.Array:
    chunks = [chunk.flatten() for chunk in lists.chunks]
    return pa.concat_arrays(chunks) if len(chunks) > 1 else chunks[0]
