"""Other forms of operations: as exact as TensorFlow's own, of operations that LiteRT has and works out alike.

LiteRT takes log(1 + exp(x)) for a softplus, which is infinite above 88 and 0 far below, and log(1 + x) for log1p(x),
which is rough for small ones; on some processors no logarithm is above 88.4. It cuts integers of 64 bits to 32 where
they are indices, rounds otherwise than TensorFlow in fake quantisation, and adds a bias before the products of a layer
rather than after them. Its converter takes some sums for 0, and lets a clip of integers become an operation that only
floats have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2
from tensorflow.python.framework import op_def_registry

# Those left out are less than a float's last digit.
_LAST_POWER = 15
_MOST_INT32 = 2**31 - 1
# Larger floats are divided by 2 to this power before their logarithm is taken; the largest is not infinite.
_FAR, _DOWN, _LARGEST = 1e37, 64, float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Around:
    """Surroundings of an operation in its function: nodes by name, and the values of those that are constants."""

    nodes: Mapping[str, Any]
    constants: Mapping[str, Any]

    def is_constant(self, reference: str) -> bool:
        """Whether an input is a constant, or a variable, which is one in what is converted."""
        node = self.nodes.get(name_of(reference))
        while node is not None and node.op == "Identity":
            node = self.nodes.get(name_of(node.input[0]))
        return node is not None and node.op in ("Const", "ReadVariableOp")


@dataclass(frozen=True)
class Form:
    """Another form of one kind of operation.

    `dtypes` (of which None is any) and `shapes` are those of the inputs for which it is meant; `only` says, of a node
    and what is around it, whether it is meant for that. `attributes` of the node are given to `compute` by name.
    """

    kind: str
    compute: Callable[..., Any]
    dtypes: tuple[tf.DType | None, ...]
    shapes: tuple[Any, ...] = (None,)
    only: Callable[[Any, Around], bool] = lambda _, __: True
    attributes: tuple[str, ...] = ()

    def fits(self, node: Any, around: Around) -> bool:
        """Whether the node is to be replaced."""
        dtypes = dtypes_of(node, "input_arg")
        alike = len(dtypes) == len(self.dtypes) and all(
            o in (None, d) for o, d in zip(self.dtypes, dtypes, strict=True)
        )
        return alike and self.only(node, around)

    def attributes_of(self, node: Any) -> dict[str, Any]:
        """The attributes that `compute` is given, by name."""
        return {name: _value(node, name) for name in self.attributes}


def name_of(reference: str) -> str:
    """The name of the node that an input comes from."""
    return reference.lstrip("^").partition(":")[0]


def attribute(node: Any, name: str) -> Any:
    """An attribute of a node, or an empty one where it is missing."""
    # To ask the map itself for a missing one would put it there.
    return node.attr[name] if name in node.attr else attr_value_pb2.AttrValue()


def dtypes_of(node: Any, side: str) -> tuple[tf.DType, ...]:
    """The dtypes of a node's inputs (`side` is "input_arg") or outputs ("output_arg").

    Attributes that have their default value may have been left out of the node.
    """
    operation = op_def_registry.get(node.op)
    types = {attribute.name: attribute.default_value.type for attribute in operation.attr}
    types |= {name: value.type for name, value in node.attr.items()}
    dtypes: list[tf.DType] = []
    for argument in getattr(operation, side):
        count = attribute(node, argument.number_attr).i if argument.number_attr else 1
        dtypes += [tf.as_dtype(types[argument.type_attr] if argument.type_attr else argument.type)] * count
    return tuple(dtypes)


def _value(node: Any, name: str) -> Any:
    """The value of an attribute that is a number or a boolean."""
    if name in node.attr:
        value = node.attr[name]
    else:
        value = next(a.default_value for a in op_def_registry.get(node.op).attr if a.name == name)
    return getattr(value, value.WhichOneof("value"))


def _log1p(x: tf.Tensor) -> tf.Tensor:
    """log(1 + x), to the last digits also where x is small: by a series there, by the logarithm elsewhere."""
    near = tf.logical_and(x > -0.5, x < 1.0)
    return tf.where(near, _log1p_near_0(x), tf.math.log(1.0 + x))


def _log1p_near_0(x: tf.Tensor) -> tf.Tensor:
    """log(1 + x) for x from -0.5 to 1: log((1 + s) / (1 - s)) = 2 (s + s³/3 + s⁵/5 + …), where s is at most 1/3.

    The series of artanh, s = x / (2 + x): Abramowitz and Stegun, "Handbook of Mathematical Functions", 4.1.27.
    """
    s = x / (2.0 + x)
    square = s * s
    series: Any = 1.0 / _LAST_POWER
    for power in range(_LAST_POWER - 2, 0, -2):
        series = series * square + 1.0 / power
    return 2.0 * s * series


def _log(x: tf.Tensor) -> tf.Tensor:
    """log(x), also where x is very large, infinite or no number: there LiteRT's stays near 88 on some processors."""
    far = x > _FAR
    near = tf.math.log(tf.where(far, x * 2.0**-_DOWN, x)) + tf.where(far, np.float32(_DOWN * np.log(2.0)), 0.0)
    return tf.where(x <= _LARGEST, near, x)


