"""A function with loops whose passes are counted by constants, or that draws in a branch → the same without them.

Keras' recurrent layers loop over time, of which a policy gets one step; `tf.map_fn` loops over actions. Both keep what
they gather in lists of tensors, which LiteRT has only where each size is known, that of the rows too. Pass by pass,
such a list is a list of tensors in Python.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import function_def_to_graph, tensor_util

from app.builder.random_ops import DRAWS
from app.builder.traced_again import OpenGraph, free, imported, tensor_name
from app.builder.unsupported import kinds
from app.engine.savedmodel.engine import FlatFunction

Value: TypeAlias = "tf.Tensor | list[tf.Tensor | None]"

_LOOPS, _BRANCHES = ("While", "StatelessWhile"), ("If", "StatelessIf")
_MOST_PASSES = 64
_NUMBERS: Mapping[str, Callable[..., Any]] = {
    "Less": np.less,
    "LessEqual": np.less_equal,
    "Greater": np.greater,
    "LogicalAnd": np.logical_and,
    "AddV2": np.add,
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Minimum": np.minimum,
    "Maximum": np.maximum,
}


class CannotUnroll(Exception):
    """A loop stays one: how often it goes round is not known beforehand, or it does what is not known here."""


def runs_others(function: FlatFunction) -> bool:
    """Whether a function has loops or branches."""
    return not kinds(function.concrete).isdisjoint(_LOOPS + _BRANCHES)


def has_lists(function: FlatFunction) -> bool:
    """Whether a function gathers something in a list of tensors."""
    return "TensorListReserve" in kinds(function.concrete)


def unrolled(function: FlatFunction) -> FlatFunction:
    """The function without its loops.

    Raises:
      CannotUnroll: one of them has to stay.
    """
    try:
        graph = OpenGraph(function)
    except ValueError as error:
        raise CannotUnroll(str(error)) from error

    def fill_in(known: dict[str, tf.Tensor], _: dict[str, tf.Tensor]) -> None:
        body = _Body(graph.nodes, {f.signature.name: f for f in graph.library.function}, graph.library, dict(known))
        known |= {tensor.name: _tensor(body.value(tensor.name)) for tensor in graph.graph.outputs}

    return graph.traced(fill_in)


class _Body:
    """The nodes of a graph, worked out one by one in the graph that is traced now.

    Args:
      nodes: by name; they name what they take as nodes of a graph do.
      functions: those that they may run, by name.
      library: the same for TensorFlow.
      values: what is known, by the names of tensors.
    """

    def __init__(
        self, nodes: Mapping[str, Any], functions: Mapping[str, Any], library: Any, values: dict[str, Value]
    ) -> None:
        self._nodes = nodes
        self._functions = functions
        self._library = library
        self._values = values

    def value(self, name: str) -> Value:
        """The value of a tensor of that name."""
        waiting = [name]
        while waiting:
            if waiting[-1] in self._values:
                waiting.pop()
                continue
            node = self._nodes[waiting[-1].partition(":")[0]]
            before = [tensor_name(reference) for reference in node.input]
            missing = [one for one in before if one not in self._values]
            if missing:
                waiting += missing
                continue
            outputs = self._outputs(node, [self._values[one] for one in before])
            self._values |= {f"{node.name}:{number}": output for number, output in enumerate(outputs)}
        return self._values[name]

    def _outputs(self, node: Any, inputs: Sequence[Value]) -> Sequence[Value]:
        if node.op in _LOOPS:
            try:
                return self._passes(node, inputs)
            except CannotUnroll:
                if any(isinstance(value, list) for value in inputs) or any(map(self._draws, _run_by(node))):
                    raise  # any other one may stay
        if node.op in _BRANCHES and any(self._draws(name) for name in _run_by(node)):
            return self._both(node, inputs)
        if node.op.startswith("TensorList"):
            return [_of_list(node.op, inputs)]
        if node.op in ("Identity", "StopGradient") and isinstance(inputs[0], list):
            return [inputs[0]]
        known = dict(zip(map(tensor_name, node.input), map(_tensor, inputs), strict=True))
        operation = imported([node], self._library, known, [node.name])[0]
        return list(operation.outputs)

    def _passes(self, node: Any, values: Sequence[Value]) -> Sequence[Value]:
        """The values of a loop after its last pass."""
        for _ in range(_MOST_PASSES):
            goes_on = _number(_tensor(self._called(node.attr["cond"].func.name, values)[0]))
            if goes_on is None:
                raise CannotUnroll("how often a loop goes round depends on its inputs")
            if not goes_on:
                return values
            values = self._called(node.attr["body"].func.name, values)
        raise CannotUnroll(f"a loop goes round more than {_MOST_PASSES} times")

    def _both(self, node: Any, inputs: Sequence[Value]) -> Sequence[Value]:
        """The values of the branch that is taken, where both are worked out: what one draws is an input beforehand."""
        chosen = _tensor(inputs[0])
        if chosen.dtype != tf.bool or chosen.shape.rank != 0:
            raise CannotUnroll("a branch is chosen by something else than true or false")
        first, second = (self._called(node.attr[f"{name}_branch"].func.name, inputs[1:]) for name in ("then", "else"))
        pairs = [(_tensor(one), _tensor(other)) for one, other in zip(first, second, strict=True)]
        if any(one.shape.as_list() != other.shape.as_list() for one, other in pairs):
            raise CannotUnroll("two branches have outputs of different shapes")
        return [tf.where(chosen, one, other) for one, other in pairs]

    def _draws(self, name: str) -> bool:
        nodes = self._functions[name].node_def
        return any(DRAWS.search(node.op) or any(map(self._draws, _run_by(node))) for node in nodes)

    def _called(self, name: str, values: Sequence[Value]) -> list[Value]:
        function = self._functions[name]
        definition, flat = function_def_to_graph.function_def_to_graph_def(function)
        given = {f"{arg.name}:0": value for arg, value in zip(function.signature.input_arg, values, strict=True)}
        for node in definition.node:
            free(node)
        body = _Body({node.name: node for node in definition.node}, self._functions, self._library, given)
        return [body.value(flat[function.ret[output.name]]) for output in function.signature.output_arg]


def _run_by(node: Any) -> list[str]:
    """The names of the functions that a node runs."""
    return [run.name for value in node.attr.values() for run in (value.func, *value.list.func) if run.name]


def _of_list(kind: str, inputs: Sequence[Value]) -> Value:
    """What an operation on lists of tensors gives: a list is one in Python."""
    if kind == "TensorListReserve":
        return [None] * _size(inputs[1])
    if kind == "TensorListFromTensor":
        tensor = _tensor(inputs[0])
        if tensor.shape.rank is None or tensor.shape[0] is None:
            raise CannotUnroll("a list has a size that is not known")
        return list(tf.unstack(tensor))
    items = inputs[0]
    assert isinstance(items, list)
    if kind == "TensorListGetItem":
        return _tensor(items[_size(inputs[1])])
    if kind == "TensorListSetItem":
        place = _size(inputs[1])
        return [*items[:place], _tensor(inputs[2]), *items[place + 1 :]]
    if kind == "TensorListStack":
        return tf.stack([_tensor(item) for item in items])
    raise CannotUnroll(f"a list is used by {kind}")


def _tensor(value: Value | None) -> tf.Tensor:
    if value is None or isinstance(value, list):
        raise CannotUnroll("a list of tensors is used before it is full, or as a tensor")
    return value


def _size(value: Value) -> int:
    number = _number(_tensor(value))
    if number is None:
        raise CannotUnroll("a place in a list is not known")
    return int(number)


def _number(tensor: tf.Tensor) -> Any:
    """The value of a tensor that constants and sizes decide; None where they do not."""
    value = tensor_util.constant_value(tensor)
    if value is not None:
        return value
    operation = tensor.op
    if operation.type in ("Identity", "StopGradient", "Squeeze"):
        return _number(operation.inputs[0])
    if operation.type in _NUMBERS:
        numbers = [_number(before) for before in operation.inputs]
        return None if any(number is None for number in numbers) else _NUMBERS[operation.type](*numbers)
    if operation.type == "StridedSlice":
        return _size_in(operation)
    return None


def _size_in(operation: Any) -> int | None:
    """One size of a shape of which not all need be known."""
    place = tensor_util.constant_value(operation.inputs[1])
    if operation.get_attr("shrink_axis_mask") != 1 or place is None or place.size != 1:
        return None
    shape = tensor_util.constant_value_as_shape(operation.inputs[0])
    return None if shape.rank is None else shape.as_list()[int(place[0])]
