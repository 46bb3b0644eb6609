"""Constant folding: functions over variables → the same functions over every value that depends on variables alone.

Conversion folds such values beforehand, in its own way. Here TensorFlow works them out, for each version, and the
functions to convert get the results. So `relu(v)` is never taken for `v`: it is no part of them. (Constants that an
export has embedded in its graph, and no checkpoint changes, are the matter of `embedded_constants`.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import tensor_util
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from app.builder.gathers import mend_gathers

Values: TypeAlias = "list[np.ndarray[Any, Any]]"

# They give their input on as it is.
_SAME = {"Identity", "StopGradient", "Snapshot", "PreventGradient"}
# Of what these call, the arguments are the operation's inputs; of a branch those after the one that chooses it.
_OF_SHAPES = {"Shape", "ShapeN", "Size", "Rank"}
_CALLS = {"PartitionedCall": 0, "StatefulPartitionedCall": 0, "While": 0, "StatelessWhile": 0}
_BRANCHES = {"If": 1, "StatelessIf": 1, "Case": 1, "StatelessCase": 1}


class FoldedConstants:
    """Functions and the folded constants that they read.

    `functions`: by name, over `variables`: one for each constant, which hold the values for the weights that the
    functions were given with. `explained`: nothing else is worked out from variables alone, in a loop or branch.
    `saved_model`: the functions as they are converted, once they have been saved; the variables' values are not in it.

    Args:
      functions: tf.functions with input signatures that return dicts, by name. They change no variables.
      variables: those that they read; they use no other resources.
      fed_back: whether outputs come back as inputs, as those of a policy with state.
    """

    def __init__(self, functions: Mapping[str, Any], variables: Sequence[Any], fed_back: bool = False) -> None:
        self.fed_back = fed_back
        self.saved_model = b""
        numbers = {id(variable.handle): number for number, variable in enumerate(variables)}
        frozen = {name: _Frozen(function, numbers) for name, function in functions.items()}
        sources: dict[bytes, tuple[_Frozen, Any]] = {}
        for one in frozen.values():
            for tensor in one.constants:
                sources.setdefault(one.key(tensor), (one, tensor))
        # The number of the variable that each constant is; None for those that are worked out.
        self._numbers = [one.variable(tensor) for one, tensor in sources.values()]
        worked_out = [source for source, number in zip(sources.values(), self._numbers, strict=True) if number is None]
        self._worked_out = _function_of_weights(worked_out, [variable.dtype for variable in variables])
        self.explained = all(one.explained for one in frozen.values())
        values = self.values([variable.numpy() for variable in variables])
        self.variables = [tf.Variable(value) for value in values]
        by_key = dict(zip(sources, self.variables, strict=True))
        self.functions = {
            name: one.over({tensor.name: by_key[one.key(tensor)] for tensor in one.constants})
            for name, one in frozen.items()
        }

    def values(self, weights: Values) -> Values:
        """The values of the constants for these weights, which are values of the variables."""
        worked_out = iter(self._worked_out(*weights))
        return [next(worked_out).numpy() if number is None else weights[number] for number in self._numbers]

    def assign(self, values: Values) -> None:
        """Puts values of the constants into the variables of the functions."""
        for variable, value in zip(self.variables, values, strict=True):
            variable.assign(value)


def _function_of_weights(
    wanted: Sequence[tuple[_Frozen, Any]], dtypes: Sequence[tf.DType]
) -> Callable[..., Sequence[tf.Tensor]]:
    """A function of the weights that gives tensors of frozen functions."""
    if not wanted:
        return lambda *_: ()

    @tf.function(autograph=False)
    def worked_out(*weights: tf.Tensor) -> list[tf.Tensor]:
        return [one.work_out(tensor, weights) for one, tensor in wanted]

    return lambda *weights: worked_out(*map(tf.constant, weights, dtypes))


class _Frozen:
    """One function as a graph in which its variables are constants, and nothing is a call but loops and branches."""

    def __init__(self, function: Any, numbers: Mapping[int, int]) -> None:
        concrete = function.get_concrete_function()
        self._specs = [tf.TensorSpec(t.shape, t.dtype, t.op.name) for t in _inputs(concrete)]
        self._names = sorted(concrete.structured_outputs)
        captured = {inner.op.name: numbers.get(id(outer)) for outer, inner in concrete.graph.captures}
        self._numbers = {name: number for name, number in captured.items() if number is not None}
        graph = convert_variables_to_constants_v2(concrete, lower_control_flow=False, aggressive_inlining=True).graph
        self._operations = {operation.name: operation for operation in graph.get_operations()}
        self._definition = graph.as_graph_def()
        mend_gathers(self._definition)
        self._library = {f.signature.name: f for f in self._definition.library.function}
        self._nodes = {node.name: node for node in self._definition.node}
        self._outputs = list(graph.outputs)
        self._known: dict[str, Any] = {}
        self._reads_input, self._reads_variable = self._reading()
        self._keys: dict[str, bytes] = {}
        self.constants = list({tensor.name: tensor for tensor in self._on_the_border()}.values())
        self.explained = all(self._passes_on(op) for op in self._kept())

    def variable(self, tensor: Any) -> int | None:
        """The number of the variable that the tensor is; None where it is worked out from some."""
        operation = tensor.op
        while operation.type in _SAME:
            operation = operation.inputs[0].op
        return self._numbers.get(operation.name)

    def key(self, tensor: Any) -> bytes:
        """A digest that is equal for two tensors worked out from the same variables in the same way."""
        operation = tensor.op
        if operation.type in _SAME:
            return self.key(operation.inputs[0])
        if operation.name not in self._keys:
            text = hashlib.sha256()
            if operation.name in self._numbers:
                text.update(f"variable {self._numbers[operation.name]}".encode())
            else:
                node = self._nodes[operation.name]
                text.update(node.op.encode())
                for name in sorted(node.attr):
                    text.update(name.encode() + node.attr[name].SerializeToString(deterministic=True))
                for before in operation.inputs:
                    text.update(self.key(before))
            self._keys[operation.name] = text.digest()
        return self._keys[operation.name] + str(tensor.value_index).encode()

    def over(self, reads: Mapping[str, Any]) -> Any:
        """The function over other variables: by the name of the constant that each one stands for."""
        kept = {op.name for op in self._kept()} | {op.name for op in self._plain_constants()}
        definition = self._part(kept - {spec.name for spec in self._specs})

        @tf.function(autograph=False, input_signature=self._specs)
        def function(*inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            given = {f"{spec.name}:0": tensor for spec, tensor in zip(self._specs, inputs, strict=True)}
            given |= {name: variable.read_value() for name, variable in reads.items()} | self._known_tensors()
            outputs = self._imported(definition, given, self._outputs)
            return {name: tf.identity(tensor) for name, tensor in zip(self._names, outputs, strict=True)}

        return function

    def work_out(self, tensor: Any, weights: Sequence[tf.Tensor]) -> tf.Tensor:
        """The tensor from the weights, in the graph that is traced now."""
        before = {operation.name for operation in self._before([tensor.op])}
        given = {f"{name}:0": weights[self._numbers[name]] for name in before if name in self._numbers}
        given |= self._known_tensors()
        return self._imported(self._part(before - self._numbers.keys()), given, [tensor])[0]

    def _reading(self) -> tuple[set[str], set[str]]:
        """The operations whose value depends on the inputs, and those whose value depends on variables.

        What is known from shapes alone, conversion takes for a constant; so it is neither, and noted.
        """
        on_input = {spec.name for spec in self._specs}
        on_variable = set(self._numbers)
        for operation in self._in_order():
            before = {tensor.op.name for tensor in operation.inputs}
            if not before & (on_input | on_variable):
                continue
            if operation.type in _OF_SHAPES or not before & on_variable:
                values = {tensor.name: _known_value(tensor) for tensor in operation.outputs}
                if values and all(value is not None for value in values.values()):
                    self._known[operation.name] = values
                    continue
            if before & on_input:
                on_input.add(operation.name)
            if before & on_variable:
                on_variable.add(operation.name)
                if any(tensor.dtype in (tf.variant, tf.resource) for tensor in operation.outputs):
                    on_input.add(operation.name)  # no constant can hold it
        return on_input, on_variable

    def _known_tensors(self) -> dict[str, tf.Tensor]:
        return {name: tf.constant(value) for values in self._known.values() for name, value in values.items()}

    def _in_order(self) -> Iterator[Any]:
        """All operations, each after those that it reads."""
        done: set[str] = set()
        for first in self._operations.values():
            stack = [first]
            while stack:
                operation = stack[-1]
                missing = [t.op for t in operation.inputs if t.op.name not in done]
                if missing and operation.name not in done:
                    stack += missing
                    continue
                stack.pop()
                if operation.name not in done:
                    done.add(operation.name)
                    yield operation

    def _is_constant(self, tensor: Any) -> bool:
        """Whether it depends on variables alone."""
        name = tensor.op.name
        return name in self._reads_variable and name not in self._reads_input

    def _kept(self) -> list[Any]:
        """The operations behind the outputs that depend on inputs."""
        return [op for op in self._before([t.op for t in self._outputs]) if op.name in self._reads_input]

    def _plain_constants(self) -> list[Any]:
        """The operations that neither inputs nor variables matter to."""
        known = self._reads_input | self._reads_variable
        return [op for op in self._before([t.op for t in self._outputs]) if op.name not in known]

    def _before(self, operations: Iterable[Any]) -> list[Any]:
        """The operations, and all that they read, up to what is known from shapes."""
        waiting, reached = list(operations), {}
        while waiting:
            operation = waiting.pop()
            if operation.name not in reached and operation.name not in self._known:
                reached[operation.name] = operation
                waiting += [tensor.op for tensor in operation.inputs]
        return list(reached.values())

    def _on_the_border(self) -> Iterator[Any]:
        """The constants that an operation takes that depends on inputs, or that are an output."""
        for operation in self._kept():
            yield from (tensor for tensor in operation.inputs if self._is_constant(tensor))
        yield from (tensor for tensor in self._outputs if self._is_constant(tensor))

    def _part(self, names: set[str]) -> Any:
        """The graph of these operations, without the order that control inputs ask for: nothing here has effects."""
        part = tf.compat.v1.GraphDef(versions=self._definition.versions, library=self._definition.library)
        for name in self._nodes:  # in their order
            if name in names:
                node = part.node.add()
                node.CopyFrom(self._nodes[name])
                inputs = [reference for reference in node.input if not reference.startswith("^")]
                del node.input[:]
                node.input.extend(inputs)
        return part

    def _imported(self, definition: Any, given: Mapping[str, tf.Tensor], wanted: Sequence[Any]) -> list[tf.Tensor]:
        """The wanted tensors, in the graph that is traced now."""
        taken = {_tensor_name(reference) for node in definition.node for reference in node.input}
        there = {node.name for node in definition.node}
        inside = [tensor.name for tensor in wanted if tensor.name not in given and tensor.op.name in there]
        mapped = {name: tensor for name, tensor in given.items() if name in taken}
        found = tf.import_graph_def(definition, mapped, inside, name="") if there else []
        tensors = dict(zip(inside, found, strict=True))
        return [given[tensor.name] if tensor.name in given else tensors[tensor.name] for tensor in wanted]

    def _passes_on(self, operation: Any) -> bool:
        """Whether what the operation calls works out nothing from constants alone."""
        functions = _called(self._nodes[operation.name])
        arguments = [self._is_constant(tensor) for tensor in operation.inputs]
        if not functions or not any(arguments):
            return True
        skipped = (_CALLS | _BRANCHES).get(operation.type)
        if skipped is None:
            return False
        return all(self._body_passes_on(name, arguments[skipped:]) for name in functions)

    def _body_passes_on(self, name: str, arguments: Sequence[bool]) -> bool:
        body = self._library[name]
        constant = {arg.name for arg, is_it in zip(body.signature.input_arg, arguments, strict=True) if is_it}
        plain = {node.name for node in body.node_def if not any(not i.startswith("^") for i in node.input)}
        changed = True
        while changed:
            changed = False
            for node in body.node_def:
                before = [reference.partition(":")[0] for reference in node.input if not reference.startswith("^")]
                flags = [reference in constant for reference in before]
                if node.name in constant or not any(flags):
                    continue
                if all(reference in constant or reference in plain for reference in before):
                    if node.op not in _SAME:
                        return False
                    constant.add(node.name)
                    changed = True
                elif _called(node):
                    skipped = (_CALLS | _BRANCHES).get(node.op)
                    if skipped is None or not all(self._body_passes_on(n, flags[skipped:]) for n in _called(node)):
                        return False
        return True


def _inputs(concrete: Any) -> list[Any]:
    """The tensors of a concrete function's inputs, without what it captures."""
    captured = {id(inner) for _, inner in concrete.graph.captures}
    return [tensor for tensor in concrete.inputs if id(tensor) not in captured]


def _known_value(tensor: Any) -> Any:
    """The value of a tensor of integers that is known from the shapes of others; None where it is not."""
    return tensor_util.constant_value(tensor) if tensor.dtype.is_integer else None


def _tensor_name(reference: str) -> str:
    """A node's input as the name of a tensor."""
    return reference if ":" in reference else f"{reference}:0"


def _called(node: Any) -> list[str]:
    """The names of the functions that a node calls."""
    references = [f for value in node.attr.values() for f in [value.func, *value.list.func]]
    return [reference.name for reference in references if reference.name]
