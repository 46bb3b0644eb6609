"""Noise as an input: what a policy draws while it is traced comes from tensors that are given."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf
from tf_agents.distributions import reparameterized_sampling

from saver.artifact import NOISE_NORMAL, NOISE_UNIFORM
from saver.distributions import NotDescribable, sample

Tensors = dict[str, tf.Tensor]


class Counting:
    """Noise that counts how many numbers of each kind a row needs."""

    def __init__(self) -> None:
        self.sizes = {NOISE_UNIFORM: 0, NOISE_NORMAL: 0}
        self.drawn: list[tuple[Any, tf.Tensor]] = []
        self.refusal: str | None = None

    def uniform(self, shape: tuple[int, ...]) -> tf.Tensor:
        """See `NoiseSource`."""
        return self._count(NOISE_UNIFORM, shape)

    def normal(self, shape: tuple[int, ...]) -> tf.Tensor:
        """See `NoiseSource`."""
        return self._count(NOISE_NORMAL, shape)

    def _count(self, kind: str, shape: tuple[int, ...]) -> tf.Tensor:
        self.sizes[kind] += math.prod(shape)
        return tf.fill([1, *shape], 0.5)  # one row stands for any number of them


class Given:
    """Noise that deals out the columns of its inputs, from left to right; `drawn` remembers who drew what."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors
        self._used = dict.fromkeys(tensors, 0)
        self.drawn: list[tuple[Any, tf.Tensor]] = []
        self.refusal: str | None = None

    def uniform(self, shape: tuple[int, ...]) -> tf.Tensor:
        """See `NoiseSource`."""
        # Safe against 0 and 1, whose logarithms are infinite.
        return tf.clip_by_value(self._take(NOISE_UNIFORM, shape), 2.0**-24, 1.0 - 2.0**-24)

    def normal(self, shape: tuple[int, ...]) -> tf.Tensor:
        """See `NoiseSource`."""
        return self._take(NOISE_NORMAL, shape)

    def _take(self, kind: str, shape: tuple[int, ...]) -> tf.Tensor:
        begin = self._used[kind]
        self._used[kind] = end = begin + math.prod(shape)
        return tf.reshape(self._tensors[kind][:, begin:end], [-1, *shape])


@contextlib.contextmanager
def drawing_from(noise: Counting | Given) -> Iterator[None]:
    """Lets TF-Agents' policies draw their samples from `noise` while they are traced.

    Every policy of the library that samples its distribution does so by this one function. Other threads, which may
    be collecting experience meanwhile, draw as ever. Only draws in the graph that is traced now are served: one in a
    loop would get the same noise at each pass, and one in a function of the policy's own would stay there for good.
    """
    here, graph = threading.get_ident(), tf.compat.v1.get_default_graph()

    def from_noise(distribution: Any, *args: Any, **kwargs: Any) -> tf.Tensor:
        if threading.get_ident() != here:
            return original(distribution, *args, **kwargs)
        if tf.compat.v1.get_default_graph() is not graph:
            noise.refusal = "the policy draws inside a loop, a branch or a function of its own"
        else:
            try:
                drawn = sample(distribution, noise)
            except NotDescribable as error:
                noise.refusal = str(error)
            else:
                noise.drawn.append((distribution, drawn))
                return drawn
        # Noted, and not raised: an exception in a loop of TensorFlow's would leave its variable scope in disorder.
        return original(distribution, *args, **kwargs)

    with _ONE_AT_A_TIME:
        original = reparameterized_sampling.sample
        reparameterized_sampling.sample = from_noise
        try:
            yield
        finally:
            reparameterized_sampling.sample = original


_ONE_AT_A_TIME = threading.Lock()

# What clipping to a spec makes of an action.
_CLIPPING = ("Identity", "Minimum", "Maximum", "ClipByValue")


def unclipped(action: tf.Tensor, drawn: Sequence[tuple[Any, tf.Tensor]]) -> tuple[Any, tf.Tensor] | None:
    """The (distribution, draw) that `action` is, but for clipping; None if it is something else."""
    tensor = action
    while True:
        for pair in drawn:
            if pair[1] is tensor:
                return pair
        if tensor.op.type not in _CLIPPING:
            return None
        tensor = tensor.op.inputs[0]
