"""A policy → its export, and checkpoints of it with other weights. Imports TensorFlow."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
from tf_agents.networks import q_network
from tf_agents.policies import greedy_policy, q_policy, tf_policy
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import time_step

from saver import PolicySaver

ACTION = tensor_spec.BoundedTensorSpec((), tf.int64, 0, 1, "action")
STEPS = 100


def q_policy_of(units: tuple[int, ...]) -> tf_policy.TFPolicy:
    """A greedy Q policy of four floats and two actions, with layers of so many units."""
    observation = tensor_spec.BoundedTensorSpec((4,), tf.float32, -1.0, 1.0, "observation")
    return greedy(q_network.QNetwork(observation, ACTION, fc_layer_params=units), observation)


def greedy(network: Any, observation: Any) -> tf_policy.TFPolicy:
    """The policy that takes the action of the greatest value."""
    return greedy_policy.GreedyPolicy(q_policy.QPolicy(time_step.time_step_spec(observation), ACTION, network))


class Trainer:
    """Saves a policy whose weights and train step move with every checkpoint.

    `train_step` is what it begins with, `batch_size` that of the export where it is fixed.
    """

    def __init__(self, policy: tf_policy.TFPolicy, train_step: int = 0, batch_size: int | None = None) -> None:
        self._policy = policy
        self._train_step = tf.Variable(train_step, dtype=tf.int64)
        self._saver = PolicySaver(policy, batch_size=batch_size, train_step=self._train_step)

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
        self._train_step.assign_add(STEPS)
        name = f"{int(self._train_step.numpy()):010}"
        self._saver.save_checkpoint(parent / name)
        return name
