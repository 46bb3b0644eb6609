"""Look-ups in variables, in functions whose variables have become tensors → look-ups in tensors.

TensorFlow's own freezing changes those of the outermost graph, and forgets those of branches and loops.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

_LOOK_UPS = ("ResourceGather", "ResourceGatherNd")


def mend_gathers(graph: Any) -> None:
    """Changes the functions of a graph's definition in place, and their names: the old ones are known already."""
    library = graph.library
    names: dict[str, str] = {}
    for function in library.function:
        tensors = {arg.name for arg in function.signature.input_arg if arg.type != tf.resource.as_datatype_enum}
        nodes = [n for n in function.node_def if n.op in _LOOK_UPS and n.input[0] in tensors]
        if nodes:
            names[function.signature.name] = f"{function.signature.name}_mended"
            function.signature.name = names[function.signature.name]
        for node in nodes:
            _mend(node, function)
    if names:
        for node in [*graph.node, *(node for function in library.function for node in function.node_def)]:
            for called in [f for value in node.attr.values() for f in (value.func, *value.list.func)]:
                if called.name in names:
                    called.name = names[called.name]


def _mend(node: Any, function: Any) -> None:
    dtype, indices = node.attr["dtype"].type, node.attr["Tindices"].type
    batch_dims = node.attr["batch_dims"].i
    node.attr.clear()
    node.attr["Tparams"].type, node.attr["Tindices"].type = dtype, indices
    if node.op == "ResourceGatherNd":
        node.op = "GatherNd"
        return
    node.op = "GatherV2"
    axis = function.node_def.add(name=f"{node.name}/axis", op="Const")
    axis.attr["dtype"].type = node.attr["Taxis"].type = tf.int32.as_datatype_enum
    axis.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(batch_dims, tf.int32))
    node.attr["batch_dims"].i = batch_dims
    others = list(node.input[2:])
    del node.input[2:]
    node.input.extend([f"{axis.name}:output:0", *others])
