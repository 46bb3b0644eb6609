"""One answered step of a session ⇄ bytes; and pairs of such steps → rows.

    length u32 · flags u8 · mode u8 · step i64 · time_ns i64 · train_step i64 · seed i64 · rows u32 · four lengths u16
    session · run_id · incarnation · version, UTF-8
    the values of each column, [rows, …]: as they lie in memory, or as msgpack where their sizes may differ

An event says all that its step was asked and answered; what the next observation brings is in the next event.
"""

from __future__ import annotations

import hashlib
import struct
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from app.batching.rule import Job, Result
from app.experience.schema import columns_of
from app.inputs.options import Options
from app.wire.tensors import Array, Arrays
from saver.artifact import LOG_PROB, Leaf, Nest, PolicySpec, leaves

FIRST, MID, LAST = 0, 1, 2
# The event was written by another machine too, which has the row that it ends.
COPY = 1
MODES = ("", "greedy", "sample")

_HEAD = struct.Struct("<IBBqqqqIHHHH")
# Of an event that cannot be read, so much is not even looked at.
LEAST_BYTES = _HEAD.size
_FLAGS_AT = 4
_MODE_NUMBERS = {"action": 0, "greedy": 1, "sample": 2}
# Of sessions that step at the same time; the rest of them is encoded each time.
_MOST_NAMES = 4096
_LOG_PROB = Leaf(LOG_PROB, "float32", ())


class Who(NamedTuple):
    """The session that an event belongs to."""

    session: str
    run_id: str
    incarnation: str


class Head(NamedTuple):
    """The numbers at the start of an event; the last four are lengths, in bytes."""

    length: int
    flags: int
    mode: int
    step: int
    time_ns: int
    train_step: int
    seed: int
    rows: int
    session: int
    run_id: int
    incarnation: int
    version: int

    @property
    def names_end(self) -> int:
        """Where the names of the session end, and that of the version starts."""
        return LEAST_BYTES + self.session + self.run_id + self.incarnation

    @property
    def body(self) -> int:
        """Where the values start."""
        return self.names_end + self.version


class Event(NamedTuple):
    """An event that was read. `key`: the names of its session; `source`: what it was read from."""

    head: Head
    key: bytes
    data: bytes | memoryview
    source: str = ""

    def who(self) -> Who:
        """Returns the session that it belongs to."""
        head, key = self.head, self.key.decode()
        if len(key) == len(self.key):
            run_id = head.session + head.run_id
            return Who(key[: head.session], key[head.session : run_id], key[run_id:])
        cut = (self.key[: head.session], self.key[head.session :][: head.run_id], self.key[-head.incarnation :])
        return Who(*(part.decode() for part in cut))

    def version(self) -> str:
        """Returns the version that answered."""
        return bytes(self.data[self.head.names_end : self.head.body]).decode()


# The event of a step, and that of the next one.
Pair = tuple[Event, Event]


def read_event(data: bytes | memoryview, source: str = "") -> Event:
    """Reads an event.

    Raises:
      ValueError: it is none.
    """
    try:
        head = Head._make(_HEAD.unpack_from(data))
    except struct.error:
        raise ValueError(f"{len(data)} bytes are no event") from None
    if not head.body <= head.length == len(data) or head.mode >= len(MODES) or not head.incarnation:
        raise ValueError("the lengths in an event do not fit")
    return Event(head, bytes(data[LEAST_BYTES : head.names_end]), data, source)


def length_of(data: bytes | memoryview, start: int) -> int:
    """Returns the length that the event at `start` says that it has."""
    length: int = _LENGTH.unpack_from(data, start)[0]
    return length


def as_copy(event: bytes) -> bytes:
    """Returns an event with the mark that another machine has written it."""
    return b"".join((event[:_FLAGS_AT], bytes((event[_FLAGS_AT] | COPY,)), event[_FLAGS_AT + 1 :]))


