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
# Plans that are kept: as many, and none for steps of more bytes.
_MOST_PLANS, _MOST_PLANNED_BYTES = 256, 2**16
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


class Plan(NamedTuple):
    """How to write the steps of so many rows that one function of one version answers.

    `length`: of a record; `is_exact`: whether the outputs have the dtypes and ranks of the spec; the rest: the names of
    what is asked and answered, each with the bytes that stand for it where a step has none.
    """

    length: int
    mode: int
    is_exact: bool
    inputs: list[tuple[str, bytes]]
    outputs: list[tuple[str, bytes]]
    log_prob: bytes


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
        # By function, version's digest and rows, where sizes are fixed.
        self.plans: dict[tuple[str, str, int], Plan] = {}

    def event(self, step: int, options: Options, job: Job, result: Result) -> bytes:
        """Returns the record of an answered step, which has no numbers of its session and its version yet.

        `options`: the step's, and where it has none, the session's.

        Raises:
          ValueError: an array has not the size that the spec says.
        """
        if not self.is_fixed:
            body = self._varying(job.rows, job.inputs, result.outputs, options.log_prob)
            length, mode, seed = HEAD_BYTES + len(body), _MODE_NUMBERS[job.function], options.seed
            now, seed = time.time_ns(), -1 if seed is None else seed
            return packed_head(length, STEP, 0, mode, 0, 0, job.rows, step, now, result.train_step, seed) + body
        plan = self.plans.get((job.function, result.digest, job.rows)) or self._planned(job, result)
        if not plan.is_exact:
            result = msgspec.structs.replace(result, outputs=self._cast(result.outputs, job.rows))
        return packed(plan, (step, 0, 0), options, job, result)

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

    def _planned(self, job: Job, result: Result) -> Plan:
        inputs, outputs, ((_, log_prob),) = (
            [(value.leaf.name, _filled(value, job.rows).tobytes()) for value in values]
            for values in (self._inputs, self._outputs, [self._log_prob])
        )
        given = [(value.leaf, result.outputs.get(value.leaf.name)) for value in (*self._outputs, self._log_prob)]
        is_exact = all(
            array is None or (array.dtype == leaf.storage and array.ndim == len(leaf.shape) + 1)
            for leaf, array in given
        )
        length, mode = HEAD_BYTES + job.rows * self.row_bytes, _MODE_NUMBERS[job.function]
        plan = Plan(length, mode, is_exact, inputs, outputs, log_prob)
        if length <= _MOST_PLANNED_BYTES:
            if len(self.plans) >= _MOST_PLANS:
                self.plans.clear()
            self.plans[job.function, result.digest, job.rows] = plan
        return plan

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


def packed(plan: Plan, numbers: tuple[int, int, int], options: Options, job: Job, result: Result) -> bytes:
    """Returns the record of a step. `numbers`: its own, and those of its session and version: see `Layout.event`."""
    inputs, outputs, (step, session, version), seed = job.inputs, result.outputs, numbers, options.seed
    length, now, seed = plan.length, time.time_ns(), -1 if seed is None else seed
    parts = [packed_head(length, STEP, 0, plan.mode, session, version, job.rows, step, now, result.train_step, seed)]
    for name, fill in plan.inputs:
        array = inputs.get(name)
        parts.append(fill if array is None else array.tobytes())
    for name, fill in plan.outputs:
        array = outputs.get(name)
        parts.append(fill if array is None else array.tobytes())
    log_prob = outputs.get(LOG_PROB) if options.log_prob else None
    parts.append(plan.log_prob if log_prob is None else log_prob.tobytes())
    record = b"".join(parts)
    if len(record) != length:
        raise ValueError(f"a step has {len(record)} bytes, and not {length}")
    return record


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
