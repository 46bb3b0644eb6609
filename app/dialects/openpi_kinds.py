"""A message of OpenPI that was read → others that differ from it in the numbers of their arrays alone, read at once."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from app.inputs.arrays import ArrayReader
from app.inputs.options import Options
from app.inputs.validate import Inputs
from app.wire.tensors import Array


class Place(NamedTuple):
    """Where an array of a message lies. `name`: of its leaf; `shape`: [rows, …]."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    items: int


class Kind(NamedTuple):
    """A kind of messages that differ in the numbers of their arrays alone. `between`: what stands around those."""

    size: int
    between: list[tuple[int, int, bytes]]
    places: list[Place]
    rows: int
    batched: bool
    options: Options

    @classmethod
    def of(cls, body: bytes, inputs: Inputs, options: Options) -> Kind | None:
        """Returns the kind of a message, and None where some of its inputs are no arrays of the spec's own dtypes."""
        base = _address(np.frombuffer(body, np.uint8))
        places = []
        for name, array in inputs.arrays.items():
            start = _address(array) - base
            if not 0 <= start <= len(body) - array.nbytes or array.dtype.kind not in "iuf" or not array.nbytes:
                return None
            places.append(Place(name, array.dtype, array.shape, start, array.size))
        places.sort(key=lambda place: place.start)
        between, at = [], 0
        for place in places:
            between.append((at, place.start, body[at : place.start]))
            at = place.start + place.items * place.dtype.itemsize
        between.append((at, len(body), body[at:]))
        return cls(len(body), between, places, inputs.rows, inputs.batched, options)

    def read(self, body: bytes, reader: ArrayReader) -> tuple[Inputs, Options] | None:
        """Reads a message of this kind; None of any other, and where some number has to be looked at more closely."""
        if len(body) != self.size:
            return None
        for start, end, constant in self.between:
            if body[start:end] != constant:
                return None
        arrays = {
            name: np.frombuffer(body, dtype, items, start).reshape(shape)
            for name, dtype, shape, start, items in self.places
        }
        inputs = reader.read(arrays, self.rows)
        return None if inputs is None else (inputs._replace(batched=self.batched), self.options)


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])
