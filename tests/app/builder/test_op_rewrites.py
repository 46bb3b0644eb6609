"""Operations in the form that LiteRT gets them in: as TensorFlow works them out, over the whole range of floats."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from app.builder import compile as compiling
from app.builder import op_forms
from app.builder.constant_folding import FoldedConstants

FAR = [0.0, 1e-8, -1e-8, 1e-4, -1e-4, 15.5, -15.5, -20.0, 88.0, 90.0, -80.0, 1e6, -1e6, 1e20, -1e20]
GENERATOR = np.random.default_rng(0)
WIDE = np.concatenate([FAR, np.linspace(-60, 120, 300), 3 * GENERATOR.normal(size=300)]).astype(np.float32)
SMALL = (10.0 ** GENERATOR.uniform(-12, -0.01, 600) * GENERATOR.choice([-1, 1], 600)).astype(np.float32)


def sliced_sum(x: tf.Tensor) -> tf.Tensor:
    """As TFP writes the log-determinant of a scale."""
    ones = tf.fill(tf.slice(tf.shape(x), [1], [1]), 1.0)
    return tf.reduce_sum(ones * tf.constant([0.25, 0.5, 3.0]), -1) + x[:, 0]


def cross_entropy(x: tf.Tensor) -> tf.Tensor:
    labels = tf.argmin(x, axis=1, output_type=tf.int32)
    masked = tf.concat([x[:, :2], tf.fill([tf.shape(x)[0], 1], tf.float32.min)], axis=1)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, tf.where(tf.abs(x) < 60, x, masked))


def double_filled(x: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.fill([tf.shape(x)[0]], tf.constant(-1.25, tf.float64)), tf.float32)


def near(x: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(x, -100.0, 100.0)


def clipped(x: tf.Tensor, dtype: tf.DType, low: int, high: int) -> tf.Tensor:
    return tf.clip_by_value(tf.cast(near(x), dtype), low, high)


def small(x: tf.Tensor) -> tf.Tensor:
    """From 0 to 3."""
    return tf.cast(tf.abs(near(x)), tf.int64) % 4


def far(x: tf.Tensor) -> tf.Tensor:
    """From 0 to 3, and numbers far below 0 that are that in their last 32 bits."""
    return tf.where(x > 0.0, small(x), small(x) - 2**33)


def outer(x: tf.Tensor) -> tf.Tensor:
    return near(x)[:, :, None] * tf.constant([1.0, -2.0, 0.5])


def solved(x: tf.Tensor, adjoint: bool) -> tf.Tensor:
    """Of triangular matrices, a different one for each row."""
    off = tf.constant([[9.0, 9.0, 9.0], [0.5, 9.0, 9.0], [-2.0, 1.5, 9.0]])
    matrices = tf.linalg.set_diag(tf.zeros_like(x)[:, :, None] + off, 1.0 + tf.abs(near(x)))
    return tf.linalg.triangular_solve(matrices, near(x)[:, :, None] + 1.0, lower=True, adjoint=adjoint)[:, :, 0]


FUNCTIONS: dict[str, Any] = {
    "softplus": tf.nn.softplus,
    "log_of_softplus": lambda x: tf.math.log(tf.nn.softplus(tf.maximum(x, -80.0))),
    "log1p": lambda x: tf.math.log1p(tf.maximum(x, -0.99)),
    "xlog1py": lambda x: tf.math.xlog1py(tf.clip_by_value(x, -1e3, 1e3), tf.maximum(x, -0.99)),
    "divided_down": lambda x: tf.clip_by_value(x, -1e6, 1e6) // tf.constant([0.1, 0.3, -7.0]),
    "atanh": lambda x: tf.atanh(tf.clip_by_value(x, -0.999, 0.999)),
    "abs": lambda x: tf.abs(tf.cast(tf.clip_by_value(x, -1e6, 1e6), tf.int64)),
    "diagonal": lambda x: tf.linalg.tensor_diag_part(tf.matmul(x, x, transpose_b=True)),
    "product": lambda x: tf.einsum("j,jk->k", x[0], tf.linalg.matrix_transpose(x[:, :1] * x)),
    "columns": lambda x: tf.einsum("ij,ij->j", x, x),
    "new_axis": lambda x: x[..., tf.newaxis] * tf.constant([1.0, 2.0]),
    "slice": sliced_sum,
    "cross_entropy": cross_entropy,
    "fill": double_filled,
    "int32_0_to_6": lambda x: clipped(x, tf.int32, 0, 6),
    "int64_0_to_6": lambda x: clipped(x, tf.int64, 0, 6),
    "int32_0_to_1": lambda x: clipped(x, tf.int32, 0, 1),
    "int64_-1_to_1": lambda x: clipped(x, tf.int64, -1, 1),
    "relu6_of_integers": lambda x: tf.nn.relu6(tf.cast(near(x), tf.int32)),
    "float_0_to_6": lambda x: tf.clip_by_value(x, 0.0, 6.0),
    "float_-1_to_1": lambda x: tf.clip_by_value(x, -1.0, 1.0),
    "float_0_to_1": lambda x: tf.clip_by_value(x, 0.0, 1.0),
    "fake_quantised": lambda x: tf.quantization.fake_quant_with_min_max_args(x, -6.0, 6.0),
    "fake_quantised_narrow": lambda x: tf.quantization.fake_quant_with_min_max_args(x, -1.0, 3.3, 4, True),
    "fake_quantised_16": lambda x: tf.quantization.fake_quant_with_min_max_args(x, 0.1, 5.0, 16),
    "scattered": lambda x: tf.scatter_nd(small(x[:, :1]), x[:, 0], tf.constant([4], tf.int64)),
    "segment_sum": lambda x: tf.math.unsorted_segment_sum(tf.clip_by_value(x, -9.0, 9.0), far(x), 4),
    "segment_max": lambda x: tf.math.unsorted_segment_max(x, small(x), 4),
    "main_diagonals": lambda x: tf.linalg.diag_part(outer(x)),
    "main_diagonals_1": lambda x: tf.raw_ops.MatrixDiagPart(input=outer(x)),
    "main_diagonals_2": lambda x: tf.raw_ops.MatrixDiagPartV2(input=outer(x)[:, :, :2], k=0, padding_value=0.0),
    "solved_lower": lambda x: solved(x, adjoint=False),
    "solved_upper": lambda x: solved(x, adjoint=True),
    "segment_min": lambda x: tf.math.unsorted_segment_min(x, small(x), 4),
}
# To the last bit.
EXACT = {name for name in FUNCTIONS if name[:3] in ("int", "flo", "fak", "rel")}


@pytest.fixture(scope="module")
def both() -> Any:
    """All of the functions, in LiteRT and in TensorFlow."""

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, 3], tf.float32, "x")])
    def function(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {name: tf.identity(call(x)) for name, call in FUNCTIONS.items()}

    model = compiling._convert(FoldedConstants({"f": function}, []))
    return Interpreter(model_content=model, num_threads=1).get_signature_runner("f"), function


@pytest.mark.parametrize("values", [WIDE, SMALL], ids=["wide", "small"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_litert_works_it_out_as_tensorflow_does(both, name, values):
    litert, function = both
    x = values[: len(values) // 3 * 3].reshape(-1, 3)
    if name in ("diagonal", "product", "columns"):
        x = x[np.abs(x).max(axis=1) < 1e6]
    found, expected = litert(x=x)[name], function(tf.constant(x))[name].numpy()
    if name in EXACT:
        np.testing.assert_array_equal(found, expected)
        return
    # Relative: the logarithm of a deviation, say, is taken of very small ones.
    near = np.testing.assert_array_equal if found.dtype.kind == "i" else np.testing.assert_allclose
    near(
        found, expected, **({} if found.dtype.kind == "i" else {"rtol": 2e-5, "atol": 1e-6 if "log" in name else 1e-30})
    )


def test_every_form_is_tested():
    """As far as the names go."""
    kinds = {form.kind for form in op_forms.FORMS} - {"OneHot"}
    graph = tf.function(
        lambda x: {name: call(x) for name, call in FUNCTIONS.items()},
        input_signature=[tf.TensorSpec([None, 3])],
        autograph=False,
    )
    assert kinds <= {operation.type for operation in graph.get_concrete_function().graph.get_operations()}


TIES = np.array([-6, 2, 6, -7, np.nan, np.inf, -np.inf, 0, 1.9764706, -1.9764706, 7.0], np.float32)
BEYOND = np.array([0, 3, 4, -1, 2**31, 2**32, 8589934594, -(2**32) + 1, 2**53 + 1, 2**63 - 1, -(2**63)], np.int64)


def run(function: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What LiteRT and TensorFlow make of a vector."""
    signature = [tf.TensorSpec([None], x.dtype, "x")]
    traced = tf.function(lambda x: {"y": tf.identity(function(x))}, input_signature=signature, autograph=False)
    model = compiling._convert(FoldedConstants({"f": traced}, []))
    runner = Interpreter(model_content=model, num_threads=1).get_signature_runner("f")
    return runner(x=x)["y"], traced(tf.constant(x))["y"].numpy()


