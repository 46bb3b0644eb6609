"""Other forms of operations: as exact as the functions themselves, worked out with twice the digits."""

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from app.builder import op_forms
from app.builder.op_forms import Around, attribute, dtypes_of, name_of
from saver.stderr import hushed

GENERATOR = np.random.default_rng(0)
SMALL = 10.0 ** GENERATOR.uniform(-12, -0.31, 2000)
# A float has some 1.2e-7 of itself.
LAST_DIGITS = 4e-7


def relative(found: tf.Tensor, expected: np.ndarray) -> float:
    return float(np.max(np.abs(found.numpy().astype(np.float64) - expected) / np.maximum(np.abs(expected), 1e-300)))


@pytest.mark.parametrize("x", [SMALL, -SMALL, np.linspace(-0.999, 3, 2000), 10.0 ** np.linspace(0, 38, 100)])
def test_log1p_has_its_last_digits_also_where_x_is_small(x: np.ndarray) -> None:
    single = x.astype(np.float32)
    assert relative(op_forms._log1p(tf.constant(single)), np.log1p(single.astype(np.float64))) < LAST_DIGITS


def in_litert(compute: Callable[[tf.Tensor], tf.Tensor], x: np.ndarray) -> np.ndarray:
    function = tf.function(compute, input_signature=[tf.TensorSpec(x.shape, tf.float32)])
    concrete = function.get_concrete_function()
    with hushed():
        content = tf.lite.TFLiteConverter.from_concrete_functions([concrete], function).convert()
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    found: np.ndarray = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    return found


def test_a_logarithm_is_exact_to_the_ends_of_all_floats_in_litert() -> None:
    ends = [0.0, -0.0, 1e-45, 1.2e-38, 9.9e36, 1.01e37, 3e38, 3.4e38, np.inf, -1.0, -np.inf, np.nan]
    single = np.concatenate([ends, 10.0 ** np.linspace(-37, 38.5, 4000)]).astype(np.float32)
    expected = tf.math.log(tf.constant(single)).numpy()
    np.testing.assert_allclose(in_litert(op_forms._log, single), expected, rtol=LAST_DIGITS, atol=LAST_DIGITS)


@pytest.mark.parametrize("x", [SMALL, -SMALL, np.linspace(-0.99, 0.99, 1999)])
def test_atanh_has_its_last_digits(x: np.ndarray) -> None:
    single = x[x != 0].astype(np.float32)
    single = single[np.abs(single) > 1e-12]
    assert relative(op_forms._atanh(tf.constant(single)), np.arctanh(single.astype(np.float64))) < 4 * LAST_DIGITS


def test_softplus_is_finite_and_exact_over_all_floats() -> None:
    single = np.concatenate([np.linspace(-85, 85, 2000), [1e4, 1e20, 3e38, 0.0]]).astype(np.float32)
    found = op_forms._softplus(tf.constant(single))
    assert relative(found, np.logaddexp(0, single.astype(np.float64))) < 2 * LAST_DIGITS


@pytest.mark.parametrize(("index", "expected"), [(3, 3), (-7, -1), (2**31, 2**31 - 1), (-(2**33) + 1, -1)])
def test_an_index_of_64_bits_stays_out_of_range_where_it_was(index: int, expected: int) -> None:
    assert op_forms._index(tf.constant([index], tf.int64)).numpy().tolist() == [expected]


def test_a_number_half_way_between_two_steps_goes_up() -> None:
    """As in TensorFlow's kernel."""
    x = tf.constant(np.arange(-8, 8.01, 0.25), tf.float32)
    found = op_forms._fake_quantised(x, 4, False, min=-8.0, max=7.0)
    expected = tf.quantization.fake_quant_with_min_max_args(x, -8.0, 7.0, 4)
    assert found.numpy().tolist() == expected.numpy().tolist()
    assert found.numpy()[2] == -7.0, "-7.5"


@pytest.mark.parametrize(("reference", "name"), [("a", "a"), ("a:1", "a"), ("^a", "a"), ("a:output:0", "a")])
def test_a_node_is_named_whichever_output_is_meant(reference: str, name: str) -> None:
    assert name_of(reference) == name


def nodes_of(call) -> dict:
    graph = tf.function(call).get_concrete_function(tf.TensorSpec([None, 3], tf.float32)).graph.as_graph_def()
    return {node.name: node for node in graph.node}


def test_a_missing_attribute_is_not_put_into_the_node() -> None:
    (node,) = (node for node in nodes_of(lambda x: tf.nn.relu(x)).values() if node.op == "Relu")
    before = node.SerializeToString(deterministic=True)
    assert attribute(node, "data_format").s == b""
    assert node.SerializeToString(deterministic=True) == before


def test_dtypes_are_those_of_several_inputs_and_outputs() -> None:
    (node,) = (node for node in nodes_of(lambda x: tf.gather(x, [0, 1])).values() if node.op == "GatherV2")
    assert dtypes_of(node, "input_arg") == (tf.float32, tf.int32, tf.int32)
    assert dtypes_of(node, "output_arg") == (tf.float32,)
    (node,) = (node for node in nodes_of(lambda x: tf.concat([x, x], 0)).values() if node.op == "ConcatV2")
    assert dtypes_of(node, "input_arg") == (tf.float32, tf.float32, tf.int32)


def test_constants_are_seen_through_identities() -> None:
    nodes = nodes_of(lambda x: x + tf.identity(tf.constant([1.0, 2.0, 3.0])))
    around = Around(nodes, {})
    (added,) = (node for node in nodes.values() if node.op == "AddV2")
    assert [around.is_constant(reference) for reference in added.input] == [False, True]
