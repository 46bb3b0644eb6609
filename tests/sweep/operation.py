"""What the sweep knows of one TensorFlow operation, and the policy whose action is its result."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf
from tf_agents.policies import tf_policy
from tf_agents.trajectories import policy_step
from tf_agents.trajectories import time_step as ts

Compute = Callable[..., Any]


@dataclass(frozen=True)
class Operation:
    """One operation, or one of its dtypes or attributes that engines treat in another way.

    `compute` takes the tensors of `inputs` by their names, [rows, …], and returns one tensor or a dict of tensors, of
    any dtype, [rows, …]. `values`: what is asked in place of the values that an input of its dtype gets otherwise
    (see values.py), [n, …] of any n. `variables`: what it reads, for the policy to hold.
    """

    name: str
    group: str
    compute: Compute
    inputs: Mapping[str, tf.TensorSpec]
    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    variables: Any = None


def one(dtype: Any = tf.float32, shape: tuple[int, ...] = (4,)) -> dict[str, tf.TensorSpec]:
    """One input, `x`."""
    return {"x": tf.TensorSpec(shape, dtype, "x")}


def two(dtype: Any = tf.float32, shape: tuple[int, ...] = (4,)) -> dict[str, tf.TensorSpec]:
    """Two inputs, `x` and `y`, of one shape."""
    return {name: tf.TensorSpec(shape, dtype, name) for name in ("x", "y")}


def three(dtype: Any = tf.float32, shape: tuple[int, ...] = (4,)) -> dict[str, tf.TensorSpec]:
    """Three inputs of one shape: `x`, `y` and `z`."""
    return {name: tf.TensorSpec(shape, dtype, name) for name in ("x", "y", "z")}


class OperationPolicy(tf_policy.TFPolicy):
    """Its action is the result of an operation on its observation.

    It has a variable, as policies do, which no result depends on: checkpoints hold something.
    """

    def __init__(self, operation: Operation) -> None:
        self._compute = operation.compute
        self._read = operation.variables
        self._unused = tf.Variable(1.0)
        observation = dict(operation.inputs)
        asked = {name: _any(spec) for name, spec in observation.items()}
        action = tf.nest.map_structure(lambda t: tf.TensorSpec(t.shape[1:], t.dtype), self._results(asked))
        super().__init__(ts.time_step_spec(observation), action, automatic_state_reset=False)

    def _variables(self) -> list[tf.Variable]:
        return [self._unused]

    def _action(self, time_step: Any, policy_state: Any, seed: Any = None) -> Any:
        return policy_step.PolicyStep(self._results(time_step.observation), policy_state)

    def _results(self, observation: Mapping[str, tf.Tensor]) -> Any:
        return tf.nest.map_structure(_as_action, self._compute(**observation))


def _any(spec: tf.TensorSpec) -> tf.Tensor:
    """Two rows."""
    return tf.fill([2, *spec.shape], b"a") if spec.dtype == tf.string else tf.ones([2, *spec.shape], spec.dtype)


def _as_action(tensor: tf.Tensor) -> tf.Tensor:
    """Complex numbers as pairs of floats, which an action can be."""
    if tensor.dtype.is_complex:
        return tf.stack([tf.math.real(tensor), tf.math.imag(tensor)], -1)
    return tensor
