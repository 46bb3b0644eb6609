"""A TFP distribution → its family, its named parameters, and a sample of it from given noise: the table of families.

Works inside a `tf.function` while it is traced: what it gives beside tensors is static. All tensors have the
rows (the batch) as their first dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from saver.bijectors import in_order, is_plain, name_of
from saver.distribution_types import FlatDistribution, NoiseSource, NotDescribable, Tensors
from saver.gammas import log_gamma

tfd = tfp.distributions

STATISTICS = ("mode", "mean", "stddev", "entropy")


def flatten(distribution: Any) -> FlatDistribution:
    """The flat form of one distribution.

    Raises:
      NotDescribable: a family that is not known here.
    """
    family = _family(distribution)
    name, parameters, details = family.describe(distribution)
    statistics = {}
    for statistic in STATISTICS:
        if statistic in _MISLEADING.get(name, ()):
            continue
        try:
            value = getattr(distribution, statistic)()
        except (NotImplementedError, TypeError, ValueError):
            continue  # TFP has no such statistic for this family
        statistics[statistic] = sum_per_row(value) if statistic == "entropy" else value
    return FlatDistribution(name, parameters, statistics, details)


def sample(distribution: Any, noise: NoiseSource) -> tf.Tensor:
    """One sample for each row, a deterministic function of the parameters and of the noise.

    Distributed as `distribution.sample()` is. Categories are drawn by the Gumbel-max trick (Gumbel 1954; Maddison,
    Tarlow and Minka, "A* Sampling", 2014), so that a category whose logit is -inf (or the lowest float, as TF-Agents
    masks) is never drawn. Normal distributions are drawn by reparameterization, loc + scale · noise (Kingma and
    Welling, "Auto-Encoding Variational Bayes", 2014).

    Raises:
      NotDescribable: this family cannot be sampled from given noise.
    """
    return _family(distribution).sample(distribution, noise)


def check_has_log_prob(distribution: Any) -> None:
    """Checks that log-probabilities say something in the distribution's family.

    Raises:
      NotDescribable: they are 0 or -inf (deterministic), or the family is not known here.
    """
    family = _family(distribution)
    if family.describe is _no_form:
        family.describe(distribution)  # says so
    if family.sample is _sample_deterministic:
        raise NotDescribable("a deterministic action has no log-probability but 0 or -inf")


def sum_per_row(values: tf.Tensor) -> tf.Tensor:
    """[rows, …] → [rows], summed over the independent parts of a row."""
    return tf.reduce_sum(values, axis=list(range(1, values.shape.rank))) if values.shape.rank > 1 else values


@dataclass(frozen=True)
class _Family:
    kind: type | str  # TF-Agents' own classes by name: the server describes them, and has no TF-Agents
    describe: Callable[[Any], tuple[str, Tensors, dict[str, Any]]]
    sample: Callable[[Any, NoiseSource], tf.Tensor]


def _family(distribution: Any) -> _Family:
    for family in _FAMILIES:
        if _is(distribution, family.kind):
            return family
    raise NotDescribable(f"{type(distribution).__name__} is a family without a flat form")


def _is(distribution: Any, kind: type | str) -> bool:
    if isinstance(kind, type):
        return isinstance(distribution, kind)
    return any(f"{base.__module__}.{base.__name__}" == kind for base in type(distribution).__mro__)


# Statistics that the library computes wrongly or only roughly.
_MISLEADING = {
    "shifted_categorical": ("mean",),  # ignores the shift
    "squashed_normal": ("mean", "stddev"),  # gives the mode, and an approximation
    "deterministic": ("stddev", "entropy"),  # constants that say nothing
}


def _row_shape(d: Any) -> tuple[int, ...]:
    """The static shape of one row of a sample."""
    shape = d.batch_shape.concatenate(d.event_shape)
    if not shape.rank or not shape[1:].is_fully_defined():
        raise NotDescribable(f"{type(d).__name__} has the shape {shape}: expected [rows, …] with known sizes")
    return tuple(shape[1:].as_list())


# Discrete families


def _logits(d: Any) -> Tensors:
    return {"logits": d.logits_parameter(), "probs": d.probs_parameter()}


def _discrete(name: str) -> Callable[[Any], tuple[str, Tensors, dict[str, Any]]]:
    return lambda d: (name, _logits(d), {})


def _shifted(d: Any) -> tuple[str, Tensors, dict[str, Any]]:
    shift = tf.broadcast_to(tf.cast(d.parameters["shift"], d.dtype), d.batch_shape_tensor())
    return "shifted_categorical", {**_logits(d), "shift": shift}, {}


def _masked(d: Any) -> tuple[str, Tensors, dict[str, Any]]:
    logits = d.logits_parameter()
    return "masked_categorical", {**_logits(d), "mask": tf.broadcast_to(d.mask, tf.shape(logits))}, {}


def _choice(logits: tf.Tensor, noise: NoiseSource) -> tf.Tensor:
    """The index of one category for each row and part: int32, the shape of `logits` without its last dimension.

    By the Gumbel-max trick: argmax of logits + G, where G = -log(-log(U)) has Gumbel's distribution and U is uniform.
    """
    shape = logits.shape
    if not shape.rank or not shape[1:].is_fully_defined():
        raise NotDescribable(f"its logits have the shape {shape}: expected [rows, …] with known sizes")
    gumbel = -tf.math.log(-tf.math.log(noise.uniform(tuple(shape[1:].as_list()))))
    return tf.argmax(logits + tf.cast(gumbel, logits.dtype), axis=-1, output_type=tf.int32)


def _sample_categorical(d: Any, noise: NoiseSource) -> tf.Tensor:
    return tf.cast(_choice(d.logits_parameter(), noise), d.dtype)


def _sample_shifted(d: Any, noise: NoiseSource) -> tf.Tensor:
    return _sample_categorical(d, noise) + tf.cast(d.parameters["shift"], d.dtype)


def _sample_one_hot(d: Any, noise: NoiseSource) -> tf.Tensor:
    logits = d.logits_parameter()
    return tf.one_hot(_choice(logits, noise), logits.shape[-1], dtype=d.dtype)


def _sample_bernoulli(d: Any, noise: NoiseSource) -> tf.Tensor:
    return tf.cast(noise.uniform(_row_shape(d)) < tf.cast(d.probs_parameter(), tf.float32), d.dtype)


# Continuous families


def _normal(d: Any) -> tuple[str, Tensors, dict[str, Any]]:
    return "normal", {"loc": d.mean(), "scale": d.stddev()}, {}


def _diagonal(d: Any) -> tuple[str, Tensors, dict[str, Any]]:
    return "multivariate_normal_diag", {"loc": d.mean(), "scale_diag": d.stddev()}, {}


def _full(d: Any) -> tuple[str, Tensors, dict[str, Any]]:
    if isinstance(d.scale, tf.linalg.LinearOperatorLowerTriangular):
        factor = d.scale.to_dense()
    else:
        factor = tf.linalg.cholesky(d.covariance())
    size = d.event_shape_tensor()
    shape = tf.concat([d.batch_shape_tensor(), size, size], 0)
    return "multivariate_normal_tril", {"loc": d.mean(), "scale_tril": tf.broadcast_to(factor, shape)}, {}


def _squashed(d: Any) -> tuple[str, Tensors, dict[str, Any]]:
    base = d.input_distribution
    like = tf.zeros_like(base.mean())
    parameters = {
        "loc": base.mean(),
        "scale_diag": base.stddev(),
        "low": like + (d.action_means - d.action_magnitudes),
        "high": like + (d.action_means + d.action_magnitudes),
    }
    return "squashed_normal", parameters, {}


def _beta(d: Any) -> tuple[str, Tensors, dict[str, Any]]:
    shape = d.batch_shape_tensor()
    names = ("concentration1", "concentration0")
    return "beta", {name: tf.broadcast_to(getattr(d, name), shape) for name in names}, {}


def _deterministic(d: Any) -> tuple[str, Tensors, dict[str, Any]]:
    shape = tf.concat([d.batch_shape_tensor(), d.event_shape_tensor()], 0)
    return "deterministic", {"loc": tf.broadcast_to(d.loc, shape)}, {}


def _sample_normal(d: Any, noise: NoiseSource) -> tf.Tensor:
    return d.mean() + d.stddev() * tf.cast(noise.normal(_row_shape(d)), d.dtype)


def _sample_full(d: Any, noise: NoiseSource) -> tf.Tensor:
    standard = tf.cast(noise.normal(_row_shape(d)), d.dtype)
    return d.mean() + d.scale.matvec(standard)


def _sample_gamma(d: Any, noise: NoiseSource) -> tf.Tensor:
    log_rate = tf.math.log(d.rate) if d.log_rate is None else d.log_rate
    return tf.cast(tf.exp(log_gamma(d.concentration, _row_shape(d), noise) - tf.cast(log_rate, tf.float32)), d.dtype)


def _sample_beta(d: Any, noise: NoiseSource) -> tf.Tensor:
    one, other = (log_gamma(c, _row_shape(d), noise) for c in (d.concentration1, d.concentration0))
    return tf.cast(tf.sigmoid(one - other), d.dtype)


def _sample_dirichlet(d: Any, noise: NoiseSource) -> tf.Tensor:
    return tf.cast(tf.nn.softmax(log_gamma(d.concentration, _row_shape(d), noise)), d.dtype)


def _sample_squashed(d: Any, noise: NoiseSource) -> tf.Tensor:
    # By its own bijector: TFP then caches the value before tanh, and log_prob need not invert it.
    return d._squashed_distribution.bijector.forward(sample(d.input_distribution, noise))


def _sample_deterministic(d: Any, _: NoiseSource) -> tf.Tensor:
    return _deterministic(d)[1]["loc"]


def _no_form(d: Any) -> tuple[str, Tensors, dict[str, Any]]:
    raise NotDescribable(f"{type(d).__name__} is a family without a flat form")


def _no_sample(d: Any, _: NoiseSource) -> tf.Tensor:
    raise NotDescribable(f"{type(d).__name__} cannot be sampled from given noise")


# Families made of others


def _independent(d: Any) -> tuple[str, Tensors, dict[str, Any]]:
    return _family(d.distribution).describe(d.distribution)


def _transformed(d: Any) -> tuple[str, Tensors, dict[str, Any]]:
    base, parameters, details = _family(d.distribution).describe(d.distribution)
    bijectors = []
    named = {f"base/{name}": tensor for name, tensor in parameters.items()}
    for index, bijector in enumerate(in_order(d.bijector)):
        if not is_plain(bijector):
            raise NotDescribable(f"the bijector {type(bijector).__name__} has no flat form")
        bijectors.append(name_of(bijector))
        for name in ("shift", "scale", "low", "high"):
            value = bijector.parameters.get(name)
            if value is not None and not hasattr(value, "matvec"):
                rows = tf.concat([d.batch_shape_tensor(), d.event_shape_tensor()], 0)
                named[f"bijector/{index}/{name}"] = tf.broadcast_to(tf.cast(value, d.dtype), rows)
    return "transformed", named, {"base": {"family": base, **details}, "bijectors": bijectors}


def _mixture(d: Any) -> tuple[str, Tensors, dict[str, Any]]:
    """One component distribution whose last batch dimension counts the components."""
    family, parameters, details = _family(d.components_distribution).describe(d.components_distribution)
    mixture = {f"mixture/{name}": tensor for name, tensor in _logits(d.mixture_distribution).items()}
    # The weights may be shared by all rows.
    mixture = {name: tf.broadcast_to(t, _weights_shape(d, t)) for name, t in mixture.items()}
    components = {f"components/{name}": tensor for name, tensor in parameters.items()}
    return "mixture", mixture | components, {"components": {"family": family, **details}}


def _mixture_of_several(d: Any) -> tuple[str, Tensors, dict[str, Any]]:
    """A list of component distributions."""
    parameters = {f"mixture/{name}": tensor for name, tensor in _logits(d.cat).items()}
    families = []
    for index, component in enumerate(d.components):
        family, inner, details = _family(component).describe(component)
        families.append({"family": family, **details})
        parameters |= {f"components/{index}/{name}": tensor for name, tensor in inner.items()}
    return "mixture", parameters, {"components": families}


def _weights_shape(d: Any, weights: tf.Tensor) -> tf.Tensor:
    return tf.concat([d.batch_shape_tensor(), tf.shape(weights)[-1:]], 0)


def _sample_independent(d: Any, noise: NoiseSource) -> tf.Tensor:
    return sample(d.distribution, noise)


def _sample_transformed(d: Any, noise: NoiseSource) -> tf.Tensor:
    return d.bijector.forward(sample(d.distribution, noise))


def _sample_mixture(d: Any, noise: NoiseSource) -> tf.Tensor:
    weights = d.mixture_distribution.logits_parameter()
    samples = sample(d.components_distribution, noise)
    count = d.components_distribution.batch_shape[-1]
    return _chosen(d, tf.ensure_shape(weights, [*weights.shape[:-1], count]), samples, noise)


def _sample_mixture_of_several(d: Any, noise: NoiseSource) -> tf.Tensor:
    samples = tf.stack([sample(component, noise) for component in d.components], d.batch_shape.rank)
    return _chosen(d, d.cat.logits_parameter(), samples, noise)


def _chosen(d: Any, weights: tf.Tensor, samples: tf.Tensor, noise: NoiseSource) -> tf.Tensor:
    """One of the components' samples [rows, …, component, event…], by their weights."""
    weights = tf.broadcast_to(weights, _weights_shape(d, weights))
    weights = tf.ensure_shape(weights, [*d.batch_shape, weights.shape[-1]])
    chosen = _choice(weights, noise)
    return tf.gather(samples, chosen, axis=d.batch_shape.rank, batch_dims=d.batch_shape.rank)


