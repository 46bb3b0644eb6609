"""Whether two calls of a TensorFlow function with the same inputs give the same answers: read off its graph.

And if not, whether it was meant to begin with the same answers wherever it is loaded, by a seed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from tensorflow.python.ops import script_ops

_IMPURE = re.compile(
    r"Random|Multinomial|Rng|TruncatedNormal|^Stateful(?!PartitionedCall)"  # draws
    r"|Assign|^Resource(Scatter|Apply|SparseApply)|^LookupTable(Insert|Import|Remove)|Queue|^Stack|Iterator"  # keeps
    r"|Timestamp|^(Eager)?PyFunc"  # cannot be judged
)


def impurities(function: Any) -> list[str]:
    """The kinds of operations behind a concrete function's outputs that make two calls with the same inputs differ.

    Random numbers, assignments to variables (an Ornstein-Uhlenbeck process keeps its state so), Python code.
    """
    graph = function.graph
    library = {inner.signature.name: inner.node_def for inner in graph.as_graph_def().library.function}
    waiting = [tensor.op for tensor in graph.outputs] + list(graph.control_outputs)
    reached = set(waiting)
    while waiting:
        operation = waiting.pop()
        before = {tensor.op for tensor in operation.inputs} | set(operation.control_inputs)
        waiting += before - reached
        reached |= before
    nodes = [operation.node_def for operation in reached]
    return sorted({node.op for node in [*nodes, *_called_by(nodes, library)] if _IMPURE.search(node.op)})


def python_code(function: Any) -> list[str]:
    """Lists what of a concrete function is Python, not graph (`py_function`, `numpy_function`), wherever it is nested.

    Each as TensorFlow's name for it, in the process that traced it that of the function, and operation and node.
    A SavedModel holds only a number for it: no other process can run it.
    """
    graph = function.graph.as_graph_def()
    nodes = [*graph.node, *(node for inner in graph.library.function for node in inner.node_def)]
    return sorted({_described(node) for node in nodes if "PyFunc" in node.op})


def _described(node: Any) -> str:
    called = "py_function" if node.op == "EagerPyFunc" else "numpy_function"
    named = _python_function(node.attr["token"].s.decode(errors="replace"))
    return f"{called}{f' of {named}' if named else ''} ({node.op} {node.name})"


def _python_function(token: str) -> str:
    """The name of the function that TensorFlow has registered under that number in this process; empty for none."""
    registered = getattr(getattr(script_ops, "_py_funcs", None), "_funcs", {}).get(token)
    registered = getattr(registered, "_func", registered)  # that of `py_function` is wrapped
    return str(getattr(registered, "__qualname__", ""))


def _called_by(nodes: list[Any], library: Mapping[str, Any]) -> Iterator[Any]:
    """The nodes of the functions that `nodes` call (branches and loops too), and of those that they call."""
    waiting, known = list(nodes), set()
    while waiting:
        for attribute in waiting.pop().attr.values():
            for called in [attribute.func, *attribute.list.func]:
                if called.name in library and called.name not in known:
                    known.add(called.name)
                    yield from library[called.name]
                    waiting += library[called.name]


# What TensorFlow writes into a draw with a seed of its own where no `tf.random.set_seed` was in effect.
_NO_GLOBAL_SEED = 87654321
# Both seeds being 0 would mean that there is none.
_FIRST_OF_SEED_0 = 2**31 - 1


def seed_of(function: Any) -> Literal["own", "global"] | None:
    """Says where the seeds come from that stand in a concrete function's draws; None where none does.

    "own": a seed that somebody has given to a draw, as `PolicySaver(seed=…)` does, so that the numbers repeat.
    "global": `tf.random.set_seed` of the program that saved it, which was meant for that program.

    TensorFlow gives a draw without a seed of its own, in effect of a global one, the global one and the number of such
    draws before it in the graph: 0, 1, 2, … A draw with one has that in the number's place.
    """
    graph = function.graph.as_graph_def()
    bodies = [graph.node, *(inner.node_def for inner in graph.library.function)]
    found = [seeds for seeds in map(_seeds, bodies) if seeds]
    if not found:
        return None
    return "global" if all(map(_only_counted, found)) else "own"


def _seeds(nodes: Iterable[Any]) -> list[tuple[int, int]]:
    """(global seed, own seed or number) of each draw that has any."""
    pairs = [(node.attr["seed"].i, node.attr["seed2"].i) for node in nodes if "seed2" in node.attr]
    return [pair for pair in pairs if pair != (0, 0)]


def _only_counted(seeds: Iterable[tuple[int, int]]) -> bool:
    numbers = defaultdict(set)
    for seed, number in seeds:
        numbers[seed].add(0 if (seed, number) == (0, _FIRST_OF_SEED_0) else number)
    return all(seed != _NO_GLOBAL_SEED and found == set(range(len(found))) for seed, found in numbers.items())
