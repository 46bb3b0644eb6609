"""Operations that take, put and choose by index or condition; indices at the ends, negative, and beyond 32 bits."""

from typing import Any

import numpy as np
import tensorflow as tf
from tf_agents.specs import tensor_spec

from tests.sweep.operation import Operation, one, three

_GROUP = "indices"
_CHOICES = "choices and branches"
_RAW = tf.raw_ops

_TABLE = tf.constant([[1.0, 2.0], [3.0, 4.0], [5.0, -6.0], [1e30, 1e-40]])
_BEYOND = (0, 1, 2, 3, 4, 5, -1, -2, -4, -5, 7, 2**31 - 1, -(2**31), 2**31, 2**32, 2**32 + 2, 8589934594, 2**53 + 1)
_TAKING: dict[str, Any] = {
    "Gather": lambda x: _RAW.Gather(params=_TABLE, indices=x),
    "GatherV2": lambda x: _RAW.GatherV2(params=_TABLE, indices=x, axis=0),
    "GatherV2, axis 1": lambda x: _RAW.GatherV2(params=tf.transpose(_TABLE), indices=x, axis=1)[0],
    "GatherNd": lambda x: _RAW.GatherNd(params=_TABLE, indices=x[..., None]),
    "OneHot": lambda x: tf.one_hot(x, 4),
    "OneHot, on and off": lambda x: tf.one_hot(x, 4, 5.0, -0.5),
    "OneHot, axis 1": lambda x: tf.one_hot(x, 4, axis=1),
    "OneHot int32": lambda x: tf.one_hot(x, 4, dtype=tf.int32),
    "OneHot int64": lambda x: tf.one_hot(x, 4, dtype=tf.int64),
    "OneHot bool": lambda x: tf.one_hot(x, 4, True, False),
    "BatchGather": lambda x: tf.gather(tf.repeat(_TABLE[None, :, 0], tf.shape(x)[0], 0), x, batch_dims=1),
    "sequence_mask": lambda x: tf.sequence_mask(x, 4),
}


def _indices(dtype: tf.DType, low: int | None = None, high: int | None = None) -> tuple[Any, Any]:
    """An input of two indices, within bounds or without any, and values for it: all alone and in pairs with 0."""
    limits = np.iinfo(dtype.as_numpy_dtype)
    least, most = (limits.min if low is None else low), (limits.max if high is None else high)
    values = [value for value in (*_BEYOND, least, most) if least <= value <= most]
    rows = np.array([[value, values[0]] for value in values] + [[values[0], value] for value in values])
    spec: Any = tf.TensorSpec([2], dtype, "x")
    if low is not None:
        spec = tensor_spec.BoundedTensorSpec([2], dtype, low, high, "x")
    return {"x": spec}, {"x": rows.astype(dtype.as_numpy_dtype)}


def _taking() -> list[Operation]:
    found = []
    for kind, compute in _TAKING.items():
        for dtype in (tf.int32, tf.int64):
            found.append(Operation(f"{kind}, by {dtype.name}", _GROUP, compute, *_indices(dtype)))
            found.append(Operation(f"{kind}, by {dtype.name} in bounds", _GROUP, compute, *_indices(dtype, 0, 3)))
    small = [Operation(f"OneHot, by {d.name}", _GROUP, _TAKING["OneHot"], *_indices(d)) for d in (tf.uint8, tf.int8)]
    return found + small


