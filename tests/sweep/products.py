"""Products of matrices, what is solved with them, and the softmaxes and losses over a row."""

from typing import Any

import numpy as np
import tensorflow as tf

from tests.sweep.operation import Operation, one, two

_GROUP = "matrices"
_ROWS = "softmaxes, losses and norms"
_RAW = tf.raw_ops

_WEIGHTS = tf.constant(np.random.default_rng(4).standard_normal((4, 3)), tf.float32)
_MEANS, _VARIANCES = tf.constant([0.5, 0.0, 1.0, 2.0]), tf.constant([0.1, 1.0, 2.0, 1e-4])
_LAYER: dict[str, Any] = {
    "MatMul": lambda x: x @ _WEIGHTS,
    "MatMul, transposed": lambda x: tf.matmul(x, tf.transpose(_WEIGHTS), transpose_b=True),
    "BiasAdd": lambda x: tf.nn.bias_add(x, [1.0, -1.0, 1e30, 1e-40]),
    "BiasAddV1": lambda x: _RAW.BiasAddV1(value=x, bias=[1.0, -1.0, 0.5, 0.0]),
    "MatMul and BiasAdd": lambda x: tf.nn.bias_add(x @ _WEIGHTS, [1.0, -1.0, 0.5]),
    "MatMul, BiasAdd, Relu6": lambda x: tf.nn.relu6(x @ _WEIGHTS + [1.0, -1.0, 0.5]),
    "MatMul and Mul": lambda x: (x @ _WEIGHTS + [1.0, -1.0, 0.5]) * [3.0, 0.1, 7.0],
    "Mul and MatMul": lambda x: ((x - [1.0, 2.0, 3.0, 4.0]) / [0.1, 10.0, 255.0, 3.0]) @ _WEIGHTS,
    "Einsum": lambda x: tf.einsum("bi,ij->bj", x, _WEIGHTS),
    "tensordot": lambda x: tf.tensordot(x, _WEIGHTS, 1),
    "Softmax": lambda x: tf.nn.softmax(x),
    "LogSoftmax": lambda x: tf.nn.log_softmax(x),
    "SoftmaxCrossEntropyWithLogits": lambda x: tf.nn.softmax_cross_entropy_with_logits(_shares(x), x),
    "SparseSoftmaxCrossEntropyWithLogits": lambda x: tf.nn.sparse_softmax_cross_entropy_with_logits(_label(x), x),
    "sigmoid_cross_entropy_with_logits": lambda x: tf.nn.sigmoid_cross_entropy_with_logits(tf.ones_like(x) * 0.3, x),
    "l2_normalize": lambda x: tf.math.l2_normalize(x, -1),
    "moments": lambda x: tf.concat(tf.nn.moments(x, [-1], keepdims=True), -1),
    "batch_normalization": lambda x: tf.nn.batch_normalization(x, _MEANS, _VARIANCES, 1.0, 2.0, 1e-3),
    "layer normalisation": lambda x: _layer_norm(x),
    "normalised and clipped": lambda x: tf.clip_by_value((x - 0.5) * tf.math.rsqrt(_VARIANCES), -5.0, 5.0),
    "clip_by_norm": lambda x: tf.clip_by_norm(x, 2.0, [-1]),
    "softmax, temperature": lambda x: tf.nn.softmax(x / 0.1),
    "sigmoid of MatMul": lambda x: tf.sigmoid(x @ _WEIGHTS),
    "tanh of MatMul": lambda x: tf.tanh(x @ _WEIGHTS),
}
_PRODUCTS: dict[str, Any] = {
    "BatchMatMul": lambda x, y: _RAW.BatchMatMul(x=x, y=y),
    "BatchMatMulV2": lambda x, y: _RAW.BatchMatMulV2(x=x, y=y, adj_y=True),
    "BatchMatMulV3": lambda x, y: _RAW.BatchMatMulV3(x=x, y=y, Tout=tf.float32),
    "Einsum of two": lambda x, y: tf.einsum("bij,bkj->bik", x, y),
    "Einsum, outer": lambda x, y: tf.einsum("bi,bj->bij", x[:, 0], y[:, 0]),
}
_SOLVING: dict[str, Any] = {
    "Cholesky": lambda x: tf.linalg.cholesky(_positive(x)),
    "CholeskyGrad": lambda x: _RAW.CholeskyGrad(l=tf.linalg.cholesky(_positive(x)), grad=x),
    "MatrixInverse": lambda x: tf.linalg.inv(_positive(x)),
    "MatrixDeterminant": lambda x: tf.linalg.det(_positive(x)),
    "LogMatrixDeterminant": lambda x: tf.linalg.slogdet(_positive(x))[1],
    "MatrixSolve": lambda x: tf.linalg.solve(_positive(x), x),
    "MatrixSolveLs": lambda x: tf.linalg.lstsq(_positive(x), x),
    "MatrixTriangularSolve": lambda x: tf.linalg.triangular_solve(tf.linalg.band_part(_positive(x), -1, 0), x),
    "BandedTriangularSolve": lambda x: _RAW.BandedTriangularSolve(matrix=x[:, :2] + 5.0, rhs=x),
    "Qr": lambda x: tf.abs(tf.linalg.qr(_positive(x))[1]),
    "Svd": lambda x: tf.linalg.svd(x, compute_uv=False),
    "SelfAdjointEigV2": lambda x: tf.linalg.eigvalsh(_positive(x)),
    "Lu": lambda x: tf.linalg.lu(_positive(x))[0],
    "MatrixExponential": lambda x: tf.linalg.expm(x * 0.1),
    "MatrixSquareRoot": lambda x: tf.linalg.sqrtm(_positive(x)),
    "MatrixLogarithm": lambda x: tf.math.abs(tf.linalg.logm(tf.cast(_positive(x), tf.complex64))),
    "TridiagonalMatMul": lambda x: tf.linalg.tridiagonal_matmul([x[:, 0], x[:, 1], x[:, 2]], x, "sequence"),
    "TridiagonalSolve": lambda x: tf.linalg.tridiagonal_solve([x[:, 0], x[:, 1] + 9.0, x[:, 2]], x, "sequence"),
}


