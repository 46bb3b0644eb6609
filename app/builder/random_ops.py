"""A function that draws random numbers → whether all rows share a draw, and the same function without chance."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from app.engine.savedmodel.engine import FlatFunction

DRAWS = re.compile(
    r"Random(?!Shuffle|GetKeyCounter|GetAlg)|Multinomial|TruncatedNormal|^Stateful(Uniform|Standard|Binomial)"
)
# What these draw for a place depends on their seed alone, and not on how often others were rejected.
_BY_PLACE = re.compile(r"^Stateless(Random(Uniform|Normal)|TruncatedNormal|Multinomial)")
_TAKES_SEED = re.compile(r"^Stateless")
# What numbers pass through on their way to be a seed.
_PASSING = {"Identity", "StridedSlice", "Slice", "Unpack", "Pack", "Split", "Reshape", "Squeeze", "ExpandDims", "Cast"}
_PASSING |= {"ConcatV2", "BitwiseXor", "AddV2", "Add", "Sub", "Mul", "GatherV2", "Bitcast"}
_CHANGES = re.compile(
    r"Assign|^Resource(Scatter|Apply|SparseApply)|^LookupTable(Insert|Import|Remove)|Queue|^Stack|Iterator|PyFunc"
)
_MOST_INTEGERS = 2**31 - 1
# Kinds that draw → those that draw the same in the same places of an array of the same shape.
_FIXED = {
    "RandomUniform": ("StatelessRandomUniform", 1, {"dtype": "dtype", "T": "T"}),
    "RandomStandardNormal": ("StatelessRandomNormal", 1, {"dtype": "dtype", "T": "T"}),
    "TruncatedNormal": ("StatelessTruncatedNormal", 1, {"dtype": "dtype", "T": "T"}),
    "RandomUniformInt": ("StatelessRandomUniformInt", 1, {"Tout": "dtype", "T": "T"}),
    "Multinomial": ("StatelessMultinomial", 2, {"T": "T", "output_dtype": "output_dtype"}),
}


def changes_state(kind: str) -> bool:
    """Whether an operation of this kind changes what later calls see."""
    return bool(_CHANGES.search(kind))


def is_drawn(impure: Sequence[str]) -> bool:
    """Whether a function with these impure kinds draws anew in each call, and not from seeds in its graph."""
    return any(not kind.startswith("Stateless") for kind in impure)


def drawn_once(function: FlatFunction, batch_size: int | None) -> str:
    """Names what draws one set of numbers for all rows of a call, or shuffles the rows; "" where nothing does.

    Args:
      function: it changes no variables.
      batch_size: the fixed number of rows; None for any number.
    """
    graph = _inlined(function)
    if graph is None:
        return "its graph cannot be read"
    users: dict[str, list[Any]] = {}
    operations = reached(graph)
    for operation in operations:
        for tensor in operation.inputs:
            users.setdefault(tensor.op.name, []).append(operation)
    for operation in operations:
        if operation.type == "RandomShuffle":
            return operation.type
        if DRAWS.search(operation.type) and not is_seed(operation, users):
            shape = operation.outputs[0].shape
            if _has_no_rows(shape.as_list() if shape.rank is not None else None, batch_size):
                return str(operation.type)
    for node in _inner_nodes(graph.as_graph_def()):
        shapes = node.attr["_output_shapes"].list.shape if "_output_shapes" in node.attr else []
        if DRAWS.search(node.op) and shapes and not _is_integer(node):
            sizes = None if shapes[0].unknown_rank else [None if d.size < 0 else d.size for d in shapes[0].dim]
            if _has_no_rows(sizes, batch_size):
                return str(node.op)
    return ""


def without_chance(function: FlatFunction) -> FlatFunction | None:
    """The function with fixed numbers in place of drawn ones, a row's own; None where some cannot be replaced."""
    graph = _inlined(function)
    if graph is None or len(graph.inputs) != len(function.dtypes):
        return None
    definition = graph.as_graph_def()
    drawing = [node for node in definition.node if node.op in _FIXED]
    for number, node in enumerate(drawing):
        _fix(node, definition, number)
    if any(DRAWS.search(node.op) and not _BY_PLACE.search(node.op) for node in definition.node):
        return None
    if any(DRAWS.search(node.op) for node in _inner_nodes(definition)):
        return None  # how often a loop goes round may depend on any row
    names = [tensor.name for tensor in graph.inputs]
    outputs = dict(zip(sorted(function.concrete.structured_outputs), [t.name for t in graph.outputs], strict=True))

    @tf.function(autograph=False, input_signature=[tf.TensorSpec(t.shape, t.dtype) for t in graph.inputs])
    def fixed(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        given = dict(zip(names, tensors, strict=True))
        found = tf.import_graph_def(definition, given, list(outputs.values()), name="")
        return dict(zip(outputs, found, strict=True))

    return FlatFunction(fixed.get_concrete_function(), function.dtypes, by_name=False)


def _inlined(function: FlatFunction) -> Any:
    """The function's graph with its calls in it, and constants for variables; None where that cannot be had."""
    try:
        return convert_variables_to_constants_v2(
            function.concrete, lower_control_flow=False, aggressive_inlining=True
        ).graph
    except Exception:  # it has many kinds of errors for what it does not know
        return None


def reached(graph: Any) -> list[Any]:
    """The operations that the outputs come from."""
    waiting = [tensor.op for tensor in graph.outputs]
    reached = {operation.name: operation for operation in waiting}
    while waiting:
        for tensor in waiting.pop().inputs:
            if tensor.op.name not in reached:
                reached[tensor.op.name] = tensor.op
                waiting.append(tensor.op)
    return list(reached.values())


def _inner_nodes(definition: Any) -> Iterator[Any]:
    """The nodes of loops and branches."""
    return (node for function in definition.library.function for node in function.node_def)


def _has_no_rows(sizes: list[int | None] | None, batch_size: int | None) -> bool:
    """Whether a shape is the same for any number of rows: a size that is not known is theirs."""
    return sizes is not None and None not in sizes and batch_size not in sizes


def _is_integer(node: Any) -> bool:
    dtypes = [node.attr[name].type for name in ("dtype", "Tout") if name in node.attr]
    return any(tf.as_dtype(dtype).is_integer for dtype in dtypes)


def is_seed(operation: Any, users: Mapping[str, list[Any]]) -> bool:
    """Whether what it draws is the seed of other draws, and nothing else."""
    if not operation.outputs[0].dtype.is_integer:
        return False
    if "FullInt" in operation.type or _is_of_all_integers(operation):
        return True
    waiting, known = [operation], {operation.name}
    while waiting:
        for user in users.get(waiting.pop().name, []):
            if user.name in known or (_TAKES_SEED.search(user.type) and not _is_integer(user.node_def)):
                continue
            if user.type not in _PASSING and not _TAKES_SEED.search(user.type):
                return False
            known.add(user.name)
            waiting.append(user)
    return any(_TAKES_SEED.search(user.type) for name in known for user in users.get(name, []))


def _is_of_all_integers(operation: Any) -> bool:
    """Whether it draws from half of all integers or more, as for a seed."""
    if operation.type != "RandomUniformInt":
        return False
    low, high = (tf.get_static_value(tensor) for tensor in operation.inputs[1:3])
    return low is not None and high is not None and int(high) - int(low) >= _MOST_INTEGERS


def _fix(node: Any, definition: Any, number: int) -> None:
    """Makes a node draw from a seed of its own."""
    kind, place, attributes = _FIXED[node.op]
    seed = definition.node.add(name=f"{node.name}/fixed_seed", op="Const")
    seed.attr["dtype"].type = tf.int32.as_datatype_enum
    seed.attr["value"].tensor.CopyFrom(tf.make_tensor_proto([number, 1], tf.int32))
    values = {new: node.attr[old].type for old, new in attributes.items()}
    node.op = kind
    node.attr.clear()
    for name, value in values.items():
        node.attr[name].type = value
    node.attr["Tseed"].type = tf.int32.as_datatype_enum
    inputs = list(node.input)
    inputs.insert(place, seed.name)
    del node.input[:]
    node.input.extend(inputs)
