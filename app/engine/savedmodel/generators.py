"""The state of a policy's `tf.random.Generator`: found in its functions, and made anew in each copy.

An export holds the state that a generator had when it was saved. Copies that went on from there, in each worker and
after each start or swap, would all draw the same numbers.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

# Their first input is the variable with the state.
_DRAWS = re.compile(r"^(RngReadAndSkip|RngSkip|Stateful(Uniform|Standard|Truncated|Binomial|Random))")
_BRANCHES = {"If", "StatelessIf", "Case", "StatelessCase"}
_SAME = {"Identity", "EnsureShape"}


def generator_states(functions: Iterable[Any]) -> list[Any]:
    """The variables that hold the state of a generator which a concrete function draws from, once each."""
    states: dict[int, Any] = {}
    for function in functions:
        graph = function.graph.as_graph_def()
        library = {inner.signature.name: inner for inner in graph.library.function}
        names = _drawn_from(graph.node, library, {})
        by_handle = {id(variable.handle): variable for variable in function.variables}
        for outer, inner in function.graph.captures:
            if inner.op.name in names and id(outer) in by_handle:
                states[id(outer)] = by_handle[id(outer)]
    return list(states.values())


def draw_afresh(states: Iterable[Any]) -> None:
    """Gives each state a value from the operating system: any value is one that the generator may have."""
    for state in states:
        kind = state.dtype.as_numpy_dtype
        size = state.shape.num_elements() * np.dtype(kind).itemsize
        state.assign(np.frombuffer(os.urandom(size), kind).reshape(state.shape))


def _drawn_from(nodes: Iterable[Any], library: Mapping[str, Any], known: dict[str, set[str]]) -> set[str]:
    """The names of the nodes, or of the function's arguments, that hold a state which one of the nodes draws from.

    Args:
      nodes: of a graph, or of a function in it.
      library: the functions that they may call.
      known: the same of functions that were looked at before.
    """
    by_name = {node.name: node for node in nodes}
    found: set[str] = set()
    for node in by_name.values():
        inputs = [reference.partition(":")[0] for reference in node.input if reference[0] != "^"]
        if _DRAWS.search(node.op):
            found.add(_origin(inputs[0], by_name))
        for called in _functions(node):
            body = library[called]
            if called not in known:
                known[called] = _drawn_from(body.node_def, library, known)
            arguments = inputs[1:] if node.op in _BRANCHES else inputs
            taken = zip(body.signature.input_arg, arguments, strict=False)
            found |= {_origin(name, by_name) for argument, name in taken if argument.name in known[called]}
    return found


def _origin(name: str, nodes: Mapping[str, Any]) -> str:
    """What a tensor is passed on from."""
    while name in nodes and nodes[name].op in _SAME:
        name = nodes[name].input[0].partition(":")[0]
    return name


def _functions(node: Any) -> list[str]:
    """The names of the functions that a node calls."""
    references = [f for value in node.attr.values() for f in [value.func, *value.list.func]]
    return [reference.name for reference in references if reference.name]
