"""Operations over an axis: sums, extremes, orders, and what is done segment by segment."""

from typing import Any

import numpy as np
import tensorflow as tf

from tests.sweep.operation import Operation, one

_GROUP = "reductions"
_ORDERS = "orders and counts"
_SEGMENTS = "segments"
_RAW = tf.raw_ops

_SIX = one(shape=(2, 6))


def _reducing(kind: str, dtype: tf.DType = tf.float32, axis: int = -1) -> Operation:
    name = kind if dtype == tf.float32 else f"{kind} {dtype.name}"
    operation = getattr(_RAW, kind)
    return Operation(
        name if axis == -1 else f"{name}, axis {axis}",
        _GROUP,
        lambda x: operation(input=x, axis=axis, keep_dims=False),
        one(dtype, (2, 6)),
    )


def _index_of(kind: str, dtype: tf.DType = tf.float32, output: tf.DType = tf.int64) -> Operation:
    operation = getattr(_RAW, kind)
    name = kind if (dtype, output) == (tf.float32, tf.int64) else f"{kind} {dtype.name} to {output.name}"
    return Operation(
        name, _GROUP, lambda x: operation(input=x, dimension=-1, output_type=output), one(dtype, (2, 6)), _ties(dtype)
    )


def _ties(dtype: tf.DType) -> dict[str, np.ndarray]:
    """Rows in which the largest, or the smallest, comes more than once; infinities and NaN where there are any."""
    rows: list[Any] = [[1, 1, 1, 1, 1, 1], [0, 3, 3, 0, 3, 0], [5, 0, 0, 0, 0, 5], [2, 1, 0, 0, 1, 2]]
    if dtype.is_floating:
        rows += [[0.0, -0.0] * 3, [-0.0, 0.0] * 3, [1e-45, 0, 1e-40, 0, 0, 0], [np.inf, 1, np.inf, 0, -np.inf, 3]]
        rows += [[np.nan, 1, 2, 0, 0, 0], [1, np.nan, 2, 0, 0, np.nan], [np.nan] * 6, [3, 2, np.nan, 5, np.inf, 0]]
        rows += [[3e38, 3.4e38, 3.4e38, -3.4e38, 0, 0], [-np.inf] * 6, [np.inf] * 6]
        rows += [[0, 0, 0, 0, 0, 16777217.0], [0.1, 0.2, 0.3, 0.1 + 0.2, 0.3, 0.2]]
    else:
        limits = np.iinfo(dtype.as_numpy_dtype)
        rows += [[limits.max, limits.max - 1, limits.max, limits.min, limits.min, limits.min + 1]]
        if limits.bits == 64:
            rows += [[2**32, 1, 2**32 + 1, 2**33, 0, 2**33], [2**53, 2**53 + 1, 0, -(2**53), -(2**53) - 1, 1]]
    array = np.array(rows, object).astype(dtype.as_numpy_dtype)
    return {"x": np.stack([array, array[::-1]], 1)}


def _over_segments() -> list[Operation]:
    """Of the numbers of a row, by segments that are known, or sent."""
    known = tf.constant([0, 0, 1, 1, 1, 3])
    sent = {"x": tf.TensorSpec([6], tf.float32, "x"), "y": tf.TensorSpec([6], tf.int32, "y")}
    random = np.random.default_rng(5)
    floats = random.choice(np.float32([0, -0.0, 1, -1, 0.5, 1e-40, 1e30, -1e30, 3e38, 7.25]), (40, 6))
    segments = random.integers(-1, 4, (40, 6)).astype(np.int32)
    found = []
    for kind in ("SegmentMax", "SegmentMean", "SegmentMin", "SegmentProd", "SegmentSum"):
        operation = getattr(_RAW, kind)
        found.append(
            Operation(
                kind,
                _SEGMENTS,
                lambda x, f=operation: tf.transpose(f(data=tf.transpose(x), segment_ids=known)),
                one(shape=(6,)),
            )
        )
    for kind in ("UnsortedSegmentMax", "UnsortedSegmentMin", "UnsortedSegmentProd", "UnsortedSegmentSum"):
        operation = getattr(_RAW, kind)
        found.append(
            Operation(
                kind,
                _SEGMENTS,
                lambda x, f=operation: tf.transpose(f(data=tf.transpose(x), segment_ids=known, num_segments=5)),
                one(shape=(6,)),
            )
        )
        found.append(
            Operation(
                f"{kind}, segments sent",
                _SEGMENTS,
                lambda x, y, f=operation: _by_row(x, y, f),
                sent,
                {"x": floats, "y": segments},
            )
        )
    for kind in ("SparseSegmentMean", "SparseSegmentSqrtN", "SparseSegmentSum"):
        operation = getattr(_RAW, kind)
        found.append(
            Operation(
                kind,
                _SEGMENTS,
                lambda x, f=operation: tf.transpose(
                    f(data=tf.transpose(x), indices=[5, 0, 1, 1, 2], segment_ids=[0, 0, 1, 2, 2])
                ),
                one(shape=(6,)),
            )
        )
    return found


