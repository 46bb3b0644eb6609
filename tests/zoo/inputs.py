"""The specs of a policy in, observations (and all else that `action` takes) that are valid for them out."""

from typing import Any

import numpy as np
import tensorflow as tf
from tf_agents.policies import tf_policy
from tf_agents.trajectories import time_step as ts

from tests.zoo.kinds.observations import VOCABULARY

WORDS = (*VOCABULARY, "elsewhere")  # one that no table knows


def observations(policy: tf_policy.TFPolicy, rows: int, seed: int) -> tuple[ts.TimeStep, Any]:
    """A batched time step, of all step types, and a policy state: within bounds, the rows distinct."""
    generator = np.random.default_rng(seed)
    time_step = values(policy.time_step_spec, rows, generator)
    step_type = generator.integers(0, 3, rows).astype(np.int32)
    return time_step._replace(step_type=step_type), values(policy.policy_state_spec, rows, generator)


def values(spec: Any, rows: int, generator: np.random.Generator) -> Any:
    """The nest of arrays [rows, …] for a nest of specs."""
    return tf.nest.map_structure(lambda leaf: _leaf(leaf, rows, generator), spec)


def repeated(nest: Any, row: int, rows: int) -> Any:
    """One row of the nest so many times."""
    return tf.nest.map_structure(lambda leaf: np.repeat(leaf[row : row + 1], rows, axis=0), nest)


def _leaf(spec: tf.TensorSpec, rows: int, generator: np.random.Generator) -> np.ndarray:
    shape = [rows, *spec.shape]
    if spec.name == "mask":
        allowed = generator.integers(0, 2, shape)
        allowed[np.arange(rows), generator.integers(0, shape[-1], rows)] = 1
        return allowed.astype(spec.dtype.as_numpy_dtype)
    if spec.dtype == tf.string:
        return generator.choice(np.array(WORDS, object), shape)
    if spec.dtype == tf.bool:
        return generator.integers(0, 2, shape).astype(bool)
    return _numbers(spec, shape, generator).astype(spec.dtype.as_numpy_dtype)


def _numbers(spec: tf.TensorSpec, shape: list[int], generator: np.random.Generator) -> np.ndarray:
    low, high = getattr(spec, "minimum", None), getattr(spec, "maximum", None)
    if spec.dtype.is_integer:
        return generator.integers(0 if low is None else low, 9 if high is None else high, shape, endpoint=True)
    if low is None or not np.all(np.isfinite(np.subtract(high, low, dtype=np.float64))):
        return generator.normal(size=shape)
    return low + (high - low) * generator.uniform(size=shape)