_LENGTH = struct.Struct("<I")


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
        self._forms = [value.form for value in all_values]
        self._row_bytes = self._dtype(1).itemsize if self.is_fixed else 0
        self._fills: dict[tuple[str, int], bytes] = {}
        self._exact: dict[tuple[str, str], bool] = {}
        # The names of sessions as bytes, and their lengths.
        self._names: dict[Who, tuple[bytes, tuple[int, ...]]] = {}
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
                outputs = self._cast(outputs)
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
        names, lengths = self._names.get(who) or self._named(who)
        version, seed = result.version.encode(), options.seed
        head = _HEAD.pack(
            LEAST_BYTES + len(names) + len(version) + len(body),
            0,
            _MODE_NUMBERS[job.function],
            step,
            time.time_ns(),
            result.train_step,
            -1 if seed is None else seed,
            rows,
            *lengths,
            len(version),
        )
        return b"".join((head, names, version, body))

    def _named(self, who: Who) -> tuple[bytes, tuple[int, ...]]:
        parts = [name.encode() for name in who]
        found = b"".join(parts), tuple(map(len, parts))
        if len(self._names) >= _MOST_NAMES:
            self._names.clear()
        self._names[who] = found
        return found

    def fits(self, event: Event) -> bool:
        """Returns whether an event has the values of this layout."""
        if self.is_fixed:
            return event.head.length - event.head.body == event.head.rows * self._row_bytes
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
        return tuple(
            (after if column.startswith("reward") else event)[column].shape[1:] for column, _, _ in self._forms
        )

    def rows(self, pairs: Sequence[Pair]) -> dict[str, Array | list[str]]:
        """Returns the rows of pairs of events by column: [rows, …], or lists of strings.

        A step that is not LAST gives no row where the next one is FIRST: its next observation was never sent.
        """
        groups: dict[int, list[Pair]] = {}
        for pair in pairs:
            groups.setdefault(pair[0].head.rows, []).append(pair)
        found = [self._group(rows, group) for rows, group in groups.items()]
        if len(found) == 1:
            return found[0]
        return {column: _joined([group[column] for group in found]) for column in found[0]} if found else self.none()

    def none(self) -> dict[str, Array | list[str]]:
        """Returns no rows."""
        empty: dict[str, Array | list[str]] = {}
        for column in self.columns:
            shape = (0, *(1 if size is None else size for size in column.shape))
            is_text = column.dtype == "string"
            storage = Leaf(column.name, column.dtype, column.shape).storage
            empty[column.name] = [] if is_text and not column.shape else np.empty(shape, storage)
        return empty

    def _group(self, rows: int, pairs: list[Pair]) -> dict[str, Array | list[str]]:
        """Returns the rows of pairs whose events have so many rows each."""
        events = self._values([event for event, _ in pairs], rows)
        nexts = self._values([after for _, after in pairs], rows)
        step_type, next_step_type = events["step_type"], nexts["step_type"]
        keeps = (next_step_type != FIRST) | (step_type == LAST)
        columns: dict[str, Array | list[str]] = {"next_step_type": next_step_type}
        for column, _, _ in self._forms:
            source = nexts if column == "discount" or column.split("/")[0] == "reward" else events
            columns[column] = source[column]
        columns |= _numbers([event.head for event, _ in pairs], rows)
        columns |= _texts([event for event, _ in pairs], rows)
        if keeps.all():
            return columns
        kept = np.flatnonzero(keeps).tolist()
        return {
            name: [values[i] for i in kept] if isinstance(values, list) else values[kept]
            for name, values in columns.items()
        }

    def _values(self, events: list[Event], rows: int) -> Arrays:
        """Returns the values of events by column: [events * rows, …]."""
        if not self.is_fixed:
            read = [self._read_varying(event) for event in events]
            return {column: np.concatenate([values[column] for values in read]) for column, _, _ in self._forms}
        data = b"".join([event.data[event.head.body :] for event in events])
        table = np.frombuffer(data, self._dtype(rows))
        found = {}
        for column, _, shape in self._forms:
            array = table[column]
            found[column] = array.reshape(len(events) * rows, *(size or 0 for size in shape))
        return found

    def _dtype(self, rows: int) -> np.dtype[Any]:
        return np.dtype([(column, dtype, (rows, *shape)) for column, dtype, shape in self._forms])  # type: ignore[arg-type]

    def _fill(self, name: str, rows: int) -> bytes:
        found = self._fills.get((name, rows))
        if found is None:
            value = next(value for value in (*self._inputs, *self._outputs) if value.leaf.name == name)
            found = _filled(value, rows).tobytes()
            if len(self._fills) < 256:
                self._fills[name, rows] = found
        return found

    def _is_exact(self, function: str, result: Result) -> bool:
        """Returns whether the outputs have the dtypes of the spec: seen once for each function of a version."""
        known = self._exact.get((function, result.digest))
        if known is None:
            found = [(value.leaf.storage, result.outputs.get(value.leaf.name)) for value in self._outputs]
            known = all(array is None or array.dtype == dtype for dtype, array in found)
            if len(self._exact) >= 64:
                self._exact.clear()
            self._exact[function, result.digest] = known
        return known

    def _cast(self, outputs: Arrays) -> Arrays:
        kinds = {value.leaf.name: value.leaf.storage for value in self._outputs}
        return {name: np.asarray(array, kinds.get(name, array.dtype)) for name, array in outputs.items()}

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
            plain = _FROM_MSGPACK.decode(event.data[event.head.body :])
            for (column, dtype, spec), (shape, values) in zip(self._forms, plain, strict=True):
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


def _joined(parts: Sequence[Array | list[str]]) -> Array | list[str]:
    if isinstance(parts[0], list):
        return [text for part in parts for text in part]
    return np.concatenate(parts)


def _numbers(heads: list[Head], rows: int) -> dict[str, Array | list[str]]:
    table = np.array([(head.train_step, head.step, head.time_ns, head.seed) for head in heads], np.int64)
    table = np.repeat(table, rows, axis=0)
    numbers: dict[str, Array | list[str]] = {
        name: np.ascontiguousarray(table[:, i]) for i, name in enumerate(("train_step", "step", "time_ns", "seed"))
    }
    numbers["row"] = np.tile(np.arange(rows, dtype=np.int32), len(heads))
    return numbers


def _texts(events: list[Event], rows: int) -> dict[str, Array | list[str]]:
    names: dict[bytes, Who] = {}
    whos = [names.get(event.key) or names.setdefault(event.key, event.who()) for event in events]
    texts: dict[str, Iterable[str]] = {
        "session": [who.session for who in whos],
        "run_id": [who.run_id for who in whos],
        "incarnation": [who.incarnation for who in whos],
        "version": [event.version() for event in events],
        "mode": [MODES[event.head.mode] for event in events],
    }
    return {
        name: list(values) if rows == 1 else [v for v in values for _ in range(rows)] for name, values in texts.items()
    }
