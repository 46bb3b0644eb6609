"""A graph without calls → the operations that draw random numbers in it, and which of them draw the same ones."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from app.builder.random_ops import DRAWS, is_seed

# Kinds that can be had from noise, by what they draw; an integer from a range, or a category by its logit.
UNIFORM, NORMAL, INTEGER, CATEGORY = "uniform", "normal", "integer", "category"
_KINDS = {
    "RandomUniform": UNIFORM,
    "RandomStandardNormal": NORMAL,
    "RandomUniformInt": INTEGER,
    "Multinomial": CATEGORY,
    "StatelessRandomUniform": UNIFORM,
    "StatelessRandomUniformV2": UNIFORM,
    "StatelessRandomNormal": NORMAL,
    "StatelessRandomNormalV2": NORMAL,
    "StatelessRandomUniformInt": INTEGER,
    "StatelessRandomUniformIntV2": INTEGER,
    "StatelessMultinomial": CATEGORY,
}
# Which inputs of those without a state are their seed; of the second versions, the seed as key and counter.
_SEEDS = {"StatelessMultinomial": (2,)}
_BOUNDS = {"RandomUniformInt": 1, "StatelessRandomUniformInt": 2, "StatelessRandomUniformIntV2": 4}
_STATELESS = re.compile(r"^Stateless")
# From 23 bits: each of so many integers has its share up to a few parts in ten thousand.
_MOST_INTEGERS = 1024


class CannotReplace(Exception):
    """What a function draws cannot be had from noise; the message says what, as the end of a sentence."""


@dataclass(frozen=True)
class Draw:
    """Operations that draw the very same numbers, mostly one. `what`: UNIFORM, NORMAL, INTEGER or CATEGORY.

    `range`: of integers, the first one and how many there are.
    """

    operations: tuple[Any, ...]
    what: str
    range: tuple[int, int] = (0, 0)

    @property
    def operation(self) -> Any:
        """The first of them."""
        return self.operations[0]

    @property
    def parameters(self) -> tuple[Any, ...]:
        """The tensors that what is drawn depends on."""
        return (self.operation.inputs[0],) if self.what == CATEGORY else ()

    @property
    def shaped_like(self) -> tuple[Any, ...]:
        """The tensors in whose shape the noise is: that of the first, and the further axes of the second."""
        return (self.operation.outputs[0], *self.parameters)


def draws_in(operations: list[Any]) -> list[Draw]:
    """The draws among operations, in their order, without those that are only seeds of others.

    Args:
      operations: those that the outputs of a graph come from, all in the graph itself.

    Raises:
      CannotReplace: a kind that is not known, or numbers that repeat from call to call.
    """
    users: dict[str, list[Any]] = {}
    for operation in operations:
        for tensor in operation.inputs:
            users.setdefault(tensor.op.name, []).append(operation)
    found: dict[bytes, list[Any]] = {}
    for operation in operations:
        if DRAWS.search(operation.type) and not is_seed(operation, users):
            if operation.type not in _KINDS:
                raise CannotReplace(f"draws by {operation.type}")
            found.setdefault(_seed_of(operation), []).append(operation)
    return _in_order([_draw(drawn) for drawn in found.values()])


def _in_order(draws: list[Draw]) -> list[Draw]:
    """The draws, each after those that it depends on."""
    behind = {
        draw.operation.name: {operation.name for one in draw.operations for operation in _behind(list(one.inputs))}
        for draw in draws
    }
    return sorted(draws, key=lambda draw: len(behind[draw.operation.name]))


def _draw(operations: list[Any]) -> Draw:
    """One draw, of operations that draw by the same seed.

    Raises:
      CannotReplace: their numbers would be neither the same nor independent, or noise does not have them.
    """
    first = operations[0]
    if len({(o.type, _key_of_inputs(o), o.outputs[0].dtype) for o in operations}) > 1:
        raise CannotReplace("draws twice by one seed")
    what = _KINDS[first.type]
    dtype = (first.inputs if what == CATEGORY else first.outputs)[0].dtype
    if what == INTEGER:
        return Draw(tuple(operations), what, _range_of(first))
    if dtype != tf.float32:
        raise CannotReplace(f"draws numbers of {dtype.name}")
    return Draw(tuple(operations), what)


def _range_of(operation: Any) -> tuple[int, int]:
    place = _BOUNDS[operation.type]
    first, end = (tf.get_static_value(tensor) for tensor in operation.inputs[place : place + 2])
    if first is None or end is None or not 0 < int(end) - int(first) <= _MOST_INTEGERS:
        raise CannotReplace(f"draws integers between bounds that are not known, or over {_MOST_INTEGERS} apart")
    return int(first), int(end) - int(first)


def _seed_of(operation: Any) -> bytes:
    """Names the numbers that an operation draws: those of one name are the same.

    Raises:
      CannotReplace: they do not come from a seed that is new in each call.
    """
    if not _STATELESS.search(operation.type):
        return f"itself {operation.name}".encode()
    places = _SEEDS.get(operation.type, (1, 2) if operation.type.endswith("V2") else (1,))
    seeds = [operation.inputs[place] for place in places]
    roots = list(_behind(seeds))
    if any(root.type == "Placeholder" for root in roots):
        raise CannotReplace("draws by a seed that comes from its inputs")
    if not any(DRAWS.search(root.type) and not _STATELESS.search(root.type) for root in roots):
        raise CannotReplace("draws by a seed in the export")
    known: dict[str, bytes] = {}
    return b"".join(_key(seed, known) for seed in seeds)


def _behind(tensors: list[Any]) -> Iterator[Any]:
    """The operations that tensors come from."""
    waiting, known = [tensor.op for tensor in tensors], set()
    while waiting:
        operation = waiting.pop()
        if operation.name not in known:
            known.add(operation.name)
            yield operation
            waiting += [tensor.op for tensor in operation.inputs]


def _key_of_inputs(operation: Any) -> bytes:
    known: dict[str, bytes] = {}
    return b"".join(_key(tensor, known) for tensor in operation.inputs)


def _key(tensor: Any, known: dict[str, bytes]) -> bytes:
    """A digest that is equal for two tensors that are worked out in the same way; draws count by their names."""
    operation = tensor.op
    if operation.name not in known:
        text = hashlib.sha256(operation.type.encode())
        if (DRAWS.search(operation.type) and not _STATELESS.search(operation.type)) or operation.type == "Placeholder":
            text.update(operation.name.encode())
        else:
            attributes: Mapping[str, Any] = operation.node_def.attr
            for name in sorted(attributes):
                text.update(name.encode() + attributes[name].SerializeToString(deterministic=True))
            for before in operation.inputs:
                text.update(_key(before, known))
        known[operation.name] = text.digest()
    return known[operation.name] + str(tensor.value_index).encode()
