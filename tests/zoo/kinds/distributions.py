"""Policies that return each family of TFP's distributions, with parameters that depend on weights and observation."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp
from tf_agents.distributions import gumbel_softmax, masked, shifted_categorical
from tf_agents.policies import tf_policy
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import policy_step

from tests.zoo.kind import MASKED_TIME_STEP, TIME_STEP, Kind

tfd, tfb = tfp.distributions, tfp.bijectors

PAIR = tf.TensorSpec([2], tf.float32, "action")
ONE = tf.TensorSpec([], tf.float32, "action")
UNIT = tensor_spec.BoundedTensorSpec([], tf.float32, 0.0, 1.0, "action")
BITS = tensor_spec.BoundedTensorSpec([2], tf.int32, 0, 1, "action")
BIT = tensor_spec.BoundedTensorSpec([], tf.int32, 0, 1, "action")
HOT = tensor_spec.BoundedTensorSpec([3], tf.int32, 0, 1, "action")
CATEGORY = tensor_spec.BoundedTensorSpec([], tf.int32, 0, 2, "action")
SHIFTED = tensor_spec.BoundedTensorSpec([2], tf.int32, 3, 5, "action")
COUNT = tensor_spec.BoundedTensorSpec([], tf.float32, 0.0, 50.0, "action")
SIMPLEX = tensor_spec.BoundedTensorSpec([3], tf.float32, 0.0, 1.0, "action")
TOGETHER = {"turn": tf.TensorSpec([], tf.float32, "turn"), "speed": tf.TensorSpec([2], tf.float32, "speed")}


class FamilyPolicy(tf_policy.TFPolicy):
    """`family` makes the distribution of [rows, n] features, which are linear in the observation."""

    def __init__(self, family: Callable[..., Any], action: Any, features: int, masked: bool = False) -> None:
        super().__init__(MASKED_TIME_STEP if masked else TIME_STEP, action)
        self._family = family
        self._weights = tf.Variable(tf.random.normal([4, features], stddev=0.5), name="weights")
        self._bias = tf.Variable(tf.random.normal([features], stddev=0.5), name="bias")

    def _variables(self) -> list[tf.Variable]:
        return [self._weights, self._bias]

    def _distribution(self, time_step: Any, policy_state: Any) -> Any:
        observation, rest = time_step.observation, ()
        if isinstance(observation, dict):
            observation, rest = observation["board"], (observation["mask"],)
        features = tf.tanh(tf.matmul(observation, self._weights) + self._bias)
        return policy_step.PolicyStep(self._family(features, *rest), policy_state)


def _scale(x: tf.Tensor) -> tf.Tensor:
    return tf.exp(0.5 * x)


def _tril(x: tf.Tensor) -> tf.Tensor:
    return tfb.FillScaleTriL(diag_shift=0.1)(x)


def _tanh_of_normal(x: tf.Tensor) -> Any:
    return tfd.TransformedDistribution(tfd.Normal(x[:, :2], _scale(x[:, 2:])), tfb.Tanh())


def _chain(x: tf.Tensor) -> Any:
    """Squashed, scaled and shifted, as actors squash to their bounds."""
    bijector = tfb.Chain([tfb.Shift([1.0, -1.0]), tfb.Scale([2.0, 0.5]), tfb.Tanh()])
    return tfd.TransformedDistribution(tfd.MultivariateNormalDiag(x[:, :2], _scale(x[:, 2:])), bijector)


def _normals(x: tf.Tensor) -> Any:
    """Three normals for each row, picked by weights."""
    return tfd.MixtureSameFamily(
        tfd.Categorical(logits=2 * x[:, :3]), tfd.Normal(3 * x[:, 3:6], 0.3 * _scale(x[:, 6:9]))
    )


def _diagonals(x: tf.Tensor) -> Any:
    parts = tfd.MultivariateNormalDiag(
        tf.reshape(3 * x[:, 2:6], [-1, 2, 2]), 0.3 * _scale(tf.reshape(x[:, 6:10], [-1, 2, 2]))
    )
    return tfd.MixtureSameFamily(tfd.Categorical(logits=2 * x[:, :2]), parts)


def _different(x: tf.Tensor) -> Any:
    """A mixture of two families."""
    parts = [tfd.Normal(2 * x[:, 2], 0.2), tfd.Laplace(x[:, 3], 0.5)]
    return tfd.Mixture(tfd.Categorical(logits=x[:, :2]), parts)


def _together(x: tf.Tensor) -> Any:
    return {"turn": tfd.Normal(x[:, 0], 0.3), "speed": tfd.MultivariateNormalDiag(x[:, 1:3], _scale(x[:, 3:5]))}


def _blockwise(x: tf.Tensor) -> Any:
    return tfd.Blockwise(
        [tfd.Independent(tfd.Normal(x[:, :1], 0.3), 1), tfd.Independent(tfd.Normal(x[:, 1:2], 1.0), 1)]
    )


# Name, phrase, family, action spec, number of features, more arguments of Kind.
_FAMILIES: list[tuple[str, str, Callable[..., Any], Any, int]] = [
    ("bernoulli", "Bernoulli", lambda x: tfd.Bernoulli(logits=x[:, 0], dtype=tf.int32), BIT, 1),
    (
        "bernoullis",
        "Independent(Bernoulli)",
        lambda x: tfd.Independent(tfd.Bernoulli(logits=x, dtype=tf.int32), 1),
        BITS,
        2,
    ),
    (
        "categorical",
        "Categorical, by probabilities",
        lambda x: tfd.Categorical(probs=tf.nn.softmax(2 * x)),
        CATEGORY,
        3,
    ),
    ("one-hot", "OneHotCategorical", lambda x: tfd.OneHotCategorical(logits=2 * x), HOT, 3),
    (
        "shifted-categoricals",
        "Independent(ShiftedCategorical)",
        lambda x: tfd.Independent(
            shifted_categorical.ShiftedCategorical(logits=tf.reshape(2 * x, [-1, 2, 3]), dtype=tf.int32, shift=[3, 3]),
            1,
        ),
        SHIFTED,
        6,
    ),
    ("normal", "Normal", lambda x: tfd.Normal(x[:, 0], _scale(x[:, 1])), ONE, 2),
    ("normals", "Independent(Normal)", lambda x: tfd.Independent(tfd.Normal(x[:, :2], _scale(x[:, 2:])), 1), PAIR, 4),
    ("normal-broadcast", "Normal, one deviation for all rows", lambda x: tfd.Normal(x, [0.5, 2.0]), PAIR, 2),
    (
        "normal-diag",
        "MultivariateNormalDiag",
        lambda x: tfd.MultivariateNormalDiag(x[:, :2], _scale(x[:, 2:])),
        PAIR,
        4,
    ),
    ("normal-tril", "MultivariateNormalTriL", lambda x: tfd.MultivariateNormalTriL(x[:, :2], _tril(x[:, 2:])), PAIR, 5),
    ("tanh-normal", "TransformedDistribution: tanh of a Normal", _tanh_of_normal, PAIR, 4),
    ("chain", "TransformedDistribution: shift, scale and tanh of a MultivariateNormalDiag", _chain, PAIR, 4),
    (
        "affine",
        "TransformedDistribution: shift and scale of a Normal",
        lambda x: tfd.TransformedDistribution(tfd.Normal(x[:, 0], 1.0), tfb.Shift(2.0)(tfb.Scale(3.0))),
        ONE,
        1,
    ),
    ("log-normal", "LogNormal", lambda x: tfd.LogNormal(x[:, 0], 0.5), ONE, 1),
    ("mixture-of-normals", "MixtureSameFamily of Normals", _normals, ONE, 9),
    ("mixture-of-diags", "MixtureSameFamily of MultivariateNormalDiags", _diagonals, PAIR, 10),
    ("mixture", "Mixture of a Normal and a Laplace", _different, ONE, 4),
    ("deterministic", "Deterministic", lambda x: tfd.Deterministic(x), PAIR, 2),
    ("vector-deterministic", "VectorDeterministic", lambda x: tfd.VectorDeterministic(x), PAIR, 2),
    ("beta", "Beta", lambda x: tfd.Beta(3 * _scale(x[:, 0]), 2 * _scale(x[:, 1])), UNIT, 2),
    ("gamma", "Gamma", lambda x: tfd.Gamma(3 * _scale(x[:, 0]), _scale(x[:, 1])), ONE, 2),
    ("uniform", "Uniform", lambda x: tfd.Uniform(x[:, 0] - 1.0, x[:, 0] + 1.5), ONE, 1),
    ("truncated-normal", "TruncatedNormal", lambda x: tfd.TruncatedNormal(x[:, 0], 1.0, -1.0, 1.0), ONE, 1),
    ("poisson", "Poisson, counts as floats", lambda x: tfd.Poisson(4 * _scale(x[:, 0])), COUNT, 1),
    ("dirichlet", "Dirichlet", lambda x: tfd.Dirichlet(3 * _scale(x)), SIMPLEX, 3),
    (
        "gumbel-softmax",
        "GumbelSoftmax, whose samples are one-hot",
        lambda x: gumbel_softmax.GumbelSoftmax(0.5, logits=2 * x, dtype=tf.int32),
        HOT,
        3,
    ),
    ("nest", "a distribution for each leaf of a nest", _together, TOGETHER, 5),
    ("blockwise", "Blockwise", _blockwise, PAIR, 2),
]


def _made(family: Callable[..., Any], action: Any, features: int) -> Callable[[], tf_policy.TFPolicy]:
    return lambda: FamilyPolicy(family, action, features)


KINDS = [
    Kind(
        f"family-{name}",
        "Distributions",
        describe,
        _made(family, action, features),
        stochastic="deterministic" not in name,
    )
    for name, describe, family, action, features in _FAMILIES
]
KINDS.append(
    Kind(
        "family-masked",
        "Distributions",
        "MaskedCategorical",
        lambda: FamilyPolicy(lambda x, mask: masked.MaskedCategorical(2 * x, mask), CATEGORY, 3, masked=True),
        stochastic=True,
    )
)
