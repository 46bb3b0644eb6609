"""A concrete function → what conversion to LiteRT would change without a word: read off its graph."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from app.builder.assertions import SHAPE_ONLY, may_refuse
from saver.impure_ops import impurities, seed_of

_RANDOM = re.compile(r"Random|Multinomial|Rng|TruncatedNormal|^Stateful")
# They lose their argument's period above some 1e7. What can be had exactly, `app.builder.op_rewrites` replaces.
_INEXACT = dict.fromkeys(("Sin", "Cos", "Tan"), "for large inputs")
# It takes the nearest even step at ties, and TensorFlow's own kernels differ among themselves.
_INEXACT |= {f"FakeQuantWithMinMaxVars{which}": "half way between two steps" for which in ("", "PerChannel")}


def why_unsupported(function: Any) -> str | None:
    """Why the function must not be converted, as the predicate of a sentence; None where it may be."""
    if found := impurities(function):
        return f"{what_they_do(found)} ({', '.join(found)})"
    if may_refuse(function):
        return "may refuse inputs by an assertion, and LiteRT would answer them"
    if kinds(function) & _INEXACT.keys() and (inexact := sorted(_kinds_computed(function) & _INEXACT.keys())):
        return f"has {inexact[0]}, which LiteRT works out otherwise {_INEXACT[inexact[0]]}"
    return None


def what_they_do(impure: Sequence[str]) -> str:
    """Names what operations of these kinds do that makes two calls differ: the predicate of a sentence."""
    if any(_RANDOM.search(kind) for kind in impure):
        return "draws random numbers"
    return "runs Python code" if any("PyFunc" in kind for kind in impure) else "keeps state in variables"


def draws_of(action: Any, has_sample: bool) -> str:
    """How a server gets the random numbers of a concrete `action`: a sentence for an operator."""
    impure = impurities(action)
    if not any(_RANDOM.search(kind) for kind in impure):
        return f"action {what_they_do(impure)}" if impure else "action draws nothing: equal inputs get equal answers"
    seed = seed_of(action)
    if seed == "own":
        return "action draws from a seed in the export, the same again after each start; TensorFlow runs it"
    if has_sample:
        return "action draws afresh" + (", whatever tf.random.set_seed was when it was saved" if seed else "")
    return "action draws afresh" + (", but the same again after each start where TensorFlow runs it" if seed else "")


def draws(action: Any) -> bool:
    """Whether a concrete `action` answers equal inputs differently: it draws numbers, or keeps something."""
    return bool(impurities(action))


def kinds(function: Any) -> set[str]:
    """The kinds of operations in a concrete function and in those that it calls."""
    return {node.op for node in _nodes(function)}


def _nodes(function: Any) -> list[Any]:
    graph = function.graph.as_graph_def()
    return [*graph.node, *(node for called in graph.library.function for node in called.node_def)]


def _kinds_computed(function: Any) -> set[str]:
    """The kinds of operations that the values of its outputs come from, those of loops and branches included."""
    frozen = convert_variables_to_constants_v2(function)
    waiting = [tensor.op for tensor in frozen.graph.outputs]
    reached = set(waiting)
    while waiting:
        operation = waiting.pop()
        if operation.type not in SHAPE_ONLY:
            before = {tensor.op for tensor in operation.inputs} - reached
            waiting += before
            reached |= before
    library = {node.op for inner in frozen.graph.as_graph_def().library.function for node in inner.node_def}
    return {operation.type for operation in reached} | library
