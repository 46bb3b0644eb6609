"""A number of units → a policy's export, and checkpoints of it with other weights. The only file with TensorFlow."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
from tf_agents.networks import q_network
from tf_agents.policies import greedy_policy, q_policy
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import time_step

from saver import PolicySaver

_STEPS = 100


class Trainer:
    """A greedy Q policy of four floats and two actions, whose weights and train step move with every checkpoint."""

    def __init__(self, units: tuple[int, ...]) -> None:
        observation = tensor_spec.BoundedTensorSpec((4,), tf.float32, -1.0, 1.0, "observation")
        action = tensor_spec.BoundedTensorSpec((), tf.int64, 0, 1, "action")
        network = q_network.QNetwork(observation, action, fc_layer_params=units)
        q = q_policy.QPolicy(time_step.time_step_spec(observation), action, network)
        self._policy = greedy_policy.GreedyPolicy(q)
        self._train_step = tf.Variable(0, dtype=tf.int64)
        self._saver = PolicySaver(self._policy, train_step=self._train_step)

    @property
    def megabytes(self) -> float:
        """The size of the weights, in 10⁶ bytes."""
        return float(sum(variable.numpy().nbytes for variable in self._policy.variables())) / 1e6

    def export(self, folder: Path) -> None:
        """Graph and weights."""
        self._saver.save(folder)

    def checkpoint(self, parent: Path) -> str:
        """Writes the next checkpoint into `parent`, and returns its name."""
        for variable in self._policy.variables():
            variable.assign_add(tf.random.normal(variable.shape, stddev=0.01, dtype=variable.dtype))
        self._train_step.assign_add(_STEPS)
        name = f"{int(self._train_step.numpy()):010}"
        self._saver.save_checkpoint(parent / name)
        return name
