"""Noise as an input: what a policy draws while it is traced comes from tensors that are given."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow.python.framework import tensor_util
from tf_agents.distributions import reparameterized_sampling

from saver.artifact import NOISE_NORMAL, NOISE_UNIFORM
from saver.distributions import NotDescribable, sample

tfd = tfp.distributions
Tensors = dict[str, tf.Tensor]
# From 23 bits: each of so many integers has its share up to a few parts in ten thousand.
_MOST_INTEGERS = 1024


class Counting:
    """Noise that counts how many numbers of each kind a row needs. `rows`: how many there are, None for any number."""

    def __init__(self, rows: int | None) -> None:
        self.rows = rows
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
        if self.rows is not None:
            return tf.fill([self.rows, *shape], 0.5)
        # One row stands for any number of them.
        return tf.compat.v1.placeholder_with_default(tf.fill([1, *shape], 0.5), [None, *shape])


class Given:
    """Noise that deals out the columns of its inputs, from left to right; `drawn` remembers who drew what."""

    def __init__(self, rows: int | None, tensors: Tensors) -> None:
        self.rows = rows
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
        rows = -1 if self.rows is None else self.rows
        return tf.reshape(self._tensors[kind][:, begin:end], [rows, *shape])


@contextlib.contextmanager
def drawing_from(noise: Counting | Given) -> Iterator[None]:
    """Lets TF-Agents' policies draw from `noise` while they are traced.

    They sample their distributions by one function of the library; what explores besides (epsilon-greedy, random and
    mixed policies) samples distributions of its own, or takes uniform numbers. Other threads, which may be collecting
    experience meanwhile, draw as ever. Only draws in the graph that is traced now are served: one in a loop would get
    the same noise at each pass, and one in a function of the policy's own would stay there for good.
    """
    here, graph = threading.get_ident(), tf.compat.v1.get_default_graph()

    def served(draw: Callable[[], tf.Tensor]) -> tf.Tensor | None:
        """A draw from the noise; None where it is refused, or another one has been: then nothing comes of the trace."""
        if noise.refusal is not None:
            return None
        if tf.compat.v1.get_default_graph() is not graph:
            noise.refusal = "the policy draws inside a loop, a branch or a function of its own"
            return None
        try:
            return draw()
        except NotDescribable as error:
            # Noted, and not raised: an exception in a loop of TensorFlow's would leave its variable scope in disorder.
            noise.refusal = str(error)
            return None

    def policys_sample(distribution: Any, *args: Any, **kwargs: Any) -> tf.Tensor:
        if threading.get_ident() == here:
            drawn = served(lambda: sample(distribution, noise))
            if drawn is not None:
                noise.drawn.append((distribution, drawn))
                return drawn
        return policys_own(distribution, *args, **kwargs)

    def any_sample(distribution: Any, sample_shape: Any = (), *args: Any, **kwargs: Any) -> tf.Tensor:
        if threading.get_ident() == here:
            drawn = served(lambda: sample(_with_rows(distribution, sample_shape, noise.rows), noise))
            if drawn is not None:
                return drawn
        return any_own(distribution, sample_shape, *args, **kwargs)

    def uniform(
        shape: Any, minval: Any = 0, maxval: Any = None, dtype: Any = tf.float32, *args: Any, **kwargs: Any
    ) -> tf.Tensor:
        if threading.get_ident() == here:
            drawn = served(lambda: _uniform(noise, shape, minval, maxval, tf.as_dtype(dtype)))
            if drawn is not None:
                return drawn
        return uniform_own(shape, minval, maxval, dtype, *args, **kwargs)

    with _ONE_AT_A_TIME:
        policys_own, any_own, uniform_own = reparameterized_sampling.sample, tfd.Distribution.sample, tf.random.uniform
        try:
            reparameterized_sampling.sample = policys_sample
            tfd.Distribution.sample = any_sample
            tf.random.uniform = uniform
            yield
        finally:
            reparameterized_sampling.sample = policys_own
            tfd.Distribution.sample = any_own
            tf.random.uniform = uniform_own


def _with_rows(distribution: Any, sample_shape: Any, rows: int | None) -> Any:
    """A distribution of which one sample has a row for each row of the inputs.

    Raises:
      NotDescribable: it is not known that a draw has its own numbers for each row.
    """
    kind = type(distribution)
    if "sample" in {name for base in kind.__mro__[:-1] if base is not tfd.Distribution for name in vars(base)}:
        raise NotDescribable(f"{kind.__name__} samples in its own way")
    shape = _static_shape(sample_shape)
    if shape == []:
        _check_rows(distribution.batch_shape, rows)
        return distribution
    if kind is not tfd.Categorical or len(shape) != 1 or distribution.batch_shape != []:
        raise NotDescribable(f"the policy draws several samples of a {kind.__name__} at once")
    _check_rows(shape, rows)
    logits = distribution.logits_parameter()
    count = tf.reshape(tf.cast(sample_shape, tf.int32), [1])
    logits = tf.ensure_shape(tf.broadcast_to(logits, tf.concat([count, tf.shape(logits)], 0)), [*shape, *logits.shape])
    return tfd.Categorical(logits=logits, dtype=distribution.dtype)


def _uniform(noise: Counting | Given, shape: Any, low: Any, high: Any, dtype: tf.DType) -> tf.Tensor:
    """As `tf.random.uniform`: integers from `low` to below `high`, or floats, for which `high` may be left out."""
    static = _static_shape(shape)
    _check_rows(static, noise.rows)
    sizes = tuple(size for size in static[1:] if size is not None)
    if len(sizes) < len(static) - 1:
        raise NotDescribable(f"the policy draws numbers of the shape {static}: expected [rows, …] with known sizes")
    numbers = noise.uniform(sizes)
    if dtype.is_floating:
        low, high = tf.cast(low, dtype), tf.cast(1 if high is None else high, dtype)
        return low + tf.cast(numbers, dtype) * (high - low)
    first, end = tf.get_static_value(low), tf.get_static_value(high) if high is not None else None
    if first is None or end is None or not 0 < int(end) - int(first) <= _MOST_INTEGERS:
        raise NotDescribable(
            f"the policy draws integers between bounds that are not known, or over {_MOST_INTEGERS} apart"
        )
    most = int(end) - int(first) - 1
    return tf.cast(low, dtype) + tf.minimum(tf.cast(numbers * (most + 1.0), dtype), most)


def _static_shape(shape: Any) -> list[int | None]:
    """As much as is known of a shape, or of one size, while its graph is traced."""
    sizes = tf.convert_to_tensor(shape, dtype_hint=tf.int32)
    known = tensor_util.constant_value_as_shape(tf.stack([sizes]) if sizes.shape == [] else sizes)
    return [None] if known.rank is None else list(known.as_list())


def _check_rows(shape: Any, rows: int | None) -> None:
    """Raises NotDescribable unless the first dimension is the rows."""
    shape = tf.TensorShape(shape)
    if not shape.rank or shape[0] != rows:
        raise NotDescribable("the policy draws the same numbers for all rows of a call")


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
