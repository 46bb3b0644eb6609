"""The types of describing and sampling distributions: flat distributions, sources of noise, what has no form."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import tensorflow as tf

Tensors = dict[str, tf.Tensor]


class NotDescribable(Exception):
    """A distribution without the form that was asked for; the message says which and why."""


@dataclass(frozen=True)
class FlatDistribution:
    """`family` in lower case with underscores; `parameters` and `statistics` are [rows, …] tensors by name.

    `entropy` is in nats, one number per row, summed over the independent parts of a row. `details` is what else
    makes the family (the base and the bijectors of a transformed one, the components of a mixture), as JSON.
    """

    family: str
    parameters: Tensors
    statistics: Tensors
    details: dict[str, Any] = field(default_factory=dict)


class NoiseSource(Protocol):
    """The randomness of samples: [rows, *shape] tensors, float32, never the same numbers twice."""

    def uniform(self, shape: tuple[int, ...]) -> tf.Tensor:
        """Numbers of the open interval (0, 1)."""

    def normal(self, shape: tuple[int, ...]) -> tf.Tensor:
        """Numbers of the standard normal distribution."""
