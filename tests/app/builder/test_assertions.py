from typing import Any

import pytest
import tensorflow as tf

from app.builder.assertions import may_refuse

WEIGHTS = tf.Variable([1.0, 2.0, 3.0])


def asserting(condition: Any) -> Any:
    """A function whose answer waits for an assertion about its input, or not about it."""

    def call(x: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies([tf.debugging.Assert(condition(x), [x])]):
            return x + 1.0

    return call


def chained(x: tf.Tensor) -> tf.Tensor:
    for _ in range(1200):
        x = x + 1.0
    return x


POSITIVE = asserting(lambda x: tf.reduce_all(x > 0))
HEAVY = asserting(lambda x: tf.reduce_all(WEIGHTS * tf.ones_like(x) > 0))
WIDE = asserting(lambda x: tf.shape(x)[1] == 3)


def both(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return x * 2.0, WEIGHTS * 2.0


def of_output(index: int) -> Any:
    """Asserts something of one of the outputs of a function that it calls."""

    def call(x: tf.Tensor) -> tf.Tensor:
        answer = tf.function(both)(x)[index]
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(answer > 0), [0])]):
            return x + 1.0

    return call


@pytest.mark.parametrize(
    ("call", "refuses"),
    [
        (lambda x: x * WEIGHTS, False),
        (POSITIVE, True),
        (tf.function(POSITIVE), True),
        (lambda x: tf.function(POSITIVE)(WEIGHTS[None]) + x, False),
        (HEAVY, False),
        (WIDE, False),
        (of_output(0), True),
        (of_output(1), False),
        (lambda x: tf.cond(x[0, 0] > 0, lambda: POSITIVE(x), lambda: x), True),
        (lambda x: tf.cond(x[0, 0] > 0, lambda: HEAVY(x), lambda: x), True),
        (lambda x: tf.while_loop(lambda y: y[0, 0] < 9, lambda y: [POSITIVE(y)], [x])[0], True),
        (lambda x: tf.debugging.check_numerics(x, "no"), True),
        (lambda x: x + tf.debugging.check_numerics(WEIGHTS, "no"), False),
        (lambda x: asserting(lambda y: tf.reduce_all(y > 0))(chained(x)), True),
    ],
)
def test_assertion_counts_if_the_value_of_an_input_decides_it(call, refuses):
    function = tf.function(call, input_signature=[tf.TensorSpec([None, 3])], autograph=False)
    assert may_refuse(function.get_concrete_function()) is refuses
