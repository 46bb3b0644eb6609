"""A SavedModel → the same one, without operations that LiteRT lacks, or works out otherwise than TensorFlow.

LiteRT takes log(1 + exp(x)) for a softplus, which is infinite above 88 and 0 far below, and log(1 + x) for log1p(x),
which is rough for small ones. Here each becomes a call of a function that is as exact as TensorFlow's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import node_def_pb2
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import op_def_registry

# Those left out are less than a float's last digit.
_LAST_POWER = 15


def _log1p(x: tf.Tensor) -> tf.Tensor:
    """log(1 + x), to the last digits also where x is small."""
    near = tf.logical_and(x > -0.5, x < 1.0)
    return tf.where(near, _log1p_near_0(x), tf.math.log(1.0 + x))


def _log1p_near_0(x: tf.Tensor) -> tf.Tensor:
    """For x from -0.5 to 1: log((1 + s) / (1 - s)) = 2 (s + s³/3 + s⁵/5 + …), where s is at most 1/3."""
    s = x / (2.0 + x)
    square = s * s
    series: Any = 1.0 / _LAST_POWER
    for power in range(_LAST_POWER - 2, 0, -2):
        series = series * square + 1.0 / power
    return 2.0 * s * series


def _softplus(x: tf.Tensor) -> tf.Tensor:
    """log(1 + exp(x)) for any x."""
    return tf.maximum(x, 0.0) + _log1p_near_0(tf.exp(-tf.abs(x)))


def _atanh(x: tf.Tensor) -> tf.Tensor:
    return 0.5 * (_log1p(x) - _log1p(-x))


def _cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Of one label for each row, and its gradient. A label out of range is refused, as TensorFlow does."""
    gradient = tf.nn.softmax(logits) - tf.one_hot(labels, tf.shape(logits)[-1])
    return -tf.gather(tf.nn.log_softmax(logits), labels, batch_dims=1), gradient


def _abs(x: tf.Tensor) -> tf.Tensor:
    return tf.maximum(x, -x)


def _fill(shape: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.fill(shape, tf.cast(value, tf.float32)), tf.float64)


@dataclass(frozen=True)
class _Form:
    """Another form of one kind of operation, for inputs of some dtypes (of which None is any) and ranks."""

    compute: Callable[..., Any]
    dtypes: tuple[tf.DType | None, ...]
    shapes: tuple[Any, ...]

    def fits(self, dtypes: tuple[tf.DType, ...]) -> bool:
        return all(own is None or own == other for own, other in zip(self.dtypes, dtypes, strict=True))


_FORMS = {
    "Abs": _Form(_abs, (tf.int64,), (None,)),
    "Atanh": _Form(_atanh, (tf.float32,), (None,)),
    "Fill": _Form(_fill, (None, tf.float64), ([None], [])),
    "Log1p": _Form(_log1p, (tf.float32,), (None,)),
    "Softplus": _Form(_softplus, (tf.float32,), (None,)),
    "SparseSoftmaxCrossEntropyWithLogits": _Form(_cross_entropy, (tf.float32, None), ([None, None], [None])),
}


def make_exact(folder: Path) -> None:
    """Writes the SavedModel in `folder` anew, where its functions have such operations."""
    file = folder / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    changed = [_replace(meta.graph_def.library) for meta in model.meta_graphs]
    if any(changed):
        file.write_bytes(model.SerializeToString())


def _replace(library: Any) -> bool:
    """Whether there was anything to replace in a library of functions."""
    definitions: dict[str, Any] = {}
    for function in library.function:
        outputs: dict[str, dict[str, int]] = {}
        for node in function.node_def:
            dtypes = _dtypes(node, "input_arg") if node.op in _FORMS else ()
            if dtypes and _FORMS[node.op].fits(dtypes):
                name = "_".join(["exact", node.op, *(dtype.name for dtype in dtypes)])
                if name not in definitions:
                    definitions[name] = _definition(name, _FORMS[node.op], dtypes)
                outputs[node.name] = {a.name: i for i, a in enumerate(op_def_registry.get(node.op).output_arg)}
                node.CopyFrom(_call(node, name, dtypes, _dtypes(node, "output_arg")))
        _rename_outputs(function, outputs)
    library.function.extend(definitions.values())
    return bool(definitions)


def _dtypes(node: Any, side: str) -> tuple[tf.DType, ...]:
    """Of a node's inputs or outputs. Attributes that have their default value may have been left out."""
    operation = op_def_registry.get(node.op)
    types = {attribute.name: attribute.default_value.type for attribute in operation.attr}
    types |= {name: value.type for name, value in node.attr.items()}
    arguments = getattr(operation, side)
    return tuple(tf.as_dtype(types[a.type_attr] if a.type_attr else a.type) for a in arguments)


def _definition(name: str, form: _Form, dtypes: tuple[tf.DType, ...]) -> Any:
    specs = [tf.TensorSpec(shape, dtype) for shape, dtype in zip(form.shapes, dtypes, strict=True)]
    traced = tf.function(form.compute, autograph=False, input_signature=specs)
    definition = traced.get_concrete_function().function_def
    definition.signature.name = name
    return definition


def _call(node: Any, function: str, inputs: tuple[tf.DType, ...], outputs: tuple[tf.DType, ...]) -> Any:
    """A node of the same name and inputs that calls a function."""
    call = node_def_pb2.NodeDef(name=node.name, op="PartitionedCall", input=node.input)
    call.attr["f"].func.name = function
    call.attr["Tin"].list.type.extend(dtype.as_datatype_enum for dtype in inputs)
    call.attr["Tout"].list.type.extend(dtype.as_datatype_enum for dtype in outputs)
    return call


def _rename_outputs(function: Any, indices: dict[str, dict[str, int]]) -> None:
    """Each kind of operation has names of its own for its outputs; those of a call are numbered.

    Args:
      function: the definition of a function.
      indices: by the name of the node, the number of each output by its former name.
    """

    def renamed(reference: str) -> str:
        node, *rest = reference.split(":")
        return f"{node}:output:{indices[node][rest[0]]}" if node in indices and rest else reference

    for node in function.node_def:
        node.input[:] = [renamed(reference) for reference in node.input]
    for key, reference in list(function.ret.items()):
        function.ret[key] = renamed(reference)
