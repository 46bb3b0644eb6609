"""What the zoo knows of one kind of policy, and the small specs and networks that the kinds are made of."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from tf_agents.networks import actor_distribution_network, q_network
from tf_agents.policies import tf_policy
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import time_step as ts


@dataclass(frozen=True)
class Kind:
    """One kind of policy.

    `options` are the arguments of its PolicySaver besides the policy. `stochastic`: its action differs between
    calls with one input. `stateful`: its own calls change variables it keeps. `draws_once_per_call`: the rows of
    one call share one draw, so that they are no independent samples.
    """

    name: str
    group: str
    describe: str
    make: Callable[[], tf_policy.TFPolicy]
    options: Callable[[], dict[str, Any]] = dict
    stochastic: bool = False
    stateful: bool = False
    draws_once_per_call: bool = False


FLOATS = tf.TensorSpec([4], tf.float32, "observation")
THREE = tensor_spec.BoundedTensorSpec([], tf.int64, 0, 2, "action")
ARMS = tensor_spec.BoundedTensorSpec([], tf.int32, 0, 2, "action")
BOX = tensor_spec.BoundedTensorSpec([2], tf.float32, [-1.0, -2.0], [1.0, 2.0], "action")
TIME_STEP = ts.time_step_spec(FLOATS)
MASKED = {
    "board": tf.TensorSpec([4], tf.float32, "board"),
    "mask": tensor_spec.BoundedTensorSpec([3], tf.int32, 0, 1, "mask"),
}
MASKED_TIME_STEP = ts.time_step_spec(MASKED)


def split_mask(observation: Any) -> Any:
    """The splitter for `MASKED`: what the network sees, and which actions are allowed."""
    return observation["board"], observation["mask"]


def adam() -> tf.keras.optimizers.Optimizer:
    """Agents want an optimizer even where nobody trains them."""
    return tf.keras.optimizers.legacy.Adam()


def lively(scale: float = 1.0) -> tf.keras.initializers.Initializer:
    """Weights large enough that answers depend on the observation."""
    return tf.keras.initializers.RandomNormal(stddev=scale, seed=random.randrange(2**31))


def q_net(observation: Any = FLOATS, action: Any = THREE, **options: Any) -> q_network.QNetwork:
    """A Q-network of one hidden layer."""
    arguments = {"fc_layer_params": (8,), "kernel_initializer": lively(), **options}
    return q_network.QNetwork(observation, action, **arguments)


def actor_net(
    observation: Any = FLOATS, action: Any = BOX, **options: Any
) -> actor_distribution_network.ActorDistributionNetwork:
    """A network of one hidden layer that gives distributions of actions."""
    arguments = {"fc_layer_params": (8,), "kernel_initializer": lively(), **options}
    return actor_distribution_network.ActorDistributionNetwork(observation, action, **arguments)


def named(kinds: list[Kind]) -> dict[str, Kind]:
    """The kinds by name; two of one name are a mistake."""
    by_name = {kind.name: kind for kind in kinds}
    assert len(by_name) == len(kinds), sorted(kind.name for kind in kinds)
    return by_name
