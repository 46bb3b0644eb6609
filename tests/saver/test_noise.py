"""What a policy draws in code of its own comes from given noise too, or is refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from tf_agents.distributions import masked, shifted_categorical

from saver.artifact import NOISE_NORMAL, NOISE_UNIFORM
from saver.noise import Counting, Given, drawing_from

tfd = tfp.distributions
Draw = Callable[[tf.Tensor], Any]
MANY = np.linspace(2.0**-24, 1 - 2.0**-24, 6000).astype(np.float32)


def counted(draw: Draw, rows: int | None = None) -> Counting:
    """What `draw`, of a matrix of three columns, takes."""
    noise = Counting(rows)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([rows, 3])])
    def trace(x: tf.Tensor) -> Any:
        with drawing_from(noise):
            return draw(x)

    trace.get_concrete_function()
    return noise


def given(draw: Draw, x: Any, uniform: Any) -> np.ndarray:
    """What it gives for this noise."""

    @tf.function(autograph=False)
    def trace(x: tf.Tensor, uniform: tf.Tensor) -> Any:
        with drawing_from(Given(None, {NOISE_UNIFORM: uniform})):
            return draw(x)

    shapes = [tf.TensorSpec([None, 3]), tf.TensorSpec([None, np.shape(uniform)[1]])]
    return trace.get_concrete_function(*shapes)(tf.constant(x, tf.float32), tf.constant(uniform, tf.float32)).numpy()


def rows_of(x: tf.Tensor) -> tf.Tensor:
    return tf.shape(x)[0]


MIXTURE = tfd.Categorical(logits=[0.0, 1.0])


@pytest.mark.parametrize(
    ("draw", "uniform", "normal"),
    [
        (lambda x: tf.random.uniform(tf.shape(x)[:1]), 1, 0),
        (lambda x: tf.random.uniform([rows_of(x)], maxval=5, dtype=tf.int32), 1, 0),
        (lambda x: tf.random.uniform(tf.concat([tf.shape(x)[:1], [2, 4]], 0), -1.0, 2.0), 8, 0),
        (lambda x: tf.random.uniform(tf.shape(x)), 3, 0),
        (lambda x: masked.MaskedCategorical(x, tf.ones_like(x, tf.int32)).sample(), 3, 0),
        (lambda x: tfd.Normal(x, 1.0).sample(), 0, 3),
        (lambda x: MIXTURE.sample(rows_of(x)), 2, 0),
    ],
)
def test_numbers_are_counted_for_each_row(draw, uniform, normal):
    noise = counted(draw)
    assert noise.refusal is None
    assert noise.sizes == {NOISE_UNIFORM: uniform, NOISE_NORMAL: normal}


@pytest.mark.parametrize(
    ("draw", "reason"),
    [
        (lambda x: x + tf.random.uniform([3]), "the same numbers for all rows"),
        (lambda x: x + tf.random.uniform([]), "the same numbers for all rows"),
        (lambda x: x + tfd.Normal([0.0, 0.0, 0.0], 1.0).sample(), "the same numbers for all rows"),
        (lambda x: MIXTURE.sample(3), "the same numbers for all rows"),
        (lambda x: tf.random.uniform([rows_of(x), rows_of(x)]), "with known sizes"),
        (lambda x: tfd.Normal(x, 1.0).sample(2), "several samples"),
        (lambda x: tf.random.uniform([rows_of(x)], maxval=2000, dtype=tf.int32), "over 1024 apart"),
        (lambda x: tf.random.uniform([rows_of(x)], maxval=rows_of(x), dtype=tf.int32), "not known"),
        (lambda x: shifted_categorical.ShiftedCategorical(logits=x, shift=2).sample(), "in its own way"),
        (lambda x: tfd.Gumbel(x, 1.0).sample(), "Uniform is a family without"),
        (lambda x: tf.while_loop(lambda y: True, lambda y: y + tf.random.uniform(tf.shape(x)), [x]), "inside a loop"),
    ],
)
def test_other_draws_are_refused(draw, reason):
    assert reason in (counted(draw).refusal or "")


def test_rows_of_a_fixed_batch_are_rows():
    assert counted(lambda x: tf.random.uniform(tf.shape(x)[:1]), rows=5).sizes[NOISE_UNIFORM] == 1
    assert counted(lambda x: tf.random.uniform([5, 2]), rows=5).sizes[NOISE_UNIFORM] == 2
    assert counted(lambda x: tf.random.uniform([2]), rows=5).refusal


@pytest.mark.parametrize(("low", "high"), [(0, 3), (-2, 5), (7, 8), (0, 1024)])
def test_integers_have_their_bounds_and_equal_shares(low, high):
    x = np.zeros((len(MANY), 3))
    drawn = given(lambda x: tf.random.uniform([rows_of(x)], low, high, tf.int32), x, MANY[:, None])
    assert (drawn.min(), drawn.max()) == (low, high - 1)
    counts = np.bincount(drawn - low)
    assert counts.max() - counts.min() <= 2


def test_floats_have_their_bounds():
    x = np.zeros((len(MANY), 3))
    drawn = given(lambda x: tf.random.uniform([rows_of(x)], -1.0, 3.0), x, MANY[:, None])
    np.testing.assert_allclose(drawn, 4 * MANY - 1, atol=1e-6)


def test_one_distribution_for_all_rows_is_drawn_for_each():
    uniform = np.random.default_rng(0).uniform(size=(4000, 2))
    drawn = given(lambda x: MIXTURE.sample(rows_of(x)), np.zeros((4000, 3)), uniform)
    assert abs(drawn.mean() - 1 / (1 + np.exp(-1))) < 0.04


def test_other_draws_of_one_trace_get_other_columns():
    uniform = [[0.1, 0.9]]
    both = given(
        lambda x: tf.stack([tf.random.uniform(tf.shape(x)[:1]) for _ in range(2)], 1), np.zeros((1, 3)), uniform
    )
    np.testing.assert_allclose(both, uniform)
