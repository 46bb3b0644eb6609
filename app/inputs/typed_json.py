"""The fields of a request as they stand in JSON: lists of numbers → arrays."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.inputs.skeletons import FieldInBody
from app.inputs.typed_fields import Field, itself
from app.wire.tensors import Array
from saver.artifact import Leaf, Nest, PolicySpec

# So many numbers are written into a buffer and read from there, which takes half as long as from lists.
_FEW = 8


class JsonField(Field):
    """A field as it stands in JSON."""

    def __init__(self, key: str, name: str, nest: Nest, top: str, spec: PolicySpec) -> None:
        super().__init__(key, name, nest, top, spec)
        self.leaves = [_typed(leaf, get) for leaf, get in self.parts]
        self.in_body = FieldInBody(name, nest, step_type=self.is_step_type)


@dataclass(frozen=True)
class _TypedLeaf:
    """One leaf: how it is found in the decoded value of its field, and how it becomes an array.

    `raw`: finds it; None where it is all of the field.
    """

    name: str
    raw: Callable[[Any], Any] | None
    shape: tuple[int, ...]
    numbers: int
    storage: np.dtype[Any]
    code: str
    wide: np.dtype[Any]

    def array(self, raw: Any, rows: int, batched: bool) -> Array:
        """Returns [rows, …] of the numbers in nested lists, which are known to fit."""
        count = rows * self.numbers
        if count <= _FEW:
            return np.array(raw if batched else [raw], self.storage)
        numbers = raw
        for _ in range(len(self.shape) - (not batched)):
            deeper, numbers = numbers, []
            for items in deeper:
                numbers += items
        packed = struct.pack(f"{count}{self.code}", *numbers)
        return np.frombuffer(packed, self.wide).astype(self.storage).reshape(rows, *self.shape)


def _typed(leaf: Leaf, get: Callable[[Any], Any]) -> _TypedLeaf:
    wide = {"f": ("d", float), "b": ("?", bool)}.get(leaf.storage.kind, ("q", np.int64))
    shape = tuple(size or 0 for size in leaf.shape)
    raw = None if get is itself else get
    return _TypedLeaf(leaf.name, raw, shape, math.prod(shape), leaf.storage, wide[0], np.dtype(wide[1]))
