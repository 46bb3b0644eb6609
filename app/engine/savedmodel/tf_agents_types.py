"""TF-Agents' own distributions, for exports whose function `distribution` returns them; no TF-Agents is needed for it.

TensorFlow finds the class of such a value by the name under which its TypeSpec is registered: module and name of the
class in TF-Agents. The classes here have those names, take what the TypeSpecs hold, and compute what TF-Agents' compute
(version 0.19.0, Apache-2.0; each says where). Where TF-Agents has been imported before, its own stay.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

_registered: list[type] = []


def register() -> None:
    """Registers the types, once; importing TF-Agents afterwards puts its own in their place."""
    if "tf_agents" not in sys.modules and not _registered:
        _registered.extend(make() for make in _MAKERS)


def _takes(*names: str) -> Callable[[Any], Any]:
    """Says what an `__init__` with `**options` takes: TFP reads in its signature what makes an instance."""

    def with_signature(init: Any) -> Any:
        first = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
        named = (inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names)
        init.__signature__ = inspect.Signature([first, *named])
        return init

    return with_signature


_COMMON = ("validate_args", "allow_nan_stats", "name")


# TFP registers a class as soon as it is made, by its `__module__`: each is made in a function.


def _shifted() -> type:
    class ShiftedCategorical(tfp.distributions.Categorical):
        """Categories that are counted from `shift` on (distributions/shifted_categorical.py)."""

        __module__ = "tf_agents.distributions.shifted_categorical"

        @_takes("logits", "probs", "dtype", "force_probs_to_zero_outside_support", "shift", *_COMMON)
        def __init__(self, logits: Any = None, probs: Any = None, shift: Any = None, **options: Any) -> None:
            self.shift = shift
            super().__init__(logits, probs, **options)

        @classmethod
        def _parameter_properties(cls, *args: Any, **kwargs: Any) -> Any:  # TFP warns where this is inherited
            return super()._parameter_properties(*args, **kwargs)

        def log_prob(self, value: Any, name: str = "log_prob", **_: Any) -> Any:
            return super().log_prob(value - self.shift, name)

        def mode(self, name: str = "mode", **_: Any) -> Any:
            return super().mode(name) + self.shift

        def sample(self, sample_shape: Any = (), seed: Any = None, name: str = "sample", **_: Any) -> Any:
            return super().sample(sample_shape, seed, name) + self.shift

        @property
        def parameters(self) -> dict[str, Any]:
            return {**super().parameters, "shift": self.shift}

    return ShiftedCategorical


def _masked() -> type:
    class MaskedCategorical(tfp.distributions.Categorical):
        """Categories of which `mask` allows some (distributions/masked.py); the others' logits become `neg_inf`."""

        __module__ = "tf_agents.distributions.masked"

        @_takes("logits", "mask", "probs", "dtype", "neg_inf", *_COMMON)
        def __init__(self, logits: Any, mask: Any, probs: Any = None, neg_inf: Any = -1e10, **options: Any) -> None:
            logits = tf.convert_to_tensor(logits)
            self.mask = tf.cast(mask, tf.bool)
            self.neg_inf = neg_inf
            forbidden = tf.cast(logits.dtype.min if neg_inf is None else neg_inf, logits.dtype)
            super().__init__(tf.where(self.mask, logits, forbidden), probs, **options)

        @classmethod
        def _parameter_properties(cls, *args: Any, **kwargs: Any) -> Any:  # TFP warns where this is inherited
            return super()._parameter_properties(*args, **kwargs)

        def _entropy(self) -> Any:
            terms = tf.nn.log_softmax(self.logits) * self.probs_parameter()
            return -tf.reduce_sum(tf.where(self.mask, terms, tf.zeros_like(terms)), -1)

        @property
        def parameters(self) -> dict[str, Any]:
            return {**super().parameters, "mask": self.mask}

    return MaskedCategorical


def _squashed() -> type:
    class SquashToSpecNormal(tfp.distributions.AutoCompositeTensorDistribution):
        """A normal distribution squashed by tanh into the bounds of `spec` (distributions/utils.py).

        It only describes: there is neither `sample` nor `log_prob`.
        """

        __module__ = "tf_agents.distributions.utils"

        def __init__(self, distribution: Any, spec: Any, validate_args: bool = False, name: str = "Squashed") -> None:
            parameters = dict(locals())
            self.input_distribution, self.spec = distribution, spec
            self.action_means = np.asarray((spec.maximum + spec.minimum) / 2.0, np.float32)
            self.action_magnitudes = np.asarray((spec.maximum - spec.minimum) / 2.0, np.float32)
            super().__init__(
                dtype=distribution.dtype,
                reparameterization_type=distribution.reparameterization_type,
                validate_args=validate_args,
                allow_nan_stats=distribution.allow_nan_stats,
                parameters=parameters,
                name=name,
            )

        @classmethod
        def _parameter_properties(cls, *_: Any, **__: Any) -> dict[str, Any]:
            return {"distribution": tfp.util.BatchedComponentProperties()}

        def mode(self, *_: Any, **__: Any) -> Any:
            return self.action_magnitudes * tf.tanh(self.input_distribution.mode()) + self.action_means

        def event_shape_tensor(self, name: str = "event_shape_tensor") -> Any:
            return self.input_distribution.event_shape_tensor(name)

    return SquashToSpecNormal


def _gumbel() -> type:
    class GumbelSoftmax(tfp.distributions.RelaxedOneHotCategorical):
        """A relaxed one-hot category (distributions/gumbel_softmax.py). It has no flat form: only its type counts."""

        __module__ = "tf_agents.distributions.gumbel_softmax"

        @_takes("temperature", "logits", "probs", "dtype", *_COMMON)
        def __init__(self, temperature: Any, logits: Any = None, probs: Any = None, **options: Any) -> None:
            options.pop("dtype", None)  # that of the one-hot form
            super().__init__(temperature, logits, probs, **options)

        @classmethod
        def _parameter_properties(cls, *args: Any, **kwargs: Any) -> Any:  # TFP warns where this is inherited
            return super()._parameter_properties(*args, **kwargs)

    return GumbelSoftmax


def _deterministic() -> type:
    class DeterministicWithLogProb(tfp.distributions.Deterministic):
        """One value, of any dtype (policies/greedy_policy.py)."""

        __module__ = "tf_agents.policies.greedy_policy"

        def _log_prob(self, x: Any) -> Any:
            return tf.math.log(tf.cast(self.prob(x), tf.float32))

    return DeterministicWithLogProb


_MAKERS: tuple[Callable[[], type], ...] = (_shifted, _masked, _squashed, _gumbel, _deterministic)
