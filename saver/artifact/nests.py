"""Nests of named tensors, as plain data: tf.nest structures in, JSON and flat names out.

A nest is a `Leaf`, a dict of nests, or a tuple of nests. Named tuples of the policy appear as dicts (their
fields), lists and tuples both as tuples, so that a nest has exactly one JSON form.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Union

import numpy as np

# Not `int | float`: while a program runs, Python 3.9 joins no types so.
Bound = Union[int, float, "list[Any]", None]


@dataclass(frozen=True)
class Leaf:
    """One tensor of a signature.

    `name` is its flattened name in the signature; `dtype` a NumPy dtype name, or "string"; `shape` leaves the
    batch dimension out, with None for a dimension of unknown size; `minimum` and `maximum` are inclusive
    bounds (a number, or nested lists of the leaf's shape), None where the spec has none.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    minimum: Bound = None
    maximum: Bound = None

    @property
    def is_integer(self) -> bool:
        """Whether it holds integers."""
        return self.dtype.startswith(("int", "uint"))

    @property
    def is_float(self) -> bool:
        """Whether it holds floats."""
        return self.dtype.startswith(("float", "bfloat"))

    @property
    def storage(self) -> np.dtype[Any]:
        """The NumPy dtype that holds its values; strings are Python objects."""
        if self.dtype == "string":
            return np.dtype(object)
        if self.dtype == "bfloat16":
            import ml_dtypes

            return np.dtype(ml_dtypes.bfloat16)
        return np.dtype(self.dtype)


Nest = Union[Leaf, "dict[str, Nest]", "tuple[Nest, ...]"]


def leaves(nest: Nest, path: str = "") -> Iterator[tuple[str, Leaf]]:
    """Yields (path, leaf) for each leaf; the path joins dict keys and tuple positions with "/"."""
    if isinstance(nest, Leaf):
        yield path, nest
        return
    children = nest.items() if isinstance(nest, dict) else enumerate(nest)
    for key, child in children:
        yield from leaves(child, f"{path}/{key}" if path else str(key))


def pack(nest: Nest, value_of: Callable[[Leaf], Any]) -> Any:
    """Builds the JSON-like structure of `nest` (dicts and lists) with `value_of(leaf)` at each leaf."""
    if isinstance(nest, Leaf):
        return value_of(nest)
    if isinstance(nest, dict):
        return {key: pack(child, value_of) for key, child in nest.items()}
    return [pack(child, value_of) for child in nest]


def nest_to_json(nest: Nest) -> dict[str, Any]:
    """The nest as JSON. Containers are wrapped ({"dict": …}, {"list": …}): any key of a policy stays legal."""
    if isinstance(nest, dict):
        return {"dict": {key: nest_to_json(child) for key, child in nest.items()}}
    if isinstance(nest, tuple):
        return {"list": [nest_to_json(child) for child in nest]}
    leaf: dict[str, Any] = {"name": nest.name, "dtype": nest.dtype, "shape": list(nest.shape)}
    for key, bound in (("minimum", nest.minimum), ("maximum", nest.maximum)):
        if bound is not None:
            leaf[key] = _bound_to_json(bound)
    return leaf


def nest_from_json(data: Mapping[str, Any]) -> Nest:
    """The inverse of `nest_to_json`. Raises KeyError or TypeError where `data` is no such JSON."""
    if "dict" in data:
        return {key: nest_from_json(child) for key, child in data["dict"].items()}
    if "list" in data:
        return tuple(nest_from_json(child) for child in data["list"])
    minimum, maximum = (_bound_from_json(data.get(key)) for key in ("minimum", "maximum"))
    return Leaf(data["name"], data["dtype"], tuple(data["shape"]), minimum, maximum)


def bound_of(value: Any, unbounded: float) -> Bound:
    """A spec's bound (a NumPy array or number) as a number where all its entries agree, else as nested lists.

    None where there are no entries: empty lists would not have the leaf's shape. NaN becomes `unbounded`, an infinity:
    no number is below or above it.
    """
    array = np.asarray(value)
    if not array.size:
        return None
    nan = array != array
    if nan.any():
        array = np.where(nan, array.dtype.type(unbounded), array)
    if (array == array.flat[0]).all():
        number: int | float = array.flat[0].item()
        return number
    nested: list[Any] = array.tolist()
    return nested


def _bound_to_json(bound: Any) -> Any:
    if isinstance(bound, list):
        return [_bound_to_json(item) for item in bound]
    if isinstance(bound, float) and math.isinf(bound):
        return "Infinity" if bound > 0 else "-Infinity"
    return bound


def _bound_from_json(bound: Any) -> Any:
    if isinstance(bound, list):
        return [_bound_from_json(item) for item in bound]
    return float(bound) if isinstance(bound, str) else bound
