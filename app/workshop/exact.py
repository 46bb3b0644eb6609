"""A SavedModel → the same one, without operations that LiteRT lacks, or works out otherwise than TensorFlow.

LiteRT takes log(1 + exp(x)) for a softplus, which is infinite above 88 and 0 far below, and log(1 + x) for log1p(x),
which is rough for small ones; and its converter takes some sums for 0. Here each becomes a call of a function that is
as exact as TensorFlow's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, node_def_pb2
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


def _diagonal(matrix: tf.Tensor) -> tf.Tensor:
    """Of a square matrix."""
    index = tf.range(tf.shape(matrix)[0])
    return tf.reduce_sum(tf.where(index[:, None] == index, matrix, 0.0), axis=1)


@dataclass(frozen=True)
class _Form:
    """Another form of one kind of operation.

    `dtypes` (of which None is any) and `shapes` are those of the inputs for which it is meant; `only` says, of a node
    and the constants around it, whether it is meant for that.
    """

    kind: str
    compute: Callable[..., Any]
    dtypes: tuple[tf.DType | None, ...]
    shapes: tuple[Any, ...] = (None,)
    only: Callable[[Any, Mapping[str, Any]], bool] = lambda _, __: True

    def fits(self, node: Any, constants: Mapping[str, Any]) -> bool:
        dtypes = _dtypes(node, "input_arg")
        alike = len(dtypes) == len(self.dtypes) and all(
            o in (None, d) for o, d in zip(self.dtypes, dtypes, strict=True)
        )
        return alike and self.only(node, constants)


def _attribute(node: Any, name: str) -> Any:
    """To ask the map itself for a missing one would put it there."""
    return node.attr[name] if name in node.attr else attr_value_pb2.AttrValue()


def _of_equation(equation: bytes) -> Callable[[Any, Any], bool]:
    return lambda node, _: _attribute(node, "equation").s == equation


def _of_vector(node: Any, constants: Mapping[str, Any]) -> bool:
    """A slice of a vector, such as a shape, with a size that is known."""
    _, begin, size = (constants.get(_name(reference)) for reference in node.input[:3])
    return begin is not None and size is not None and begin.size == size.size == 1 and int(size[0]) >= 0


def _new_last_axis(node: Any, _: Any) -> bool:
    """Whether it is x[..., None]."""
    masks = [_attribute(node, f"{name}_mask").i for name in ("ellipsis", "new_axis", "shrink_axis")]
    return masks == [1, 2, 0]


_FLOAT, _INT = tf.float32, tf.int32
_FORMS = (
    # LiteRT works these out otherwise.
    _Form("Log1p", _log1p, (_FLOAT,)),
    _Form("Softplus", _softplus, (_FLOAT,)),
    _Form("FloorDiv", lambda x, y: tf.floor(x / y), (_FLOAT,) * 2, (None, None)),
    _Form("Xlog1py", lambda x, y: tf.where(x == 0.0, 0.0, x * _log1p(y)), (_FLOAT,) * 2, (None, None)),
    # A sum over the last axis of what has a shape that was sliced so comes out of the converter as 0.
    _Form("Slice", lambda x, i, n: tf.strided_slice(x, i, i + n), (_INT, _INT, _INT), ([None],) * 3, _of_vector),
    # These it lacks.
    _Form("Abs", lambda x: tf.maximum(x, -x), (tf.int64,)),
    _Form("Atanh", _atanh, (_FLOAT,)),
    _Form("DiagPart", _diagonal, (_FLOAT,), ([None, None],)),
    _Form("Einsum", lambda x, y: (x[None] @ y)[0], (_FLOAT,) * 2, ([None], [None, None]), _of_equation(b"j,jk->k")),
    _Form("Einsum", lambda x, y: tf.reduce_sum(x * y, 0), (_FLOAT,) * 2, (None, None), _of_equation(b"ij,ij->j")),
    _Form("Fill", lambda n, x: tf.cast(tf.fill(n, tf.cast(x, _FLOAT)), x.dtype), (None, tf.float64), ([None], [])),
    _Form("SparseSoftmaxCrossEntropyWithLogits", _cross_entropy, (_FLOAT, None), ([None, None], [None])),
    _Form("StridedSlice", lambda x, *_: tf.expand_dims(x, -1), (None,) * 4, (None, [2], [2], [2]), _new_last_axis),
)


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
        constants = {n.name: tf.make_ndarray(n.attr["value"].tensor) for n in function.node_def if n.op == "Const"}
        outputs: dict[str, dict[str, int]] = {}
        for node in function.node_def:
            for number, form in enumerate(_FORMS):
                if node.op == form.kind and form.fits(node, constants):
                    dtypes = _dtypes(node, "input_arg")
                    name = "_".join([f"exact_{number}", *(dtype.name for dtype in dtypes)])
                    if name not in definitions:
                        definitions[name] = _definition(name, form, dtypes)
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
    dtypes: list[tf.DType] = []
    for argument in getattr(operation, side):
        count = _attribute(node, argument.number_attr).i if argument.number_attr else 1
        dtypes += [tf.as_dtype(types[argument.type_attr] if argument.type_attr else argument.type)] * count
    return tuple(dtypes)


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


def _name(reference: str) -> str:
    return reference.partition(":")[0]
