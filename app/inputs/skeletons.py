"""JSON bodies that differ only in their numbers from one that was read before → arrays.

A simulator sends the same text again and again, with other numbers in it. What is left of a body without the characters
of its numbers, its skeleton, says how many there are and in which lists. Where it is a known one, simdjson reads the
numbers straight into arrays, without a Python object for each. What does not fit is not refused here: the decoders
that read a body for the first time decide that.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import simdjson

from app.inputs.bounds import ends_of, lie_between
from app.inputs.validate import Inputs
from app.wire.tensors import Arrays
from saver.artifact import Leaf, Nest

# All that numbers and the space around them are made of. The e of exponents goes from the names of fields, too.
_NUMBERS = b"0123456789+-.eE \t\r\n"
# A parser keeps as much memory as its largest body took: a larger one gets a parser of its own.
_MOST_KEPT_BYTES = 2**20
# Each client sends a few kinds of bodies. Where there are more, those go that were learned first.
_MOST_SKELETONS = 256
_MOST_SKELETON_BYTES = 2**22
_MOST_BYTES = 2**24
_SIMDJSON_TYPES = {"i": "i", "f": "d"}


class Numbers(NamedTuple):
    """The numbers of one leaf, or of leaves in a list that differ in their names and shapes alone.

    `names`: of the leaves. `pointer`: where they are in a body, as RFC 6901 has it. `wide`: int64 or float64, as which
    they are read; `storage`: that of the leaf. `low`, `high`: inclusive; numbers, or arrays of the leaf's shape.
    """

    names: tuple[str, ...]
    pointer: str
    wide: np.dtype[Any]
    storage: np.dtype[Any]
    low: Any
    high: Any


class _Known(NamedTuple):
    """What the bodies of one skeleton contain: numbers for arrays of these shapes, and the rest of `Inputs`."""

    numbers: Sequence[tuple[Numbers, list[tuple[int, ...]]]]
    rows: int
    batched: bool
    needs_state: bool


class FieldInBody:
    """A field of a request as it stands in the JSON of a body: its keys, and the numbers of its leaves.

    `step_type`: it is the step type of a time step.
    """

    def __init__(self, name: str, nest: Nest, *, step_type: bool) -> None:
        self.name = name
        self._step_type = step_type
        self._leaves = list(_pointers(nest, f"/{_escaped(name)}"))
        # How many keys it has, its own and those of the objects inside.
        self.keys = 1 + _keys(nest)
        self._is_plain = _is_plain(nest)
        self._is_tuple = isinstance(nest, tuple) and all(isinstance(child, Leaf) for child in nest)

    def is_listed(self, batched: bool) -> bool:
        """Returns whether it consists of lists of numbers alone, as one value or as a batch."""
        return self._is_plain and all(leaf.dtype != "bool" and bool(batched or leaf.shape) for _, leaf in self._leaves)

    @functools.cached_property
    def numbers(self) -> list[Numbers]:
        """The numbers of each leaf, where they are in lists."""
        found = [self._numbers(pointer, leaf) for pointer, leaf in self._leaves]
        is_vector = any(isinstance(one.low, np.ndarray) for one in found)
        if not self._is_tuple or is_vector or len({one[2:] for one in found}) > 1:
            return found
        names = tuple(name for one in found for name in one.names)
        return [found[0]._replace(names=names, pointer=f"/{_escaped(self.name)}")]

    def _numbers(self, pointer: str, leaf: Leaf) -> Numbers:
        least, most = ends_of(leaf, self._step_type)
        wide = np.dtype(np.float64 if leaf.storage.kind == "f" else np.int64)
        return Numbers((leaf.name,), pointer, wide, leaf.storage, least, most)


class SkeletonCache:
    """The skeletons of bodies that were read, with what they contain. `fields`: those that a body may have."""

    def __init__(self, fields: Iterable[FieldInBody]) -> None:
        self._known: dict[bytes, _Known] = {}
        self._bytes = 0
        self._parser = simdjson.Parser()
        self._learning = Lock()
        self._names_differ = _stay_different(field.name for field in fields)

    @property
    def knows_any(self) -> bool:
        """Whether any body may be read by its skeleton."""
        return bool(self._known)

    def learn(self, body: bytes, inputs: Inputs, given: Sequence[FieldInBody]) -> None:
        """Stores the skeleton of a body that was read and contains the `inputs`, as these fields and nothing else."""
        if not self._names_differ or not all(field.is_listed(inputs.batched) for field in given):
            return
        if body.count(b'"') != 2 * sum(
            field.keys for field in given
        ):  # a key is there twice, which would not be missed
            return
        skeleton = body.translate(None, _NUMBERS)
        if len(skeleton) > _MOST_SKELETON_BYTES:
            return
        with self._learning:  # another thread may read a large body meanwhile
            self._store(skeleton, inputs, [numbers for field in given for numbers in field.numbers])

    def _store(self, skeleton: bytes, inputs: Inputs, numbers: Iterable[Numbers]) -> None:
        if skeleton in self._known:
            return
        shapes = [(wanted, [inputs.arrays[name].shape for name in wanted.names]) for wanted in numbers]
        self._known[skeleton] = _Known(shapes, inputs.rows, inputs.batched, inputs.needs_state)
        self._bytes += len(skeleton)
        while len(self._known) > _MOST_SKELETONS or self._bytes > _MOST_BYTES:
            oldest = next(iter(self._known))
            del self._known[oldest]
            self._bytes -= len(oldest)

    def read(self, body: bytes) -> Inputs | None:
        """Reads a body whose skeleton is known; returns None where it is not, or where the body does not fit."""
        known = self._known.get(body.translate(None, _NUMBERS))
        if known is None:
            return None
        parser = self._parser if len(body) <= _MOST_KEPT_BYTES else simdjson.Parser()
        try:
            arrays = _arrays(parser.parse(body), known.numbers)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
            return None
        return None if arrays is None else Inputs(arrays, known.rows, known.batched, known.needs_state, 0)


def _arrays(document: Any, numbers: Iterable[tuple[Numbers, list[tuple[int, ...]]]]) -> Arrays | None:
    """The numbers in `document`, of which nothing is left afterwards: only then can its parser be used again."""
    arrays: Arrays = {}
    for (names, pointer, wide, storage, low, high), shapes in numbers:
        array = np.frombuffer(document.at_pointer(pointer).as_buffer(of_type=_SIMDJSON_TYPES[wide.kind]), wide)
        if not lie_between(low, high, array, shapes[0]):
            return None
        array = array.astype(storage)
        if len(names) == 1:
            arrays[names[0]] = array.reshape(shapes[0])
            continue
        start = 0
        for name, shape in zip(names, shapes, strict=True):
            end = start + math.prod(shape)
            arrays[name] = array[start:end].reshape(shape)
            start = end
    return arrays


def _stay_different(names: Iterable[str]) -> bool:
    """Whether names are still different without what numbers are made of."""
    stripped = [name.encode().translate(None, _NUMBERS) for name in names]
    return len(set(stripped)) == len(stripped)


def _pointers(nest: Nest, pointer: str) -> Iterator[tuple[str, Leaf]]:
    """Each leaf with where it is in a body: a JSON pointer (RFC 6901)."""
    if isinstance(nest, Leaf):
        yield pointer, nest
    elif isinstance(nest, dict):
        for key, child in nest.items():
            yield from _pointers(child, f"{pointer}/{_escaped(key)}")
    else:
        for index, child in enumerate(nest):
            yield from _pointers(child, f"{pointer}/{index}")


def _escaped(key: str) -> str:
    """A key as a JSON pointer has it (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")


def _is_plain(nest: Nest) -> bool:
    """Whether skeletons alone show which names and values are in it."""
    if isinstance(nest, Leaf):
        return True
    children = list(nest.values() if isinstance(nest, dict) else nest)
    names = nest if isinstance(nest, dict) else ()
    return bool(children) and _stay_different(names) and all(map(_is_plain, children))


def _keys(nest: Nest) -> int:
    if isinstance(nest, Leaf):
        return 0
    children = nest.values() if isinstance(nest, dict) else nest
    return sum(map(_keys, children)) + (len(nest) if isinstance(nest, dict) else 0)
