"""Log-probabilities of actions: summed over the parts of a row, and refused where they say nothing."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from saver.distribution_types import NotDescribable
from saver.log_probs import log_prob, log_prob_clipped, total

tfd = tfp.distributions
LOC = np.array([[0.0, 1.0], [-2.0, 3.0]], np.float32)
ACTION = np.array([[0.5, 1.0], [-2.5, 2.0]], np.float32)


def normal_log_prob(x: np.ndarray, loc: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """By the formula of the normal density."""
    return -(((x - loc) / scale) ** 2) / 2 - np.log(scale * np.sqrt(2 * np.pi))


def test_independent_parts_of_a_row_are_summed() -> None:
    found = log_prob(tfd.Normal(LOC, 2.0), tf.constant(ACTION)).numpy()
    np.testing.assert_allclose(found, normal_log_prob(ACTION, LOC, 2.0).sum(axis=1), rtol=1e-5)


@pytest.mark.parametrize("dtype", [tf.int8, tf.uint8, tf.int16, tf.int32, tf.int64])
def test_categories_of_any_integer_have_one(dtype: tf.DType) -> None:
    found = log_prob(tfd.Categorical(probs=[[0.25, 0.75], [0.5, 0.5]]), tf.constant([1, 0], dtype)).numpy()
    np.testing.assert_allclose(found, np.log([0.75, 0.5]), rtol=1e-6)


@pytest.mark.parametrize(
    ("distribution", "says"),
    [
        (tfd.Deterministic(LOC), "deterministic action has no log-probability but 0 or -inf"),
        (tfd.VectorDeterministic(LOC), "deterministic action"),
        (tfd.RelaxedOneHotCategorical(1.0, logits=LOC), "RelaxedOneHotCategorical is a family without a flat form"),
        (tfd.Gamma(1.0, [1.0]), "Gamma is a family without a flat form"),
    ],
)
def test_where_it_says_nothing_it_is_refused(distribution, says) -> None:
    with pytest.raises(NotDescribable, match=says):
        log_prob(distribution, tf.constant(ACTION))


def test_a_clipped_draw_has_that_of_its_clipped_value_and_only_in_its_own_row() -> None:
    normal = tfd.Normal(LOC, 1.0)
    drawn = tf.constant(ACTION)
    clipped = tf.constant([[0.5, 1.0], [-1.0, 2.0]])
    expected = normal_log_prob(clipped.numpy(), LOC).sum(axis=1)
    np.testing.assert_allclose(log_prob_clipped(normal, drawn, clipped).numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(log_prob_clipped(normal, drawn, drawn), log_prob(normal, drawn))


def test_leaves_are_summed_in_float32_where_their_dtypes_differ() -> None:
    single, double = tf.constant([1.0, 2.0]), tf.constant([0.5, 0.25], tf.float64)
    assert total([double, double]).dtype == tf.float64
    assert total([single, double]).dtype == tf.float32
    assert total(iter([single, double])).numpy().tolist() == [1.5, 2.25]
