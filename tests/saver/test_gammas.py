"""Gamma distributions sampled from given noise, beside TFP's own samples."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from saver.artifact import NOISE_NORMAL, NOISE_UNIFORM
from saver.distributions import sample
from saver.noise import Counting, Given
from tests.zoo.statistics import same_distribution

tfd = tfp.distributions
ROWS = 6000
SMALL, LARGE = tf.fill([ROWS, 2], 0.2), tf.fill([ROWS, 2], 40.0)


@pytest.mark.parametrize(
    "distribution",
    [
        tfd.Gamma(tf.fill([ROWS], 0.3), 2.0),
        tfd.Gamma(tf.fill([ROWS, 2], 1.0), [0.5, 3.0]),
        tfd.Gamma(LARGE, log_rate=1.0),
        tfd.Exponential(tf.fill([ROWS], 2.0)),
        tfd.Beta(SMALL, LARGE),
        tfd.Beta(tf.fill([ROWS], 2.0), 3.0),
        tfd.Dirichlet(tf.fill([ROWS, 3], 0.4)),
        tfd.Dirichlet(tf.broadcast_to([1.0, 7.0, 20.0], [ROWS, 3])),
    ],
    ids=str,
)
def test_samples_are_distributed_as_tfps(distribution: Any) -> None:
    counted = Counting(ROWS)
    sample(distribution, counted)
    generator = np.random.default_rng(1)
    noise = {
        NOISE_UNIFORM: tf.constant(generator.uniform(size=(ROWS, counted.sizes[NOISE_UNIFORM])), tf.float32),
        NOISE_NORMAL: tf.constant(generator.normal(size=(ROWS, counted.sizes[NOISE_NORMAL])), tf.float32),
    }
    found = sample(distribution, Given(ROWS, noise))
    assert found.shape == distribution.sample().shape
    assert np.isfinite(found).all()
    assert same_distribution(found.numpy(), distribution.sample(seed=1).numpy(), 1e-6)
