"""Policies of the kinds that the console draws differently, and what publishes checkpoints of them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

import tensorflow as tf
from tf_agents.networks import actor_distribution_network, q_network, q_rnn_network
from tf_agents.policies import actor_policy, q_policy, tf_policy
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import time_step as ts

from saver import PolicySaver

bounded = tensor_spec.BoundedTensorSpec
TWO = bounded([], tf.int64, 0, 1, "action")
FIVE = bounded([], tf.int64, 0, 4, "action")
TORQUES = bounded([3], tf.float32, -2.0, 2.0, "action")
CART = bounded([4], tf.float32, [-4.8, -5.0, -0.42, -5.0], [4.8, 5.0, 0.42, 5.0], "observation")
ARM = {
    "joints": bounded([3], tf.float32, -3.1416, 3.1416, "joints"),
    "gripper": {"closed": bounded([], tf.int32, 0, 1, "closed"), "force": tf.TensorSpec([], tf.float32, "force")},
    "target": (tf.TensorSpec([2], tf.float32, "place"), bounded([], tf.int32, 0, 9, "colour")),
}
ROVER = {
    "camera": bounded([24, 32, 3], tf.uint8, 0, 255, "camera"),
    "speed": bounded([], tf.float32, 0.0, 3.0, "speed"),
}


class Flatten(tf.keras.layers.Layer):
    """Joins the leaves of an observation to one vector; bytes become fractions."""

    def call(self, observation: Any) -> tf.Tensor:
        return tf.concat([self._vector(leaf) for leaf in tf.nest.flatten(observation)], -1)

    def _vector(self, leaf: tf.Tensor) -> tf.Tensor:
        scale = 255.0 if leaf.dtype == tf.uint8 else 1.0
        return tf.reshape(tf.cast(leaf, tf.float32) / scale, [-1, leaf.shape[1:].num_elements()])


def _cartpole() -> tf_policy.TFPolicy:
    network = q_network.QNetwork(CART, TWO, fc_layer_params=(16,))
    return q_policy.QPolicy(ts.time_step_spec(CART), TWO, network)


def _arm() -> tf_policy.TFPolicy:
    network = actor_distribution_network.ActorDistributionNetwork(
        ARM, TORQUES, preprocessing_combiner=Flatten(), fc_layer_params=(16,)
    )
    return actor_policy.ActorPolicy(ts.time_step_spec(ARM), TORQUES, network)


def _rover() -> tf_policy.TFPolicy:
    network = q_network.QNetwork(ROVER, FIVE, preprocessing_combiner=Flatten(), fc_layer_params=(16,))
    return q_policy.QPolicy(ts.time_step_spec(ROVER), FIVE, network)


def _pilot() -> tf_policy.TFPolicy:
    network = q_rnn_network.QRnnNetwork(CART, FIVE, lstm_size=(8,), input_fc_layer_params=(8,))
    return q_policy.QPolicy(ts.time_step_spec(CART), FIVE, network)


MAKERS: dict[str, Callable[[], tf_policy.TFPolicy]] = {
    "cartpole": _cartpole,
    "arm": _arm,
    "rover": _rover,
    "pilot": _pilot,
}


class Trainer:
    """Exports one of these policies to a folder, and publishes checkpoints of it with other weights."""

    def __init__(self, name: str, folder: Path) -> None:
        tf.keras.utils.set_random_seed(7)
        try:
            self.policy = MAKERS[name]()
        finally:
            tf.random.set_seed(None)
        self.folder = folder
        self._train_step = tf.Variable(0, dtype=tf.int64)
        self._saver = PolicySaver(self.policy, train_step=self._train_step)
        self._saver.save(str(folder), verify=False)

    def publish(self, train_step: int) -> str:
        """Saves a checkpoint of somewhat other weights; returns its name."""
        for variable in self.policy.variables():
            variable.assign(variable * 1.03)
        return self._save(train_step)

    def publish_broken(self, train_step: int) -> str:
        """Saves a checkpoint that may not serve, for it has a weight that is no number; returns its name."""
        variable = self.policy.variables()[0]
        good = tf.identity(variable)
        variable.assign(variable * float("nan"))
        try:
            return self._save(train_step)
        finally:
            variable.assign(good)

    def _save(self, train_step: int) -> str:
        name = f"{train_step:010d}"
        self._train_step.assign(train_step)
        self._saver.save_checkpoint(str(self.folder / "checkpoints" / name))
        return name
