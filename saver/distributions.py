"""A TFP distribution → its family's name and named tensors, each with the rows first.

Works inside a `tf.function` while it is traced: what it returns beside tensors is static.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp
from tf_agents.distributions.shifted_categorical import ShiftedCategorical
from tf_agents.distributions.utils import SquashToSpecNormal

tfd = tfp.distributions
Tensors = dict[str, tf.Tensor]

STATISTICS = ("mode", "mean", "stddev", "entropy")


class NotDescribable(Exception):
    """A distribution that has no flat form here; the message says which and why."""


@dataclass(frozen=True)
class FlatDistribution:
    """`family` in lower case with underscores; `parameters` and `statistics` are [rows, …] tensors by name.

    `entropy` is in nats, one number per row, summed over the independent parts of a row.
    """

    family: str
    parameters: Tensors
    statistics: Tensors


def flatten(distribution: Any) -> FlatDistribution:
    """The flat form of one distribution.

    Raises:
      NotDescribable: a family that is not known here.
    """
    family, parameters = _describe(distribution)
    statistics = {}
    for name in STATISTICS:
        if name in _MISLEADING.get(family, ()):
            continue
        try:
            value = getattr(distribution, name)()
        except (NotImplementedError, TypeError, ValueError):
            continue  # TFP has no such statistic for this family
        if name == "entropy" and value.shape.rank != 1:
            value = tf.reduce_sum(value, axis=list(range(1, value.shape.rank)))
        statistics[name] = value
    return FlatDistribution(family, parameters, statistics)


# Statistics that the library computes wrongly or only roughly.
_MISLEADING = {
    "shifted_categorical": ("mean",),  # ignores the shift
    "squashed_normal": ("mean", "stddev"),  # gives the mode, and an approximation
    "deterministic": ("stddev", "entropy"),  # constants that say nothing
}


def _describe(d: Any) -> tuple[str, Tensors]:
    for kind, describe in _FAMILIES:
        if isinstance(d, kind):
            return describe(d)
    raise NotDescribable(f"the distribution {type(d).__name__} has no flat form")


def _shifted(d: Any) -> tuple[str, Tensors]:
    _, logits = _discrete("")(d)
    shift = tf.broadcast_to(tf.cast(d.parameters["shift"], d.dtype), d.batch_shape_tensor())
    return "shifted_categorical", {**logits, "shift": shift}


def _discrete(family: str) -> Callable[[Any], tuple[str, Tensors]]:
    return lambda d: (family, {"logits": d.logits_parameter(), "probs": d.probs_parameter()})


def _squashed(d: Any) -> tuple[str, Tensors]:
    base = d.input_distribution
    like = tf.zeros_like(base.mean())
    return "squashed_normal", {
        "loc": base.mean(),
        "scale_diag": base.stddev(),
        "low": like + (d.action_means - d.action_magnitudes),
        "high": like + (d.action_means + d.action_magnitudes),
    }


def _deterministic(d: Any) -> tuple[str, Tensors]:
    shape = tf.concat([d.batch_shape_tensor(), d.event_shape_tensor()], 0)
    return "deterministic", {"loc": tf.broadcast_to(d.loc, shape)}


def _normal(d: Any) -> tuple[str, Tensors]:
    return "normal", {"loc": d.mean(), "scale": d.stddev()}


def _diagonal(d: Any) -> tuple[str, Tensors]:
    return "multivariate_normal_diag", {"loc": d.mean(), "scale_diag": d.stddev()}


def _full(d: Any) -> tuple[str, Tensors]:
    size = d.event_shape_tensor()
    shape = tf.concat([d.batch_shape_tensor(), size, size], 0)
    return "multivariate_normal_tril", {
        "loc": d.mean(),
        "scale_tril": tf.broadcast_to(d.scale.to_dense(), shape),
    }


def _independent(d: Any) -> tuple[str, Tensors]:
    return _describe(d.distribution)


# The first that fits counts: subclasses stand before their bases.
_FAMILIES: tuple[tuple[type, Callable[[Any], tuple[str, Tensors]]], ...] = (
    (ShiftedCategorical, _shifted),
    (SquashToSpecNormal, _squashed),
    (tfd.Categorical, _discrete("categorical")),
    (tfd.OneHotCategorical, _discrete("one_hot_categorical")),
    (tfd.Bernoulli, _discrete("bernoulli")),
    (tfd.MultivariateNormalDiag, _diagonal),
    (tfd.MultivariateNormalTriL, _full),
    (tfd.Normal, _normal),
    (tfd.Deterministic, _deterministic),
    (tfd.VectorDeterministic, _deterministic),
    (tfd.Independent, _independent),
)
