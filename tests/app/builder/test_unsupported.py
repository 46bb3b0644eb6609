"""What conversion would change without a word is read off a function's graph, and what an action draws is said."""

from collections.abc import Callable
from typing import Any

import pytest
import tensorflow as tf

from app.builder.unsupported import draws_of, kinds, what_they_do, why_unsupported

VARIABLE = tf.Variable([1.0, 2.0, 3.0])


def concrete(call: Callable[[tf.Tensor], Any]) -> Any:
    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, 3], tf.float32)])
    def function(x: tf.Tensor) -> Any:
        return tf.identity(call(x))

    return function.get_concrete_function()


def counted(x: tf.Tensor) -> tf.Tensor:
    with tf.control_dependencies([VARIABLE.assign_add([1.0, 1.0, 1.0])]):
        return x * 2.0


def checked(x: tf.Tensor) -> tf.Tensor:
    with tf.control_dependencies([tf.debugging.assert_less(x, 5.0)]):
        return x * 2.0


def shape_of_wave(x: tf.Tensor) -> tf.Tensor:
    return tf.zeros_like(tf.sin(x))


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda x: x * VARIABLE, None),
        (lambda x: x + tf.random.uniform(tf.shape(x)), "draws random numbers (RandomUniform)"),
        (counted, "keeps state in variables (AssignAddVariableOp)"),
        (lambda x: tf.numpy_function(lambda y: y, [x], tf.float32), "runs Python code (PyFunc)"),
        (checked, "may refuse inputs by an assertion, and LiteRT would answer them"),
        (tf.sin, "has Sin, which LiteRT works out otherwise for large inputs"),
        (shape_of_wave, None),
        (
            lambda x: tf.quantization.fake_quant_with_min_max_vars(x, VARIABLE[0], VARIABLE[2]),
            "has FakeQuantWithMinMaxVars, which LiteRT works out otherwise half way between two steps",
        ),
        (
            lambda x: tf.cond(tf.reduce_sum(x) > 0.0, lambda: tf.cos(x), lambda: x),
            "has Cos, which LiteRT works out otherwise for large inputs",
        ),
    ],
)
def test_why_a_function_is_not_converted(call: Callable[[tf.Tensor], Any], why: str | None) -> None:
    assert why_unsupported(concrete(call)) == why


def test_kinds_are_those_of_branches_and_calls_too() -> None:
    inner = tf.function(tf.exp)
    found = kinds(concrete(lambda x: tf.cond(tf.reduce_sum(x) > 0.0, lambda: inner(x), lambda: tf.abs(x))))
    assert {"Exp", "Abs", "Sum"} <= found


@pytest.mark.parametrize(
    ("impure", "does"),
    [
        (["RandomUniform", "AssignVariableOp"], "draws random numbers"),
        (["StatefulUniform"], "draws random numbers"),
        (["AssignVariableOp"], "keeps state in variables"),
        (["EagerPyFunc"], "runs Python code"),
    ],
)
def test_what_operations_do_that_make_two_calls_differ(impure: list[str], does: str) -> None:
    assert what_they_do(impure) == does


@pytest.mark.parametrize(
    ("call", "has_sample", "says"),
    [
        (lambda x: x, False, "action draws nothing: equal inputs get equal answers"),
        (counted, False, "action keeps state in variables"),
        (lambda x: x + tf.random.uniform(tf.shape(x)), True, "action draws afresh"),
        (lambda x: x + tf.random.uniform(tf.shape(x)), False, "action draws afresh"),
        (
            lambda x: x + tf.random.uniform(tf.shape(x), seed=7),
            True,
            "action draws from a seed in the export, the same again after each start; TensorFlow runs it",
        ),
    ],
)
def test_an_operator_reads_where_the_random_numbers_come_from(call, has_sample: bool, says: str) -> None:
    assert draws_of(concrete(call), has_sample) == says