# The first that fits counts: subclasses stand before their bases.
_FAMILIES = (
    _Family(tfd.RelaxedOneHotCategorical, _no_form, _no_sample),  # TF-Agents rounds its samples to one-hot ones
    _Family("tf_agents.distributions.shifted_categorical.ShiftedCategorical", _shifted, _sample_shifted),
    _Family("tf_agents.distributions.masked.MaskedCategorical", _masked, _sample_categorical),
    _Family("tf_agents.distributions.utils.SquashToSpecNormal", _squashed, _sample_squashed),
    _Family(tfd.Categorical, _discrete("categorical"), _sample_categorical),
    _Family(tfd.OneHotCategorical, _discrete("one_hot_categorical"), _sample_one_hot),
    _Family(tfd.Bernoulli, _discrete("bernoulli"), _sample_bernoulli),
    _Family(tfd.MultivariateNormalDiag, _diagonal, _sample_normal),
    _Family(tfd.MultivariateNormalLinearOperator, _full, _sample_full),
    _Family(tfd.Normal, _normal, _sample_normal),
    _Family(tfd.Beta, _beta, _sample_beta),
    _Family(tfd.Gamma, _no_form, _sample_gamma),
    _Family(tfd.Dirichlet, _no_form, _sample_dirichlet),
    _Family(tfd.Deterministic, _deterministic, _sample_deterministic),
    _Family(tfd.VectorDeterministic, _deterministic, _sample_deterministic),
    _Family(tfd.Independent, _independent, _sample_independent),
    _Family(tfd.MixtureSameFamily, _mixture, _sample_mixture),
    _Family(tfd.Mixture, _mixture_of_several, _sample_mixture_of_several),
    _Family(tfd.TransformedDistribution, _transformed, _sample_transformed),
)
