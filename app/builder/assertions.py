"""A concrete function → whether it may refuse inputs for their values: read off its graph.

An assertion that only weights and shapes decide (TFP has some, of deviations and of the sizes of labels) holds for any
input or for none: one call of TensorFlow shows which.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

_ASSERTIONS = {"Assert", "CheckNumerics"}
# What needs nothing of its inputs but their shape.
SHAPE_ONLY = {"Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike"}
_CALLS = {"PartitionedCall", "StatefulPartitionedCall"}
_BRANCHES = {"If", "StatelessIf"}


def may_refuse(function: Any) -> bool:
    """Whether an assertion in it depends on the value of an input."""
    graph = function.graph
    definition = graph.as_graph_def()
    library = {inner.signature.name: inner for inner in definition.library.function}
    given = graph.inputs[: len(graph.inputs) - len(function.captured_inputs)]
    return _Body(definition.node, {tensor.op.name: True for tensor in given}, library).refuses()


class _Body:
    """The nodes of one function; `arguments` are those that are known to depend on the value of an input, or not."""

    def __init__(self, nodes: Iterable[Any], arguments: Mapping[str, bool], library: Mapping[str, Any]) -> None:
        self._nodes = {node.name: node for node in nodes}
        self._library = library
        self._depends: dict[str, list[bool]] = {name: [value] for name, value in arguments.items()}

    def refuses(self) -> bool:
        """Whether it, or what it calls, has an assertion that depends on an input."""
        return any(self._refuses(node) for node in self._nodes.values())

    def depends(self, reference: str) -> bool:
        """Whether a tensor, named as nodes name their inputs, depends on the value of an input."""
        waiting = [_node(reference)]
        while waiting:
            before = [_node(r) for r in self._nodes[waiting[-1]].input if r[0] != "^"] if self._new(waiting[-1]) else []
            unknown = [name for name in before if self._new(name)]
            waiting += unknown
            if not unknown:
                name = waiting.pop()
                if self._new(name):
                    self._depends[name] = self._outputs(self._nodes[name])
        outputs = self._depends[_node(reference)]
        _, *rest = reference.split(":")
        return outputs[int(rest[-1])] if rest and len(outputs) > 1 else outputs[0]

    def _new(self, name: str) -> bool:
        return name not in self._depends

    def _refuses(self, node: Any) -> bool:
        if node.op in _ASSERTIONS:
            return self.depends(node.input[0])
        called = [self._library[name] for name in _functions(node)]
        if not any(called) or not any(inputs := self._inputs(node)):
            return False
        if node.op in _CALLS:
            return self._inside(called[0], inputs).refuses()
        if node.op in _BRANCHES and not inputs[0]:
            return any(self._inside(branch, inputs[1:]).refuses() for branch in called)
        # An input decides which branch runs, or may decide how often a loop does.
        return any(inner.op in _ASSERTIONS for function in called for inner in self._all_nodes(function))

    def _outputs(self, node: Any) -> list[bool]:
        inputs = self._inputs(node)
        if node.op in _CALLS:
            called = self._library[node.attr["f"].func.name]
            body = self._inside(called, inputs)
            return [body.depends(called.ret[output.name]) for output in called.signature.output_arg] or [False]
        return [any(inputs) and node.op not in SHAPE_ONLY]

    def _inputs(self, node: Any) -> list[bool]:
        return [self.depends(reference) for reference in node.input if reference[0] != "^"]

    def _inside(self, function: Any, inputs: Sequence[bool]) -> _Body:
        names = [argument.name for argument in function.signature.input_arg]
        return _Body(function.node_def, dict(zip(names, inputs, strict=True)), self._library)

    def _all_nodes(self, function: Any) -> Iterator[Any]:
        for node in function.node_def:
            yield node
            for name in _functions(node):
                yield from self._all_nodes(self._library[name])


def _node(reference: str) -> str:
    return reference.partition(":")[0]


def _functions(node: Any) -> list[str]:
    """The names of the functions that a node calls."""
    references = [f for value in node.attr.values() for f in [value.func, *value.list.func]]
    return [reference.name for reference in references if reference.name]