def _by_row(x: tf.Tensor, segments: tf.Tensor, operation: Any) -> tf.Tensor:
    """Segments of each row by themselves; what is in segment -1 is dropped."""
    rows = tf.shape(x)[0]
    apart = tf.where(segments < 0, -1, segments + 4 * tf.range(rows)[:, None])
    return tf.reshape(operation(data=x, segment_ids=apart, num_segments=4 * rows), [rows, 4])


def _cumulative() -> list[Operation]:
    found = []
    for kind in ("Cumsum", "Cumprod", "CumulativeLogsumexp"):
        operation = getattr(_RAW, kind)
        for exclusive, reverse in ((False, False), (True, True)):
            name = f"{kind}, exclusive and reverse" if exclusive else kind
            found.append(
                Operation(
                    name,
                    _GROUP,
                    lambda x, f=operation, e=exclusive, r=reverse: f(x=x, axis=1, exclusive=e, reverse=r),
                    _SIX,
                )
            )
    found.append(Operation("Cumsum int64", _GROUP, lambda x: tf.cumsum(x, -1), one(tf.int64, (2, 6))))
    return found


def _ordering() -> list[Operation]:
    top = {"x": _ties(tf.float32)["x"]}
    table = tf.constant([[-1.0, 0.0, 0.0, 1.0, 6.0]])
    return [
        Operation("TopKV2", _ORDERS, lambda x: _top(x, 3), _SIX, top),
        Operation("TopKV2 int32", _ORDERS, lambda x: _top(x, 3), one(tf.int32, (2, 6)), _ties(tf.int32)),
        Operation("TopKV2 int64", _ORDERS, lambda x: _top(x, 3), one(tf.int64, (2, 6)), _ties(tf.int64)),
        Operation("sort", _ORDERS, lambda x: tf.sort(x, -1), _SIX),
        Operation("argsort", _ORDERS, lambda x: tf.argsort(x, -1, stable=True), _SIX, top),
        Operation("NthElement", _ORDERS, lambda x: _RAW.NthElement(input=x, n=2, reverse=True), _SIX),
        Operation("InTopK", _ORDERS, lambda x: _RAW.InTopK(predictions=x[:, 0], targets=_targets(x), k=2), _SIX, top),
        Operation("InTopKV2", _ORDERS, lambda x: _in_top(x), _SIX, top),
        Operation("LowerBound", _ORDERS, lambda x: _search(table, x, "left"), one()),
        Operation("UpperBound", _ORDERS, lambda x: _search(table, x, "right"), one()),
        Operation("Bucketize", _ORDERS, lambda x: _RAW.Bucketize(input=x, boundaries=[-1.0, 0.0, 0.5, 6.0]), one()),
        Operation("Bucketize int64", _ORDERS, lambda x: _RAW.Bucketize(input=x, boundaries=[-1, 6]), one(tf.int64)),
        Operation("DenseBincount", _ORDERS, lambda x: _counts(x), *_counted()),
        Operation("Bincount", _ORDERS, lambda x: _bincount(x), *_counted()),
        Operation("HistogramFixedWidth", _ORDERS, lambda x: _histogram(x), one()),
        Operation("Unique", _ORDERS, lambda x: _unique(x, _RAW.Unique), one(tf.int32)),
        Operation("UniqueV2", _ORDERS, lambda x: _unique(x, _RAW.UniqueV2, axis=[0]), one(tf.int64)),
        Operation("UniqueWithCounts", _ORDERS, lambda x: _unique(x, _RAW.UniqueWithCounts), one(tf.int32)),
        Operation("Where", _ORDERS, lambda x: _where(x), one()),
        Operation("Where bool", _ORDERS, lambda x: _where(x), one(tf.bool)),
        Operation("CountNonZero", _ORDERS, lambda x: tf.math.count_nonzero(x, -1), one()),
        Operation("InvertPermutation", _ORDERS, lambda x: _inverted(x), one(tf.int32)),
    ]