def test_fake_quantisation_at_ties_and_ends():
    found, expected = run(lambda x: tf.quantization.fake_quant_with_min_max_args(x, -6.0, 6.0), TIES)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(found[:2], [-5.9765, 2.0235], atol=1e-4)


@pytest.mark.parametrize("bits", [2, 8, 16])
@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize(("low", "high"), [(-6.0, 6.0), (0.0, 1.0), (-1.0, 0.0), (0.3, 7.0)])
def test_fake_quantisation_half_way_between_steps(low, high, bits, narrow):
    halves = low + np.arange(-3, 511) * (high - low) / (2**bits - 1 - narrow) / 2
    x = np.concatenate([TIES, halves]).astype(np.float32)
    found, expected = run(lambda x: tf.quantization.fake_quant_with_min_max_args(x, low, high, bits, narrow), x)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("axis", "on", "off"), [(-1, 1.0, 0.0), (0, 1.0, 0.0), (-1, 5.0, -1.0), (-1, True, False), (1, 3, 0)]
)
def test_one_hot_beyond_32_bits(axis, on, off):
    found, expected = run(lambda x: tf.one_hot(x, 4, on, off, axis=axis), BEYOND)
    np.testing.assert_array_equal(found, expected)
    row = found[:, 6] if axis == 0 else found[6]
    assert (row == off).all()


