"""Transitions that the service recorded → better weights, by TF-Agents' PPO.

The only file of the demo, with publisher.py, that imports TensorFlow.
"""

import os
import random
from dataclasses import dataclass

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # tf-agents needs Keras 2
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tf_agents.agents.ppo import ppo_clip_agent
from tf_agents.networks import actor_distribution_network, value_network
from tf_agents.specs import BoundedArraySpec, array_spec, tensor_spec
from tf_agents.trajectories import StepType, time_step, trajectory
from tf_agents.utils import common

from demo.advantages import generalised_advantages
from demo.messages import Transitions

_LAYERS = (64, 64)


@dataclass(frozen=True)
class Hyperparameters:
    """Hyperparameters of PPO (Schulman et al., "Proximal Policy Optimization Algorithms", 2017).

    Chosen by measuring; the learning rate falls linearly from first to last.
    """

    learning_rate: float = 1e-3
    last_learning_rate: float = 1e-4
    discount: float = 0.99
    decay: float = 0.95
    clip: float = 0.2
    entropy: float = 0.005
    gradient_norm: float = 0.5
    epochs: int = 8
    minibatch: int = 512


class Trainer:
    """The agent and its optimiser. `learn` is called with one round of transitions at a time."""

    def __init__(self, seed: int, hyperparameters: Hyperparameters) -> None:
        random.seed(seed)
        np.random.seed(seed)
        tf.random.set_seed(seed)
        self._hyperparameters = hyperparameters
        self._shuffle = np.random.default_rng(seed)
        self._learning_rate = tf.Variable(hyperparameters.learning_rate, trainable=False)
        self._train_step = tf.Variable(0, dtype=tf.int64, name="train_step")
        self.agent = _build_agent(hyperparameters, self._learning_rate, self._train_step)
        self._gradient_step = common.function(self.agent.train)
        self._values = tf.function(self._apply_value_network, input_signature=[tf.TensorSpec((None, 4), tf.float32)])

    @property
    def train_step(self) -> tf.Variable:
        """The count of gradient steps, as the variable that goes into each checkpoint."""
        return self._train_step

    def prepare(self) -> None:
        """Compiles what `learn` needs, which takes seconds, before anybody waits for it.

        The gradient step runs on rows whose return and advantage are 0: the agent gives them no
        weight, so that every gradient is 0 and the weights stay what they are.
        """
        rows = (self._hyperparameters.minibatch, 1)
        nothing = tf.nest.map_structure(
            lambda spec: tf.zeros((*rows, *spec.shape), spec.dtype), self.agent.training_data_spec
        )
        self._gradient_step(nothing)
        self._train_step.assign(0)
        self._value(np.zeros((1, 4), np.float32))

    def learn(self, transitions: Transitions, progress: float) -> None:
        """Learns from one round: every transition is used `epochs` times.

        `progress` goes from 0 to 1 over the run and lowers the learning rate.
        """
        hyperparameters = self._hyperparameters
        fall = (hyperparameters.last_learning_rate - hyperparameters.learning_rate) * min(progress, 1.0)
        self._learning_rate.assign(hyperparameters.learning_rate + fall)
        experience = self._experience(transitions)
        rows = len(experience.reward)
        for _ in range(hyperparameters.epochs):
            order = self._shuffle.permutation(rows)
            for start in range(0, rows - hyperparameters.minibatch + 1, hyperparameters.minibatch):
                self._gradient_step(_rows(experience, order[start : start + hyperparameters.minibatch]))

    def _experience(self, played: Transitions) -> trajectory.Trajectory:
        """The agent's training data, [rows, 1, ...]: each transition by itself, its advantage in the policy info."""
        value = self._value(played.observation)
        advantage, target = generalised_advantages(
            played.reward,
            value,
            self._value(played.next_observation),
            played.terminated,
            played.truncated | played.last,  # the next row is another environment's
            self._hyperparameters.discount,
            self._hyperparameters.decay,
        )
        ended = played.terminated | played.truncated
        shaped = trajectory.Trajectory(
            # The agent only looks whether it is LAST, which marks rows that lie between episodes.
            step_type=np.full(ended.shape, StepType.MID, np.int32),
            observation=played.observation,
            action=played.action,
            policy_info={
                "dist_params": {"logits": played.logits},
                "value_prediction": value,
                "advantage": advantage,
                "return": target,
            },
            next_step_type=np.where(ended, StepType.LAST, StepType.MID).astype(np.int32),
            reward=played.reward,
            discount=np.logical_not(played.terminated).astype(np.float32),
        )
        return tf.nest.map_structure(lambda leaf: leaf[:, None], shaped)

    def _apply_value_network(self, observation: tf.Tensor) -> tf.Tensor:
        """The critic's estimate of [rows, 4] observations, [rows]."""
        step_type = tf.fill(tf.shape(observation)[:1], StepType.MID)
        return self.agent.collect_policy.apply_value_network(observation, step_type)[0]

    def _value(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        """The critic's estimate of [rows, 4] observations, [rows]."""
        value: NDArray[np.float32] = self._values(tf.constant(observation)).numpy()
        return value


def _rows(experience: trajectory.Trajectory, chosen: NDArray[np.int64]) -> trajectory.Trajectory:
    """Some rows of an experience, as tensors."""
    return tf.nest.map_structure(lambda leaf: tf.constant(leaf[chosen]), experience)


def _build_agent(
    hyperparameters: Hyperparameters, learning_rate: tf.Variable, train_step: tf.Variable
) -> ppo_clip_agent.PPOClipAgent:
    """A PPO agent for CartPole-v1: 4 numbers in, 2 actions out."""
    observation_spec = array_spec.ArraySpec((4,), np.float32, "observation")
    action_spec = tensor_spec.from_spec(BoundedArraySpec((), np.int64, 0, 1, "action"))
    time_step_spec = tensor_spec.from_spec(time_step.time_step_spec(observation_spec))
    agent = ppo_clip_agent.PPOClipAgent(
        time_step_spec,
        action_spec,
        optimizer=tf.keras.optimizers.Adam(learning_rate, epsilon=1e-5),
        actor_net=actor_distribution_network.ActorDistributionNetwork(
            time_step_spec.observation,
            action_spec,
            fc_layer_params=_LAYERS,
            activation_fn=tf.keras.activations.tanh,
        ),
        value_net=value_network.ValueNetwork(
            time_step_spec.observation,
            fc_layer_params=_LAYERS,
            activation_fn=tf.keras.activations.tanh,
        ),
        importance_ratio_clipping=hyperparameters.clip,
        entropy_regularization=hyperparameters.entropy,
        gradient_clipping=hyperparameters.gradient_norm,
        num_epochs=1,  # one gradient step for each minibatch; `learn` counts the epochs
        normalize_rewards=False,
        normalize_observations=False,
        compute_value_and_advantage_in_train=False,
        update_normalizers_in_train=False,
        train_step_counter=train_step,
    )
    agent.initialize()
    return agent