def _shares(x: tf.Tensor) -> tf.Tensor:
    return tf.zeros_like(x) + tf.constant([0.1, 0.2, 0.3, 0.4])


def _label(x: tf.Tensor) -> tf.Tensor:
    return tf.cast(x[:, 0] > 0, tf.int32)


def _positive(x: tf.Tensor) -> tf.Tensor:
    """Matrices that are symmetric and positive definite."""
    return x @ tf.transpose(x, [0, 2, 1]) + 2.0 * tf.eye(3)


def _layer_norm(x: tf.Tensor) -> tf.Tensor:
    mean, variance = tf.nn.moments(x, [-1], keepdims=True)
    return (x - mean) * tf.math.rsqrt(variance + 1e-3) * 2.0 + 1.0


def _gentle(rows: int) -> dict[str, np.ndarray]:
    """Matrices for which results are well determined."""
    drawn = np.random.default_rng(rows).standard_normal((rows, 3, 3)).astype(np.float32)
    drawn[0] = np.eye(3)
    drawn[1] = 0.0
    drawn[2] *= 1e-20
    return {"x": drawn}


def _layers() -> list[Operation]:
    group = {name: _GROUP if "Mul" in name or name in ("Einsum", "tensordot") else _ROWS for name in _LAYER}
    return [Operation(name, group[name], compute, one()) for name, compute in _LAYER.items()]


OPERATIONS = [
    *_layers(),
    Operation("MatMul int32", _GROUP, lambda x: tf.matmul(x, [[1, 2], [3, -4], [5, 6], [7, 100]]), one(tf.int32)),
    Operation("Softmax of three axes", _ROWS, lambda x: tf.nn.softmax(x, 1), one(shape=(3, 2))),
    *(Operation(name, _GROUP, compute, two(shape=(3, 3))) for name, compute in _PRODUCTS.items()),
    *(Operation(name, _GROUP, compute, one(shape=(3, 3)), _gentle(40)) for name, compute in _SOLVING.items()),
]