@pytest.mark.parametrize("bounds", [(0.0, 6.0), (0.0, 1.0), (-1.0, 1.0), (-6.0, 6.0)])
def test_clipped_nan_is_nan(bounds):
    found, expected = run(lambda x: tf.clip_by_value(x, *bounds), TIES)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("added", [tf.nn.bias_add, tf.add, lambda x, b: b + x], ids=["bias_add", "add", "added_first"])
def test_where_outputs_are_fed_back_a_bias_is_added_to_the_sum(added):
    generator = np.random.default_rng(0)
    weights, bias, x = (generator.normal(size=s).astype(np.float32) * 100 for s in ((8, 16), (16,), (64, 8)))
    variables = [tf.Variable(weights), tf.Variable(bias)]
    traced = tf.function(
        lambda x: {"y": added(tf.matmul(x, variables[0]), variables[1])},
        input_signature=[tf.TensorSpec([None, 8], tf.float32, "x")],
        autograph=False,
    )
    expected = traced(tf.constant(x))["y"].numpy()
    different = []
    for fed_back in (False, True):
        model = compiling._convert(FoldedConstants({"f": traced}, variables, fed_back))
        runner = Interpreter(model_content=model, num_threads=1).get_signature_runner("f")
        different.append(np.mean(runner(x=x)["y"] != expected))
    assert different[1] < different[0] / 10


def test_a_label_out_of_range_is_refused_as_by_tensorflow():
    function = tf.function(
        lambda x, y: {"z": tf.nn.sparse_softmax_cross_entropy_with_logits(y, x)},
        input_signature=[tf.TensorSpec([None, 3], tf.float32, "x"), tf.TensorSpec([None], tf.int32, "y")],
        autograph=False,
    )
    model = compiling._convert(FoldedConstants({"f": function}, []))
    runner = Interpreter(model_content=model, num_threads=1).get_signature_runner("f")
    with pytest.raises(RuntimeError):
        runner(x=np.zeros((2, 3), np.float32), y=np.array([0, 3], np.int32))
