"""Operations in the form that LiteRT gets them in: as TensorFlow works them out, over the whole range of floats."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from app.workshop import compile as compiling
from app.workshop import exact
from app.workshop.constants import Constants

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
}


@pytest.fixture(scope="module")
def both() -> Any:
    """All of the functions, in LiteRT and in TensorFlow."""

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, 3], tf.float32, "x")])
    def function(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {name: tf.identity(call(x)) for name, call in FUNCTIONS.items()}

    model = compiling._convert(Constants({"f": function}, []))
    return Interpreter(model_content=model, num_threads=1).get_signature_runner("f"), function


@pytest.mark.parametrize("values", [WIDE, SMALL], ids=["wide", "small"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_litert_works_it_out_as_tensorflow_does(both, name, values):
    litert, function = both
    x = values[: len(values) // 3 * 3].reshape(-1, 3)
    if name in ("diagonal", "product", "columns"):
        x = x[np.abs(x).max(axis=1) < 1e6]
    found, expected = litert(x=x)[name], function(tf.constant(x))[name].numpy()
    # Relative: the logarithm of a deviation, say, is taken of very small ones.
    near = np.testing.assert_array_equal if found.dtype.kind == "i" else np.testing.assert_allclose
    near(
        found, expected, **({} if found.dtype.kind == "i" else {"rtol": 2e-5, "atol": 1e-6 if "log" in name else 1e-30})
    )


def test_every_form_is_tested():
    """As far as the names go."""
    kinds = {form.kind for form in exact._FORMS}
    graph = tf.function(
        lambda x: {name: call(x) for name, call in FUNCTIONS.items()},
        input_signature=[tf.TensorSpec([None, 3])],
        autograph=False,
    )
    assert kinds <= {operation.type for operation in graph.get_concrete_function().graph.get_operations()}


def test_a_label_out_of_range_is_refused_as_by_tensorflow():
    function = tf.function(
        lambda x, y: {"z": tf.nn.sparse_softmax_cross_entropy_with_logits(y, x)},
        input_signature=[tf.TensorSpec([None, 3], tf.float32, "x"), tf.TensorSpec([None], tf.int32, "y")],
        autograph=False,
    )
    model = compiling._convert(Constants({"f": function}, []))
    runner = Interpreter(model_content=model, num_threads=1).get_signature_runner("f")
    with pytest.raises(RuntimeError):
        runner(x=np.zeros((2, 3), np.float32), y=np.array([0, 3], np.int32))