def _of_no_constant(node: Any, around: Around) -> bool:
    return not around.is_constant(node.input[0])


def _softplus(x: tf.Tensor) -> tf.Tensor:
    """log(1 + exp(x)) for any x, as max(x, 0) + log1p(exp(-|x|)): the form of NumPy's `logaddexp(0, x)`."""
    return tf.maximum(x, 0.0) + _log1p_near_0(tf.exp(-tf.abs(x)))


def _atanh(x: tf.Tensor) -> tf.Tensor:
    """The inverse of tanh: Abramowitz and Stegun, 4.6.22, with log1p for what is small."""
    return 0.5 * (_log1p(x) - _log1p(-x))


def _cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Cross entropy of one label for each row, and its gradient; refuses a label out of range, as TensorFlow does."""
    gradient = tf.nn.softmax(logits) - tf.one_hot(labels, tf.shape(logits)[-1])
    return -tf.gather(tf.nn.log_softmax(logits), labels, batch_dims=1), gradient


def _diagonal(matrix: tf.Tensor) -> tf.Tensor:
    """The diagonal of a square matrix."""
    index = tf.range(tf.shape(matrix)[0])
    return tf.reduce_sum(tf.where(index[:, None] == index, matrix, 0.0), axis=1)


def _main_diagonal(matrices: tf.Tensor, *_: tf.Tensor) -> tf.Tensor:
    """The diagonals of matrices [..., m, n]: of their numbers in a row, each that is n + 1 after the one before."""
    shape = tf.shape(matrices)
    rows = tf.reshape(matrices, tf.concat([shape[:-2], [-1]], 0))
    return tf.gather(rows, tf.range(tf.minimum(shape[-2], shape[-1])) * (shape[-1] + 1), axis=-1)


def _triangular_solve(matrix: tf.Tensor, right: tf.Tensor, lower: bool, adjoint: bool) -> tf.Tensor:
    """Solves matrix @ x = right, one row after the other: Golub and Van Loan, "Matrix Computations", 3.1."""
    if adjoint:
        matrix, lower = tf.linalg.matrix_transpose(matrix), not lower
    size = tf.shape(matrix)[-1]
    index = tf.range(size)

    def solved(step: tf.Tensor, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        row = step if lower else size - 1 - step
        before = index < row if lower else index > row
        factors = tf.gather(matrix, row, axis=-2)
        known = tf.reduce_sum(tf.where(before, factors, 0.0)[..., None] * x, axis=-2)
        found = (tf.gather(right, row, axis=-2) - known) / tf.gather(factors, row, axis=-1)[..., None]
        return step + 1, tf.where(index[:, None] == row, found[..., None, :], x)

    begin = tf.zeros_like(right) + tf.zeros_like(matrix[..., :1])
    return tf.while_loop(lambda step, _: step < size, solved, (tf.constant(0), begin))[1]


def _relu6_of_integers(x: tf.Tensor) -> tf.Tensor:
    """Relu6 in an order of operations of which the converter makes no Relu6 again."""
    return tf.maximum(tf.constant(0, x.dtype), tf.minimum(x, tf.constant(6, x.dtype)))


def _index(x: tf.Tensor) -> tf.Tensor:
    """A 64-bit index as one of 32 bits; what does not fit is as far out of range as it was."""
    return tf.cast(tf.minimum(tf.maximum(x, -1), _MOST_INT32), tf.int32)


def _one_hot(indices: tf.Tensor, depth: tf.Tensor, on: tf.Tensor, off: tf.Tensor, axis: int) -> tf.Tensor:
    return tf.one_hot(_index(indices), depth, on, off, axis)


def _segments(reduce: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    return lambda x, ids, count: reduce(x, _index(ids), count)


def _fake_quantised(x: tf.Tensor, num_bits: int, narrow_range: bool, **ends: float) -> tf.Tensor:
    """Quantises to 2^num_bits - 1 steps and back, in 32 bits: a number half way between two steps goes up.

    As TensorFlow's kernel (fake_quant_ops_functor.h); the scheme is that of Jacob et al., "Quantization and Training
    of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018.
    """
    low, high = np.float32(ends["min"]), np.float32(ends["max"])
    least, most, half = np.float32(narrow_range), np.float32(2**num_bits - 1), np.float32(0.5)
    scale, inverse = (high - low) / (most - least), (most - least) / (high - low)
    zero = np.clip(np.floor(least - low / scale + half), least, most)
    low, high = (least - zero) * scale, (most - zero) * scale
    shifted = tf.maximum(tf.minimum(x, high), low) - low
    return tf.floor(shifted * inverse - np.floor(-low * inverse + half) + half) * scale


def _of_main_diagonal(node: Any, around: Around) -> bool:
    """Whether it takes main diagonals, and not those beside them."""
    place = around.constants.get(name_of(node.input[1]))
    return place is not None and not np.any(place)


def _of_equation(equation: bytes) -> Callable[[Any, Around], bool]:
    return lambda node, _: bool(attribute(node, "equation").s == equation)


def _of_vector(node: Any, around: Around) -> bool:
    """A slice of a vector, such as a shape, with a size that is known."""
    _, begin, size = (around.constants.get(name_of(reference)) for reference in node.input[:3])
    return begin is not None and size is not None and begin.size == size.size == 1 and int(size[0]) >= 0


def _new_last_axis(node: Any, _: Around) -> bool:
    """Whether it is x[..., None]."""
    masks = [attribute(node, f"{name}_mask").i for name in ("ellipsis", "new_axis", "shrink_axis")]
    return masks == [1, 2, 0]


def _of_integers(node: Any, _: Around) -> bool:
    return bool(dtypes_of(node, "input_arg")[0].is_integer)


def _with_bound_last(node: Any, around: Around) -> bool:
    """Whether it is the larger one of integers and a constant."""
    return _of_integers(node, around) and not around.is_constant(node.input[0])


def _by_channels_last(node: Any, _: Around) -> bool:
    return attribute(node, "data_format").s in (b"", b"NHWC")


def _bias_at(number: int) -> Callable[[Any, Around], bool]:
    """Whether a sum is that of the products of a layer and a constant, which is its input of that number."""

    def is_bias(node: Any, around: Around) -> bool:
        before = around.nodes.get(name_of(node.input[1 - number]))
        return before is not None and before.op in _PRODUCTS and around.is_constant(node.input[number])

    return is_bias


_FLOAT, _INT, _LONG = tf.float32, tf.int32, tf.int64
_PRODUCTS = ("MatMul", "BatchMatMulV2", "Conv2D", "DepthwiseConv2dNative")
FORMS = (
    # LiteRT works these out otherwise.
    Form("Log", _log, (_FLOAT,), only=_of_no_constant),
    Form("Log1p", _log1p, (_FLOAT,)),
    Form("Softplus", _softplus, (_FLOAT,)),
    Form("FloorDiv", lambda x, y: tf.floor(x / y), (_FLOAT,) * 2, (None, None)),
    Form("Xlog1py", lambda x, y: tf.where(x == 0.0, 0.0, x * _log1p(y)), (_FLOAT,) * 2, (None, None)),
    Form("OneHot", _one_hot, (_LONG, _INT, None, None), (None, [], [], []), attributes=("axis",)),
    Form(
        "ScatterNd", lambda i, x, n: tf.scatter_nd(_index(i), x, _index(n)), (_LONG, None, _LONG), (None, None, [None])
    ),
    Form("UnsortedSegmentSum", _segments(tf.math.unsorted_segment_sum), (_FLOAT, _LONG, _INT), (None, None, [])),
    Form("UnsortedSegmentMax", _segments(tf.math.unsorted_segment_max), (_FLOAT, _LONG, _INT), (None, None, [])),
    Form("UnsortedSegmentMin", _segments(tf.math.unsorted_segment_min), (_FLOAT, _LONG, _INT), (None, None, [])),
    Form(
        "FakeQuantWithMinMaxArgs",
        _fake_quantised,
        (_FLOAT,),
        attributes=("min", "max", "num_bits", "narrow_range"),
    ),
    # A sum over the last axis of what has a shape that was sliced so comes out of the converter as 0.
    Form("Slice", lambda x, i, n: tf.strided_slice(x, i, i + n), (_INT, _INT, _INT), ([None],) * 3, _of_vector),
    # Of the larger one of 0 and the smaller one of x and 6 the converter makes a Relu6, unless 0 comes first.
    Form("Maximum", lambda x, y: tf.maximum(y, x), (None, None), (None, None), _with_bound_last),
    Form("Relu6", _relu6_of_integers, (None,), only=_of_integers),
    # These it lacks.
    Form("Abs", lambda x: tf.maximum(x, -x), (_LONG,)),
    Form("Atanh", _atanh, (_FLOAT,)),
    Form("DiagPart", _diagonal, (_FLOAT,), ([None, None],)),
    Form("MatrixDiagPart", _main_diagonal, (_FLOAT,)),
    Form("MatrixDiagPartV2", _main_diagonal, (_FLOAT, _INT, _FLOAT), (None, None, []), _of_main_diagonal),
    Form("MatrixDiagPartV3", _main_diagonal, (_FLOAT, _INT, _FLOAT), (None, None, []), _of_main_diagonal),
    Form("MatrixTriangularSolve", _triangular_solve, (_FLOAT,) * 2, (None, None), attributes=("lower", "adjoint")),
    Form("Einsum", lambda x, y: (x[None] @ y)[0], (_FLOAT,) * 2, ([None], [None, None]), _of_equation(b"j,jk->k")),
    Form("Einsum", lambda x, y: tf.reduce_sum(x * y, 0), (_FLOAT,) * 2, (None, None), _of_equation(b"ij,ij->j")),
    Form("Fill", lambda n, x: tf.cast(tf.fill(n, tf.cast(x, _FLOAT)), x.dtype), (None, tf.float64), ([None], [])),
    Form("SparseSoftmaxCrossEntropyWithLogits", _cross_entropy, (_FLOAT, None), ([None, None], [None])),
    Form("StridedSlice", lambda x, *_: tf.expand_dims(x, -1), (None,) * 4, (None, [2], [2], [2]), _new_last_axis),
)

# TensorFlow adds a bias to the sum of the products. As part of the layer LiteRT starts the sum with it, and each call
# would round otherwise; what is subtracted is no part of the layer. For policies whose outputs are fed back: the
# difference grows there, and it takes one operation more a layer.
BIASES_LAST = (
    Form("BiasAdd", lambda x, b: x - b * -1.0, (_FLOAT,) * 2, (None, [None]), _by_channels_last),
    Form("AddV2", lambda x, b: x - b * -1.0, (_FLOAT,) * 2, (None, None), _bias_at(1)),
    Form("AddV2", lambda b, x: x - b * -1.0, (_FLOAT,) * 2, (None, None), _bias_at(0)),
)