def _putting() -> list[Operation]:
    """A number at a place that is sent, in four zeros or in ones."""
    specs = {"x": tensor_spec.BoundedTensorSpec([2], tf.int32, 0, 3, "x"), "y": tf.TensorSpec([2], tf.float32, "y")}
    floats = np.float32([0.0, -0.0, 1.0, -2.5, 1e-40, 1e30, 3e38, np.inf, np.nan])
    places, numbers = np.meshgrid(np.arange(4), floats)
    first, second = places.ravel().astype(np.int32), numbers.ravel()
    values = {"x": np.stack([first, first[::-1]], 1), "y": np.stack([second, second + np.float32(1)], 1)}
    found = [Operation("ScatterNd", _GROUP, lambda x, y: tf.scatter_nd(_at(x), y, [tf.shape(x)[0], 4]), specs, values)]
    for kind in ("Add", "Max", "Min", "Sub", "Update"):
        operation = getattr(_RAW, f"TensorScatter{kind}")
        found.append(
            Operation(
                f"TensorScatter{kind}",
                _GROUP,
                lambda x, y, f=operation: f(tensor=tf.ones([tf.shape(x)[0], 4]), indices=_at(x), updates=y),
                specs,
                # Which of two at one place stays, TensorFlow leaves open.
                values if kind != "Update" else {"x": np.stack([first, (first + 1) % 4], 1), "y": values["y"]},
            )
        )
    return found


def _at(x: tf.Tensor) -> tf.Tensor:
    """Indices [rows, 2, 2]: the row itself, and the place in it."""
    rows = tf.repeat(tf.range(tf.shape(x)[0])[:, None], 2, 1)
    return tf.stack([rows, x], -1)


def _moving() -> list[Operation]:
    four = one(shape=(4, 2))
    ends = {"x": np.repeat(np.float32([[0, 1, -0.0, 1e-40], [1e30, np.nan, np.inf, 5]])[..., None], 2, 2)}
    sizes = {"x": tf.TensorSpec([4], tf.float32, "x"), "y": tensor_spec.BoundedTensorSpec([], tf.int32, 0, 4, "y")}
    lengths = {"x": np.tile(np.float32([1, -0.0, 1e30, np.nan]), (5, 1)), "y": np.arange(5, dtype=np.int32)}
    swapped = tf.constant([2, 0, 3, 1])
    begins = {"x": sizes["x"], "y": tensor_spec.BoundedTensorSpec([], tf.int32, -6, 6, "y")}
    shifts = {"x": np.tile(lengths["x"][:1], (13, 1)), "y": np.arange(-6, 7, dtype=np.int32)}
    return [
        Operation("Reverse", _GROUP, lambda x: _RAW.Reverse(tensor=x, dims=[False, True, False]), four, ends),
        Operation("ReverseV2", _GROUP, lambda x: _RAW.ReverseV2(tensor=x, axis=[1]), four, ends),
        Operation("ReverseSequence", _GROUP, lambda x, y: tf.reverse_sequence(x, y, 1), sizes, lengths),
        Operation("Roll", _GROUP, lambda x: tf.roll(x, 3, 1), four, ends),
        Operation("Roll, negative", _GROUP, lambda x: tf.roll(x, [-1, 5], [1, 2]), four, ends),
        Operation("Roll, shift sent", _GROUP, lambda x, y: tf.roll(x, y[0], 1), begins, shifts),
        Operation("DynamicStitch", _GROUP, lambda x: _stitched(x, _RAW.DynamicStitch, swapped), four, ends),
        Operation(
            "ParallelDynamicStitch", _GROUP, lambda x: _stitched(x, _RAW.ParallelDynamicStitch, swapped), four, ends
        ),
        Operation("DynamicPartition", _GROUP, lambda x: _parted(x), four, ends),
        Operation("ListDiff", _GROUP, lambda x: x + _left(), four),
        Operation("Slice, begin sent", _GROUP, lambda x, y: tf.slice(x, [0, y[0] % 3], [-1, 2]), begins, shifts),
        Operation("StridedSlice, begin sent", _GROUP, lambda x, y: _last_two(x, y[0]), begins, shifts),
        _of_variable("ResourceGather", lambda v, x: tf.gather(v, x), *_indices(tf.int32, 0, 3)),
        _of_variable("ResourceGather, by int64", lambda v, x: tf.gather(v, x), *_indices(tf.int64)),
        _of_variable("ResourceGatherNd", lambda v, x: v.gather_nd(x[..., None]), *_indices(tf.int32, 0, 3)),
        _of_variable("ReadVariableOp", lambda v, x: v.read_value()[0, 0] + x, one(), {}),
    ]


