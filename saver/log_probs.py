"""Log-probabilities of actions under TFP distributions, summed over the independent parts of each row.

Works inside a `tf.function` while it is traced.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from saver.distribution_types import NotDescribable
from saver.distributions import check_has_log_prob, sum_per_row

_SMALL_INTEGERS = (tf.int8, tf.int16, tf.uint8, tf.uint16)


def log_prob(distribution: Any, action: tf.Tensor) -> tf.Tensor:
    """The joint log-probability (density, for continuous parts) of an action for each row: [rows], in nats.

    TFP's own `log_prob`; of a distribution that is squashed into its bounds by tanh, with the correction by the
    logarithm of the bijector's Jacobian (Haarnoja et al., "Soft Actor-Critic", 2018, appendix C).

    Raises:
      NotDescribable: it is 0 or -inf (deterministic), or TFP has none for this family.
    """
    check_has_log_prob(distribution)
    if action.dtype in _SMALL_INTEGERS:
        action = tf.cast(action, tf.int32)  # TFP computes with no smaller ones
    try:
        return sum_per_row(distribution.log_prob(action))
    except NotImplementedError:
        raise NotDescribable(f"{type(distribution).__name__} has no log-probability") from None


def log_prob_clipped(distribution: Any, drawn: tf.Tensor, clipped: tf.Tensor) -> tf.Tensor:
    """Like `log_prob`, of a draw that may have been clipped to its spec: of the clipped value where it was clipped."""
    if clipped is drawn:
        return log_prob(distribution, drawn)
    changed = tf.reduce_any(tf.reshape(clipped != drawn, [tf.shape(drawn)[0], -1]), axis=1)
    return tf.where(changed, log_prob(distribution, clipped), log_prob(distribution, drawn))


def total(parts: Iterable[tf.Tensor]) -> tf.Tensor:
    """The sum of the leaves' log-probabilities; in float32 where their dtypes differ."""
    parts = list(parts)
    alike = len({part.dtype for part in parts}) == 1
    return tf.add_n(parts if alike else [tf.cast(part, tf.float32) for part in parts])
