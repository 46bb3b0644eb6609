"""A policy's nests → JSON Schemas: of one value or a batch, as it is sent or as it is answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from app.inputs.bounds import bounds_of
from saver.artifact import Leaf, Nest

Schema = dict[str, Any]
# A leaf → the schema of one of its numbers, strings or booleans.
ItemOf = Callable[[Leaf], Schema]
NON_FINITE: Schema = {"enum": ["NaN", "Infinity", "-Infinity"]}


def value_or_batch(nest: Nest, item_of: ItemOf, rows_limit: int | None = None) -> Schema:
    """Returns the schema of one value of a nest, or of a batch of them; `rows_limit`: the most rows of that."""
    most = {} if rows_limit is None else {"maxItems": rows_limit}
    return {"anyOf": [_schema(nest, [], item_of), _schema(nest, [{"minItems": 1, **most}], item_of)]}


def answered(leaf: Leaf) -> Schema:
    """Returns the schema of one item of an answer: what is not finite is a word there."""
    if leaf.is_float:
        return {"anyOf": [{"type": "number"}, NON_FINITE]}
    return _plain(leaf)


def sent(leaf: Leaf, *, step_type: bool, strict_bounds: bool, non_finite: bool) -> Schema:
    """Returns the schema of one item of a request, with the bounds outside of which it is refused.

    `step_type`: the leaf is the step type of a time step. `strict_bounds`, `non_finite`: see `InputValidator`.
    Bounds that differ from item to item are described by the widest.
    """
    low, high = bounds_of(leaf, step_type)
    if leaf.is_integer:
        limits = np.iinfo(leaf.dtype)
        low, high = _widest(low, np.min, limits.min), _widest(high, np.max, limits.max)
        return {"type": "integer", "minimum": max(int(low), limits.min), "maximum": min(int(high), limits.max)}
    if not leaf.is_float:
        return _plain(leaf)
    number: Schema = {"type": "number"}
    if strict_bounds:
        ends = {"minimum": _widest(low, np.min, -np.inf), "maximum": _widest(high, np.max, np.inf)}
        number |= {name: float(end) for name, end in ends.items() if np.isfinite(float(end))}
    return {"anyOf": [number, NON_FINITE]} if non_finite else number


def an_object(properties: Schema) -> Schema:
    """Returns the schema of an object that has all of these."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def a_list(items: Sequence[Schema]) -> Schema:
    """Returns the schema of a list of exactly these."""
    # JSON Schema has no empty prefixItems: the state of a stateless policy is an empty list.
    one_by_one = {"prefixItems": [*items]} if items else {}
    return {"type": "array", **one_by_one, "minItems": len(items), "maxItems": len(items)}


def _schema(nest: Nest, outer: Sequence[Schema], item_of: ItemOf) -> Schema:
    if isinstance(nest, dict):
        return an_object({key: _schema(child, outer, item_of) for key, child in nest.items()})
    if isinstance(nest, tuple):
        return a_list([_schema(child, outer, item_of) for child in nest])
    schema = item_of(nest)
    sizes = [{"minItems": 1} if size is None else {"minItems": size, "maxItems": size} for size in nest.shape]
    for limits in reversed([*outer, *sizes]):
        schema = {"type": "array", "items": schema, **limits}
    return schema | {"description": f"{nest.name}: {nest.dtype} {list(nest.shape)}"}


def _plain(leaf: Leaf) -> Schema:
    return {"type": {"string": "string", "bool": "boolean"}.get(leaf.dtype, "integer")}


def _widest(bound: Any, of_all: Callable[[Any], Any], otherwise: Any) -> Any:
    return otherwise if bound is None else of_all(np.asarray(bound, object))
