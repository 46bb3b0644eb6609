"""Samples of gamma distributions from given noise, and of those made of them."""

from __future__ import annotations

import tensorflow as tf

from saver.distribution_types import NoiseSource

# Each is accepted with a probability of 0.95 and more: that all are rejected comes once in 1e13 samples.
_ATTEMPTS = 10


def log_gamma(concentration: tf.Tensor, shape: tuple[int, ...], noise: NoiseSource) -> tf.Tensor:
    """The logarithm of a sample of Gamma(concentration, 1), float32: small samples themselves would be 0.

    By the squeeze of Marsaglia and Tsang, "A Simple Method for Generating Gamma Variables", 2000, with as many attempts
    as noise is taken for; below a concentration of 1, that of one more is multiplied by U^(1/concentration).

    Args:
      concentration: [rows, *shape], or what can be broadcast to that.
      shape: of the samples of one row.
      noise: where they come from.
    """
    concentration = tf.cast(concentration, tf.float32)
    boosted = concentration < 1.0
    base = tf.where(boosted, concentration + 1.0, concentration)[..., None] - 1.0 / 3.0
    x = noise.normal((*shape, _ATTEMPTS))
    y = 1.0 + x * tf.math.rsqrt(9.0 * base)
    # Where it is rejected its logarithm must be a number all the same.
    log_v = 3.0 * tf.math.log(tf.where(y > 0.0, y, 1.0))
    limit = 0.5 * x * x + base * (1.0 - tf.exp(log_v) + log_v)
    accepted = tf.logical_and(y > 0.0, tf.math.log(noise.uniform((*shape, _ATTEMPTS))) < limit)
    first = tf.one_hot(tf.argmax(tf.cast(accepted, tf.int32), axis=-1, output_type=tf.int32), _ATTEMPTS)
    found = tf.reduce_sum(first * (tf.math.log(base) + log_v), axis=-1)
    less = tf.math.log(noise.uniform(shape)) / concentration
    return found + tf.where(boosted, less, 0.0)
