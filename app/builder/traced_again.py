"""A function's graph, opened: its parts can be traced again, with other tensors in the places of some."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from app.builder.gathers import mend_gathers
from app.engine.savedmodel.engine import FlatFunction


class OpenGraph:
    """The graph of a function, with its calls inlined, over the same variables.

    `nodes` are those of its definition by name, without the order that control inputs ask for, `library` the functions
    that branches and loops run.

    Raises:
      ValueError: the graph cannot be read.
    """

    def __init__(self, function: FlatFunction) -> None:
        concrete = function.concrete
        try:
            self.graph = convert_variables_to_constants_v2(
                concrete, lower_control_flow=False, aggressive_inlining=True
            ).graph
        except Exception as error:  # it has many kinds of errors for what it does not know
            raise ValueError("its graph cannot be read") from error
        definition = self.graph.as_graph_def()
        mend_gathers(definition)
        for node in definition.node:
            free(node)
        self.nodes = {node.name: node for node in definition.node}
        self.library = definition.library
        self.dtypes = function.dtypes
        self._names = sorted(concrete.structured_outputs)
        wanted = tf.nest.flatten(concrete.structured_input_signature)
        self._specs = [tf.TensorSpec(s.shape, s.dtype, n) for s, n in zip(wanted, function.dtypes, strict=True)]
        handles = {id(variable.handle): variable for variable in concrete.variables}
        captured = {inner.name: outer for outer, inner in concrete.graph.captures}
        self._inputs = [tensor.name for tensor in self.graph.inputs if tensor.name not in captured]
        self._variables = {name: handles[id(outer)] for name, outer in captured.items() if id(outer) in handles}
        self._constants = {name: outer for name, outer in captured.items() if name not in self._variables}
        if any(outer.dtype == tf.resource for outer in self._constants.values()):
            raise ValueError("its graph uses a look-up table, or another resource that is no variable")

    def known(self, inputs: Sequence[tf.Tensor]) -> dict[str, tf.Tensor]:
        """The tensors of the graph that are inputs and variables, by name, in the graph that is traced now."""
        known = dict(zip(self._inputs, inputs, strict=True))
        known |= {name: tf.constant(value.numpy()) for name, value in self._constants.items()}
        return known | {name: variable.read_value() for name, variable in self._variables.items()}

    def add(self, known: dict[str, tf.Tensor], wanted: Sequence[Any]) -> None:
        """Adds wanted tensors, and those that they come from, to the known ones, in the graph that is traced now."""
        waiting = [tensor.op for tensor in wanted if tensor.name not in known]
        needed: dict[str, Any] = {}
        while waiting:
            operation = waiting.pop()
            if operation.name not in needed:
                needed[operation.name] = operation
                waiting += [tensor.op for tensor in operation.inputs if tensor.name not in known]
        if needed:
            names = [tensor.name for operation in needed.values() for tensor in operation.outputs]
            nodes = [self.nodes[name] for name in needed]
            known |= dict(zip(names, imported(nodes, self.library, known, names), strict=True))

    def traced(
        self, fill_in: Callable[[dict[str, tf.Tensor], dict[str, tf.Tensor]], None], more: Sequence[tf.TensorSpec] = ()
    ) -> FlatFunction:
        """The function anew.

        Args:
          fill_in: is given the known tensors of the graph, to which it adds those that it replaces, and the inputs by
            their flattened names.
          more: inputs that the function takes besides.
        """
        specs = [*self._specs, *more]

        @tf.function(autograph=False, input_signature=specs)
        def traced(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
            known = self.known(tensors[: len(self._specs)])
            fill_in(known, dict(zip([spec.name for spec in specs], tensors, strict=True)))
            self.add(known, self.graph.outputs)
            outputs = zip(self._names, self.graph.outputs, strict=True)
            return {name: tf.identity(known[tensor.name]) for name, tensor in outputs}

        dtypes = {spec.name: spec.dtype for spec in specs}
        return FlatFunction(traced.get_concrete_function(), dtypes, by_name=False)


def free(node: Any) -> None:
    """Takes from a node what binds it to others besides its inputs: the order and the place that it has to run in."""
    node.input[:] = [reference for reference in node.input if not reference.startswith("^")]
    node.attr.pop("_class", None)


def imported(nodes: Sequence[Any], library: Any, known: Mapping[str, tf.Tensor], names: Sequence[str]) -> list[Any]:
    """Tensors or operations of these names, of nodes that take known tensors, in the graph that is traced now."""
    part = tf.compat.v1.GraphDef(library=library)
    part.node.extend(nodes)
    taken = {tensor_name(reference) for node in nodes for reference in node.input}
    mapped = {name: tensor for name, tensor in known.items() if name in taken}
    return list(tf.import_graph_def(part, mapped, names, name="again"))


def tensor_name(reference: str) -> str:
    """A node's input as the name of a tensor."""
    return reference if ":" in reference else f"{reference}:0"
