"""Loops of a known number of passes, written out: the same answers, by operations that LiteRT has."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from app.builder import compile as compiling
from app.builder.constant_folding import FoldedConstants
from app.builder.unrolled_loops import CannotUnroll, has_lists, unrolled
from app.builder.unsupported import kinds
from tests.app.builder.test_noise_inputs import flat

X = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
WEIGHTS = tf.Variable(np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32))


def over_columns(x: tf.Tensor) -> tf.Tensor:
    return tf.transpose(tf.map_fn(lambda column: column * 2.0 - 1.0, tf.transpose(x)))


def through_time() -> Callable[[tf.Tensor], tf.Tensor]:
    layer = tf.keras.layers.RNN(tf.keras.layers.SimpleRNNCell(4), return_sequences=True)
    layer(tf.zeros([1, 2, 3]))
    return lambda x: layer(tf.stack([x, x + 1.0], axis=1))


def in_turn(x: tf.Tensor) -> tf.Tensor:
    def add(step: tf.Tensor, found: Any) -> tuple[tf.Tensor, Any]:
        return step + 1, found.write(step, tf.matmul(x, WEIGHTS)[:, step] + tf.cast(step, tf.float32))

    found = tf.TensorArray(tf.float32, 5, element_shape=[None])
    return tf.transpose(tf.while_loop(lambda step, _: step < 5, add, (0, found))[1].stack())


@pytest.mark.parametrize("call", [over_columns, through_time(), in_turn])
def test_answers_are_the_same_and_litert_has_them(call: Callable[[tf.Tensor], tf.Tensor]) -> None:
    function = flat(call)
    assert has_lists(function)
    found = unrolled(function)
    assert not has_lists(found)
    assert kinds(found.concrete).isdisjoint({"While", "StatelessWhile"})
    expected = function({"x": X})["y"]
    np.testing.assert_allclose(found({"x": X})["y"], expected, rtol=1e-6, atol=1e-6)
    wrapped = compiling._wrapped("action", found)
    model = compiling._convert(FoldedConstants({"action": wrapped}, list(function.concrete.variables)))
    runner = Interpreter(model_content=model, num_threads=1).get_signature_runner("action")
    np.testing.assert_allclose(runner(x=X)["y"], expected, rtol=1e-5, atol=1e-5)


def over_rows(x: tf.Tensor) -> tf.Tensor:
    return tf.map_fn(lambda row: row * 2.0, x)


def as_far_as_it_goes(x: tf.Tensor) -> tf.Tensor:
    return tf.while_loop(lambda y: tf.reduce_any(y > 0.0), lambda y: (y - 1.0,), (x,))[0]


def far_too_often(x: tf.Tensor) -> tf.Tensor:
    return tf.while_loop(lambda i, _: i < 1000, lambda i, y: (i + 1, y * 0.99), (0, x))[1]


@pytest.mark.parametrize("call", [as_far_as_it_goes, far_too_often])
def test_a_loop_of_many_passes_or_of_an_unknown_number_stays(call: Any) -> None:
    function = flat(call)
    found = unrolled(function)
    assert not kinds(found.concrete).isdisjoint({"While", "StatelessWhile"})
    np.testing.assert_array_equal(found({"x": X})["y"], function({"x": X})["y"])


def test_a_list_with_an_item_for_each_row_is_refused() -> None:
    with pytest.raises(CannotUnroll, match="a list has a size that is not known"):
        unrolled(flat(over_rows))