def _of_variable(name: str, compute: Any, inputs: Any, values: Any) -> Operation:
    variable = tf.Variable(_TABLE)
    return Operation(name, _GROUP, lambda x: compute(variable, x), inputs, values, variable)


def _left() -> tf.Tensor:
    return tf.cast(tf.size(_RAW.ListDiff(x=tf.range(5), y=[1, 3])[0]), tf.float32)


def _stitched(x: tf.Tensor, operation: Any, order: tf.Tensor) -> tf.Tensor:
    parts = tf.transpose(x, [1, 0, 2])
    return tf.transpose(operation(indices=[order[:1], order[1:]], data=[parts[:1], parts[1:]]), [1, 0, 2])


def _parted(x: tf.Tensor) -> tf.Tensor:
    first, second = tf.dynamic_partition(tf.transpose(x, [1, 0, 2]), [0, 1, 0, 1], 2)
    return tf.transpose(tf.concat([first, second], 0), [1, 0, 2])


def _last_two(x: tf.Tensor, begin: tf.Tensor) -> tf.Tensor:
    """A slice with an open end: as many as there are, filled up to four."""
    part = x[:, begin % 4 :]
    return tf.pad(part, [[0, 0], [0, 4 - tf.shape(part)[1]]])


def _choosing() -> list[Operation]:
    condition = {"x": tf.TensorSpec([4], tf.bool, "x"), "y": one()["x"], "z": one()["x"]}
    floats = one(shape=())
    return [
        Operation("Select", _CHOICES, lambda x, y, z: _RAW.Select(condition=x, x=y, y=z), condition),
        Operation("SelectV2", _CHOICES, lambda x, y, z: _RAW.SelectV2(condition=x, t=y, e=z), condition),
        Operation("SelectV2, broadcast", _CHOICES, lambda x, y, z: tf.where(x > y, 1.0, z), three()),
        Operation("SelectV2 int64", _CHOICES, lambda x: tf.where(x > 2**32, x, -x), one(tf.int64)),
        Operation("where NaN", _CHOICES, lambda x: tf.where(tf.math.is_nan(x), 7.0, x), one()),
        Operation("If", _CHOICES, lambda x: tf.cond(x[0] > 0, lambda: x * 2, lambda: x - 1), floats),
        Operation("Case", _CHOICES, lambda x: _case(x), *_indices_of_case()),
        Operation("While", _CHOICES, lambda x: _doubled(x), floats),
        Operation("map_fn", _CHOICES, lambda x: tf.map_fn(lambda row: row * 2 + 1, x), one()),
        Operation("scan", _CHOICES, lambda x: tf.transpose(tf.scan(lambda a, b: a + b, tf.transpose(x))), one()),
        Operation("TensorList", _CHOICES, lambda x: _listed(x), one()),
    ]


def _indices_of_case() -> tuple[Any, Any]:
    spec = {"x": tf.TensorSpec([], tf.int32, "x")}
    return spec, {"x": np.array([0, 1, 2, 3, -1, 2**31 - 1], np.int32)}


def _case(x: tf.Tensor) -> tf.Tensor:
    branches = [lambda k=k: tf.cast(x, tf.float32) * k for k in (1.0, 10.0, 100.0)]
    return tf.switch_case(x[0], branches)


def _doubled(x: tf.Tensor) -> tf.Tensor:
    return tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, y * 2.0), [0, x])[1]


def _listed(x: tf.Tensor) -> tf.Tensor:
    array = tf.TensorArray(tf.float32, 3, element_shape=[None, 4])
    for index in range(3):
        array = array.write(index, x * float(index))
    return tf.transpose(array.stack(), [1, 0, 2])


OPERATIONS = [*_taking(), *_putting(), *_moving(), *_choosing()]
