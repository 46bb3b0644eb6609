"""The values of a policy's steps ⇄ the bytes of their records."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np

from app.batching.rule import Job, Result
from app.experience.event import HEAD_BYTES, STEP, Data, packed_head
from app.experience.schema import columns_of
from app.inputs.defaults import MID
from app.inputs.options import Options
from app.wire.tensors import Array, Arrays
from saver.artifact import LOG_PROB, Leaf, Nest, PolicySpec, leaves

_LOG_PROB = Leaf(LOG_PROB, "float32", ())
# What stands for values that a step has not, by their rows; and versions of which the dtypes were seen.
_MOST_FILLS, _MOST_SEEN = 64, 64
# By the functions of a policy: see `MODES`.
_MODE_NUMBERS = {"action": 0, "greedy": 1, "sample": 2}

# The values of steps by column: [rows, …], or, where their shapes differ, each row's.
Values: TypeAlias = "dict[str, Array | list[Array]]"


class _Value(NamedTuple):
    """The values of one column in a record. `fill`: that of one row, where a step has none."""

    column: str
    leaf: Leaf
    fill: Any

    @property
    def form(self) -> tuple[str, np.dtype[Any], tuple[int | None, ...]]:
        return self.column, self.leaf.storage, self.leaf.shape


class _Fills(NamedTuple):
    """The bytes of values that a step of so many rows has not, by the names of what it was asked and answered.

    `length`: that of such a step's record.
    """

    inputs: list[tuple[str, bytes]]
    outputs: list[tuple[str, bytes]]
    log_prob: bytes
    length: int


class Layout:
    """The form of the steps of one policy. `digest`: differs for policies with other columns."""

    def __init__(self, spec: PolicySpec) -> None:
        assert isinstance(spec.inputs, dict), "policies without time steps have no sessions"
        nests = spec.inputs
        self._inputs = [
            *_values("step_type", nests["step_type"], MID),
            *_values("observation", nests["observation"]),
            *_values("reward", nests["reward"]),
            *_values("discount", nests["discount"], 1),
        ]
        self._outputs = [*_values("action", spec.action), *_values("policy_info", spec.info, None)]
        (self._log_prob,) = _values(LOG_PROB, _LOG_PROB, None)
        self.columns = columns_of(spec)
        self.digest = hashlib.sha256(repr(self.columns).encode()).digest()[:16]
        all_values = [*self._inputs, *self._outputs, self._log_prob]
        self.is_fixed = not any(value.leaf.dtype == "string" or None in value.leaf.shape for value in all_values)
        self.forms = [value.form for value in all_values]
        sizes = [dtype.itemsize * math.prod(size or 0 for size in shape) for _, dtype, shape in self.forms]
        self.row_bytes = sum(sizes) if self.is_fixed else 0
        self._fills: dict[int, _Fills] = {}
        self._exact: dict[tuple[str, str], bool] = {}

    def size(self, rows: int) -> int:
        """Returns how long the record of a step of so many rows is; 0 where that differs."""
        return HEAD_BYTES + rows * self.row_bytes if self.is_fixed else 0

    def event(self, step: int, options: Options, job: Job, result: Result, numbers: tuple[int, int] = (0, 0)) -> bytes:
        """Returns the record of an answered step.

        Args:
          step: its number.
          options: the step's, and where it has none, the session's.
          job: what was asked.
          result: what was answered.
          numbers: of its session and of the version, where they are known yet: see `JournalWriter.numbers`.

        Raises:
          ValueError: an array has not the size that the spec says.
        """
        rows, inputs, outputs, parts = job.rows, job.inputs, result.outputs, [b""]
        if self.is_fixed:
            if not self._is_exact(job.function, result):
                outputs = self._cast(outputs, rows)
            fills = self._fills.get(rows) or self._filled(rows)
            parts += [fill if (a := inputs.get(name)) is None else a.tobytes() for name, fill in fills.inputs]
            parts += [fill if (a := outputs.get(name)) is None else a.tobytes() for name, fill in fills.outputs]
            log_prob = outputs.get(LOG_PROB) if options.log_prob else None
            parts.append(fills.log_prob if log_prob is None else log_prob.tobytes())
            length = fills.length
        else:
            parts.append(self._varying(rows, inputs, outputs, options.log_prob))
            length = HEAD_BYTES + len(parts[1])
        mode, seed, now = _MODE_NUMBERS[job.function], options.seed, time.time_ns()
        seed = -1 if seed is None else seed
        parts[0] = packed_head(length, STEP, 0, mode, *numbers, rows, step, now, result.train_step, seed)
        record = b"".join(parts)
        if len(record) != length:
            raise ValueError(f"a step has {len(record)} bytes, and not {length}")
        return record

    def fits(self, rows: int, record: Data) -> bool:
        """Returns whether the record of a step of so many rows has the values of this layout."""
        if self.is_fixed:
            return len(record) == HEAD_BYTES + rows * self.row_bytes
        try:
            self._read_varying(rows, record)
        except ValueError:
            return False
        return True

    def values(self, records: Array, rows: int) -> Arrays:
        """Returns the values of records of a fixed size, [n] of their bytes, by column: [n * rows, …]."""
        table = records.view(self._dtype(rows))
        found = {}
        for column, _, shape in self.forms:
            found[column] = table[column].reshape(len(records) * rows, *(size or 0 for size in shape))
        return found

    def varying_values(self, records: Sequence[Data], rows: int) -> Values:
        """Returns the values of records of sizes that may differ by column."""
        read = [self._read_varying(rows, record) for record in records]
        return {column: _joined([values[column] for values in read]) for column, _, _ in self.forms}

    def _dtype(self, rows: int) -> np.dtype[Any]:
        offsets, at = [], HEAD_BYTES
        formats = [(dtype, (rows, *(size or 0 for size in shape))) for _, dtype, shape in self.forms]
        for dtype, shape in formats:
            offsets.append(at)
            at += dtype.itemsize * math.prod(shape)
        names = [column for column, _, _ in self.forms]
        return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": at})

    def _filled(self, rows: int) -> _Fills:
        inputs, outputs = (
            [(value.leaf.name, _filled(value, rows).tobytes()) for value in values]
            for values in (self._inputs, self._outputs)
        )
        found = _Fills(inputs, outputs, _filled(self._log_prob, rows).tobytes(), HEAD_BYTES + rows * self.row_bytes)
        if len(self._fills) < _MOST_FILLS:
            self._fills[rows] = found
        return found

    def _is_exact(self, function: str, result: Result) -> bool:
        """Returns whether the outputs have the spec's dtypes and ranks: seen once for each function of a version."""
        known = self._exact.get((function, result.digest))
        if known is None:
            leaves_ = [value.leaf for value in (*self._outputs, self._log_prob)]
            found = [(leaf, result.outputs.get(leaf.name)) for leaf in leaves_]
            known = all(
                array is None or (array.dtype == leaf.storage and array.ndim == len(leaf.shape) + 1)
                for leaf, array in found
            )
            if len(self._exact) >= _MOST_SEEN:
                self._exact.clear()
            self._exact[function, result.digest] = known
        return known

    def _cast(self, outputs: Arrays, rows: int) -> Arrays:
        """Returns the outputs in the dtypes of the spec; what a policy gives for a whole batch is that of each row."""
        cast = {}
        for leaf in (value.leaf for value in (*self._outputs, self._log_prob)):
            if (array := outputs.get(leaf.name)) is not None:
                found = np.asarray(array, leaf.storage)
                shape = (rows, *(size or 0 for size in leaf.shape))
                cast[leaf.name] = found if found.ndim == len(shape) else np.broadcast_to(found, shape)
        return cast

    def _varying(self, rows: int, inputs: Arrays, outputs: Arrays, has_log_prob: bool) -> bytes:
        found = [(value, inputs.get(value.leaf.name)) for value in self._inputs]
        found += [(value, outputs.get(value.leaf.name)) for value in self._outputs]
        found.append((self._log_prob, outputs.get(LOG_PROB) if has_log_prob else None))
        plain: list[Any] = []
        for value, sent in found:
            array = _filled(value, rows) if sent is None else np.asarray(sent, value.leaf.storage)
            values = array.ravel().tolist() if value.leaf.dtype == "string" else array.tobytes()
            plain.append([list(array.shape), values])
        return _MSGPACK.encode(plain)

    def _read_varying(self, rows: int, record: Data) -> Arrays:
        """Raises ValueError."""
        found: Arrays = {}
        try:
            plain = _FROM_MSGPACK.decode(record[HEAD_BYTES:])
            for (column, dtype, spec), (shape, values) in zip(self.forms, plain, strict=True):
                array = np.array(values, object) if dtype.kind == "O" else np.frombuffer(values, dtype)
                found[column] = array.reshape(shape)
                if len(shape) != len(spec) + 1 or shape[0] != rows:
                    raise ValueError(f"{column} has the shape {shape}")
        except (msgspec.DecodeError, TypeError) as error:
            raise ValueError(f"a step cannot be read: {error}") from None
        return found


_MSGPACK = msgspec.msgpack.Encoder()
_FROM_MSGPACK = msgspec.msgpack.Decoder(list[tuple[list[int], Any]])


def _values(path: str, nest: Nest, fill: Any = 0) -> list[_Value]:
    """The values of a nest. `fill`: None for what says that there is no value, where the dtype has one."""
    return [_Value(name, leaf, fill) for name, leaf in leaves(nest, path)]


def _filled(value: _Value, rows: int) -> Array:
    leaf = value.leaf
    shape = (rows, *(1 if size is None else size for size in leaf.shape))
    if leaf.dtype == "string":
        return np.full(shape, "", object)
    fill = value.fill
    if fill is None:
        fill = np.nan if leaf.is_float else 0
    return np.full(shape, fill, leaf.storage)


def _joined(parts: list[Array]) -> Array | list[Array]:
    """Returns the rows of all parts: one array, where their rows have the same shape."""
    if len({part.shape[1:] for part in parts}) == 1:
        return np.concatenate(parts)
    return [row for part in parts for row in part]