def _counted() -> tuple[Any, Any]:
    return one(tf.int32), {"x": np.array([[0, 1, 5, 5], [6, 7, 0, 0], [2**31 - 1, 3, 3, 3], [5, 5, 5, 5]], np.int32)}


def _top(x: tf.Tensor, k: int) -> dict[str, tf.Tensor]:
    values, indices = _RAW.TopKV2(input=x, k=k)
    return {"indices": indices, "values": values}


def _targets(x: tf.Tensor) -> tf.Tensor:
    return tf.zeros([tf.shape(x)[0]], tf.int32)


def _search(table: tf.Tensor, x: tf.Tensor, side: str) -> tf.Tensor:
    return tf.searchsorted(tf.repeat(table, tf.shape(x)[0], 0), x, side)


def _in_top(x: tf.Tensor) -> tf.Tensor:
    return _RAW.InTopKV2(predictions=x[:, 0], targets=_targets(x), k=2)


def _counts(x: tf.Tensor) -> tf.Tensor:
    return _RAW.DenseBincount(input=x, size=6, weights=tf.zeros([0]))


def _inverted(x: tf.Tensor) -> tf.Tensor:
    return tf.math.invert_permutation(tf.argsort(x[0]))[None] + 0 * x


def _bincount(x: tf.Tensor) -> tf.Tensor:
    counts = _RAW.Bincount(arr=x, size=tf.constant(6), weights=tf.zeros([0], tf.int32))
    return tf.repeat(counts[None], tf.shape(x)[0], 0)


def _histogram(x: tf.Tensor) -> tf.Tensor:
    counts = tf.histogram_fixed_width(x, [-1.0, 6.0], 5)
    return tf.repeat(counts[None], tf.shape(x)[0], 0)


def _unique(x: tf.Tensor, operation: Any, **more: Any) -> tf.Tensor:
    found = operation(x=tf.reshape(x, [-1]), **more)
    return tf.reshape(found.idx, tf.shape(x))


def _where(x: tf.Tensor) -> tf.Tensor:
    """How many there are in each row, by the indices of those that are not 0."""
    rows = tf.cast(tf.shape(x)[0], tf.int64)
    found = _RAW.Where(condition=x)
    return tf.reduce_sum(tf.cast(found[None, :, 0] == tf.range(rows)[:, None], tf.int32), -1)


OPERATIONS = [
    *(_reducing(kind) for kind in ("Sum", "Prod", "Max", "Min", "Mean", "EuclideanNorm")),
    *(_reducing(kind, axis=1) for kind in ("Sum", "Prod", "Max", "Min", "Mean")),
    *(_reducing(kind, dtype) for kind in ("Sum", "Prod", "Max", "Min", "Mean") for dtype in (tf.int32, tf.int64)),
    *(_reducing(kind, tf.bool) for kind in ("All", "Any")),
    *(_index_of(kind) for kind in ("ArgMax", "ArgMin")),
    *(_index_of(kind, output=tf.int32) for kind in ("ArgMax", "ArgMin")),
    *(_index_of(kind, dtype) for kind in ("ArgMax", "ArgMin") for dtype in (tf.int32, tf.int64)),
    Operation("reduce_logsumexp", _GROUP, lambda x: tf.reduce_logsumexp(x, -1), _SIX),
    Operation("reduce_variance", _GROUP, lambda x: tf.math.reduce_variance(x, -1), _SIX),
    Operation("reduce_std", _GROUP, lambda x: tf.math.reduce_std(x, -1), _SIX),
    Operation("L2Loss", _GROUP, lambda x: tf.map_fn(lambda row: _RAW.L2Loss(t=row), x), _SIX),
    Operation("norm", _GROUP, lambda x: tf.norm(x, axis=-1), _SIX),
    *_cumulative(),
    *_ordering(),
    *_over_segments(),
]
