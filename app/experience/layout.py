"""The values of a policy's steps ⇄ the bytes of their events."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import msgspec
import numpy as np

from app.batching.rule import Job, Result
from app.experience.event import Event, EventWriter, Pair, Who
from app.experience.schema import columns_of
from app.inputs.defaults import MID
from app.inputs.options import Options
from app.wire.tensors import Array, Arrays
from saver.artifact import LOG_PROB, Leaf, Nest, PolicySpec, leaves

_LOG_PROB = Leaf(LOG_PROB, "float32", ())
# What stands for values that a step has not, by their rows; and versions of which the dtypes were seen.
_MOST_FILLS, _MOST_SEEN = 256, 64


class _Value(NamedTuple):
    """The values of one column in an event. `fill`: that of one row, where a step has none."""

    column: str
    leaf: Leaf
    fill: Any

    @property
    def form(self) -> tuple[str, np.dtype[Any], tuple[int | None, ...]]:
        return self.column, self.leaf.storage, self.leaf.shape


class Layout:
    """The form of the events of one policy. `digest`: differs for policies with other columns."""

    def __init__(self, spec: PolicySpec) -> None:
        assert isinstance(spec.inputs, dict), "policies without time steps have no sessions"
        nests = spec.inputs
        self._inputs = [
            *_values("step_type", nests["step_type"], MID),
            *_values("observation", nests["observation"]),
            *_values("reward", nests["reward"]),
            *_values("discount", nests["discount"], 1),
        ]
        self._outputs = [
            *_values("action", spec.action),
            *_values("policy_info", spec.info, None),
            *_values(LOG_PROB, _LOG_PROB, None),
        ]
        self.columns = columns_of(spec)
        self.digest = hashlib.sha256(repr(self.columns).encode()).digest()[:16]
        all_values = [*self._inputs, *self._outputs]
        self.is_fixed = not any(value.leaf.dtype == "string" or None in value.leaf.shape for value in all_values)
        self.forms = [value.form for value in all_values]
        self._row_bytes = self._dtype(1).itemsize if self.is_fixed else 0
        self._fills: dict[tuple[str, int], bytes] = {}
        self._exact: dict[tuple[str, str], bool] = {}
        self._writer = EventWriter()
        self._input_names = [value.leaf.name for value in self._inputs]
        self._output_names = [value.leaf.name for value in self._outputs]

    def event(self, who: Who, step: int, options: Options, job: Job, result: Result) -> bytes:
        """Returns the event of an answered step. `options`: the step's, and where it has none, the session's.

        Raises:
          ValueError: an array has not the size that the spec says.
        """
        rows, outputs = job.rows, result.outputs
        if LOG_PROB in outputs and not options.log_prob:
            outputs = {name: array for name, array in outputs.items() if name != LOG_PROB}
        if self.is_fixed:
            inputs = job.inputs
            if not self._is_exact(job.function, result):
                outputs = self._cast(outputs, rows)
            parts = [
                array.tobytes() if (array := inputs.get(name)) is not None else self._fill(name, rows)
                for name in self._input_names
            ]
            parts += [
                array.tobytes() if (array := outputs.get(name)) is not None else self._fill(name, rows)
                for name in self._output_names
            ]
            body = b"".join(parts)
            if len(body) != rows * self._row_bytes:
                raise ValueError(f"a step has {len(body)} bytes, and not {rows} times {self._row_bytes}")
        else:
            body = self._varying(rows, job.inputs, outputs)
        return self._writer.event((who, step, options.seed), job, result, body)

    def fits(self, event: Event) -> bool:
        """Returns whether an event has the values of this layout."""
        if self.is_fixed:
            return event.head.length - event.body == event.head.rows * self._row_bytes
        try:
            self._read_varying(event)
        except ValueError:
            return False
        return True

    def shapes(self, pair: Pair) -> tuple[tuple[int, ...], ...]:
        """Returns the shapes of what a pair makes rows of; rows of others cannot be appended together with them."""
        if self.is_fixed:
            return ()
        event, after = self._read_varying(pair[0]), self._read_varying(pair[1])
        return tuple((after if column.startswith("reward") else event)[column].shape[1:] for column, _, _ in self.forms)

    def values(self, events: list[Event], rows: int) -> Arrays:
        """Returns the values of events by column: [events * rows, …]."""
        if not self.is_fixed:
            read = [self._read_varying(event) for event in events]
            return {column: np.concatenate([values[column] for values in read]) for column, _, _ in self.forms}
        data = b"".join([event.data[event.body :] for event in events])
        table = np.frombuffer(data, self._dtype(rows))
        found = {}
        for column, _, shape in self.forms:
            array = table[column]
            found[column] = array.reshape(len(events) * rows, *(size or 0 for size in shape))
        return found

    def _dtype(self, rows: int) -> np.dtype[Any]:
        return np.dtype([(column, dtype, (rows, *shape)) for column, dtype, shape in self.forms])

    def _fill(self, name: str, rows: int) -> bytes:
        found = self._fills.get((name, rows))
        if found is None:
            value = next(value for value in (*self._inputs, *self._outputs) if value.leaf.name == name)
            found = _filled(value, rows).tobytes()
            if len(self._fills) < _MOST_FILLS:
                self._fills[name, rows] = found
        return found

    def _is_exact(self, function: str, result: Result) -> bool:
        """Returns whether the outputs have the spec's dtypes and ranks: seen once for each function of a version."""
        known = self._exact.get((function, result.digest))
        if known is None:
            found = [(value.leaf, result.outputs.get(value.leaf.name)) for value in self._outputs]
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
        for leaf in (value.leaf for value in self._outputs):
            if (array := outputs.get(leaf.name)) is not None:
                found = np.asarray(array, leaf.storage)
                shape = (rows, *(size or 0 for size in leaf.shape))
                cast[leaf.name] = found if found.ndim == len(shape) else np.broadcast_to(found, shape)
        return cast

    def _varying(self, rows: int, inputs: Arrays, outputs: Arrays) -> bytes:
        plain: list[Any] = []
        for value, arrays in ((v, a) for vs, a in ((self._inputs, inputs), (self._outputs, outputs)) for v in vs):
            array = arrays.get(value.leaf.name)
            array = _filled(value, rows) if array is None else np.asarray(array, value.leaf.storage)
            values = array.ravel().tolist() if value.leaf.dtype == "string" else array.tobytes()
            plain.append([list(array.shape), values])
        return _MSGPACK.encode(plain)

    def _read_varying(self, event: Event) -> Arrays:
        """Raises ValueError."""
        found: Arrays = {}
        try:
            plain = _FROM_MSGPACK.decode(event.data[event.body :])
            for (column, dtype, spec), (shape, values) in zip(self.forms, plain, strict=True):
                array = np.array(values, object) if dtype.kind == "O" else np.frombuffer(values, dtype)
                found[column] = array.reshape(shape)
                if len(shape) != len(spec) + 1 or shape[0] != event.head.rows:
                    raise ValueError(f"{column} has the shape {shape}")
        except (msgspec.DecodeError, TypeError) as error:
            raise ValueError(f"an event cannot be read: {error}") from None
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
