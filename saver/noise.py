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
from saver.distribution_types import NotDescribable, Tensors
from saver.distributions import sample

tfd = tfp.distributions
# From 23 bits: each of so many integers has its share up to a few parts in ten thousand.
_MOST_INTEGERS = 1024


class Counting:
    """A source of noise that counts how many numbers of each kind a row needs. `rows`: their number, None for any."""

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
    """A source of noise that deals out the columns of its inputs, from left to right. `drawn`: (distribution, draw)."""

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
        start = self._used[kind]
        self._used[kind] = end = start + math.prod(shape)
        rows = -1 if self.rows is None else self.rows
        return tf.reshape(self._tensors[kind][:, start:end], [rows, *shape])


@contextlib.contextmanager
def drawing_from(noise: Counting | Given) -> Iterator[None]:
    """Lets TF-Agents' policies draw from `noise` while they are traced.

    They sample their distributions by one function of the library; what explores besides (epsilon-greedy, random and
    mixed policies) samples distributions of its own, or takes uniform numbers. Other threads, which may be collecting
    experience meanwhile, draw as ever. Only draws in the graph that is traced now are served: one in a loop would get
    the same noise at each pass, and one in a function of the policy's own would stay there for good.
    """
    draws = _Draws(noise)
    with contextlib.ExitStack() as patches:
        patches.enter_context(_ONE_AT_A_TIME)
        patches.enter_context(draws.instead_of(reparameterized_sampling, "sample", draws.policys_sample))
        patches.enter_context(draws.instead_of(tfd.Distribution, "sample", draws.any_sample))
        patches.enter_context(draws.instead_of(tf.random, "uniform", draws.uniform))
        yield


class _Draws:
    """Draws from given noise, for one thread and in one graph: those in which it is made."""

    def __init__(self, noise: Counting | Given) -> None:
        self._noise = noise
        self._thread = threading.get_ident()
        self._graph = tf.compat.v1.get_default_graph()

    @contextlib.contextmanager
    def instead_of(self, owner: Any, name: str, draw: Callable[..., tf.Tensor]) -> Iterator[None]:
        """Replaces `owner.name` for the whole process by `draw`, and by itself again at the end.

        Calls from other threads, and those that cannot be served, go to what was there before.
        """
        own = getattr(owner, name)

        def replacement(*args: Any, **kwargs: Any) -> tf.Tensor:
            drawn = self._served(draw, *args, **kwargs) if threading.get_ident() == self._thread else None
            return own(*args, **kwargs) if drawn is None else drawn

        setattr(owner, name, replacement)
        try:
            yield
        finally:
            setattr(owner, name, own)

    def policys_sample(self, distribution: Any, *_: Any, **__: Any) -> tf.Tensor:
        """Stands for `reparameterized_sampling.sample`, by which policies draw their action."""
        drawn = sample(distribution, self._noise)
        self._noise.drawn.append((distribution, drawn))
        return drawn

    def any_sample(self, distribution: Any, sample_shape: Any = (), *_: Any, **__: Any) -> tf.Tensor:
        """Stands for `tfd.Distribution.sample`."""
        return sample(_with_rows(distribution, sample_shape, self._noise.rows), self._noise)

    def uniform(
        self, shape: Any, minval: Any = 0, maxval: Any = None, dtype: Any = tf.float32, *_: Any, **__: Any
    ) -> tf.Tensor:
        """Stands for `tf.random.uniform`."""
        return _uniform(self._noise, shape, minval, maxval, tf.as_dtype(dtype))

    def _served(self, draw: Callable[..., tf.Tensor], *args: Any, **kwargs: Any) -> tf.Tensor | None:
        """A draw from the noise; None where it is refused, or another one has been: then nothing comes of the trace."""
        if self._noise.refusal is not None:
            return None
        if tf.compat.v1.get_default_graph() is not self._graph:
            self._noise.refusal = "the policy draws inside a loop, a branch or a function of its own"
            return None
        try:
            return draw(*args, **kwargs)
        except NotDescribable as error:
            # Noted, and not raised: an exception in a loop of TensorFlow's would leave its variable scope in disorder.
            self._noise.refusal = str(error)
            return None


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
