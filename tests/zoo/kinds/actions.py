"""Policies by what they do: nests, vectors and matrices of actions, shifted and unbounded ones."""

from typing import Any

import tensorflow as tf
from tf_agents.agents.ppo import ppo_clip_agent
from tf_agents.networks import normal_projection_network, value_network
from tf_agents.policies import actor_policy, epsilon_greedy_policy, greedy_policy, q_policy, tf_policy
from tf_agents.specs import tensor_spec

from tests.zoo.kind import FLOATS, MASKED_TIME_STEP, TIME_STEP, Kind, actor_net, adam, q_net, split_mask
from tests.zoo.kinds.recurrent import actor_rnn

NESTED = {
    "move": tensor_spec.BoundedTensorSpec([2], tf.float32, [-1.0, -2.0], [1.0, 2.0], "move"),
    "hands": (
        tensor_spec.BoundedTensorSpec([], tf.int32, 0, 3, "left"),
        tensor_spec.BoundedTensorSpec([], tf.int64, 0, 1, "right"),
    ),
}
MATRIX = tensor_spec.BoundedTensorSpec([2, 3], tf.float32, -1.0, 1.0, "action")
SINGLE = tensor_spec.BoundedTensorSpec([], tf.float32, -2.0, 2.0, "action")
MULTI = tensor_spec.BoundedTensorSpec([3], tf.int32, 0, 3, "action")
MULTI_MATRIX = tensor_spec.BoundedTensorSpec([2, 2], tf.int64, 0, 2, "action")
UNBOUNDED = tf.TensorSpec([2], tf.float32, "action")
SHIFTED = tensor_spec.BoundedTensorSpec([], tf.int32, 3, 5, "action")
NARROW = tensor_spec.BoundedTensorSpec([2], tf.float32, -0.1, 0.1, "action")


def _actor(action: Any, **options: Any) -> tf_policy.TFPolicy:
    return actor_policy.ActorPolicy(TIME_STEP, action, actor_net(action=action), **options)


def _unbounded() -> tf_policy.TFPolicy:
    def project(spec: Any) -> Any:
        return normal_projection_network.NormalProjectionNetwork(spec, mean_transform=None)

    network = actor_net(action=UNBOUNDED, continuous_projection_net=project)
    return actor_policy.ActorPolicy(TIME_STEP, UNBOUNDED, network)


def _greedy(action: Any) -> tf_policy.TFPolicy:
    return greedy_policy.GreedyPolicy(_actor(action))


def _ppo(action: Any) -> tf_policy.TFPolicy:
    agent = ppo_clip_agent.PPOClipAgent(
        TIME_STEP,
        action,
        optimizer=adam(),
        actor_net=actor_net(action=action),
        value_net=value_network.ValueNetwork(FLOATS, fc_layer_params=(4,)),
        normalize_observations=False,
    )
    return agent.collect_policy


def _shifted_q(masked: bool = False) -> tf_policy.TFPolicy:
    """From Q values: actors' networks ignore the shift, and the policy clips all to its minimum."""
    options = {"observation_and_action_constraint_splitter": split_mask} if masked else {}
    network = q_net(action=SHIFTED)
    return q_policy.QPolicy(
        MASKED_TIME_STEP if masked else TIME_STEP,
        SHIFTED,
        network,
        validate_action_spec_and_network=False,
        **options,
    )


def _one_in_a_list() -> tf_policy.TFPolicy:
    spec = [tensor_spec.BoundedTensorSpec([], tf.int64, 0, 2, "action")]
    return q_policy.QPolicy(TIME_STEP, spec, q_net(action=spec[0]), validate_action_spec_and_network=False)


def _kind(name: str, describe: str, make: Any, stochastic: bool = True) -> Kind:
    return Kind(name, "Actions", describe, make, stochastic=stochastic)


KINDS = [
    _kind("action-nested", "a nest of floats and integers", lambda: _actor(NESTED)),
    _kind("action-nested-greedy", "the same, greedy", lambda: _greedy(NESTED), False),
    _kind("action-nested-ppo", "the same, with PPO's info", lambda: _ppo(NESTED)),
    _kind(
        "action-nested-lstm",
        "the same, from an LSTM",
        lambda: actor_policy.ActorPolicy(TIME_STEP, NESTED, actor_rnn(NESTED)),
    ),
    _kind("action-matrix", "a matrix of floats", lambda: _actor(MATRIX)),
    _kind("action-scalar", "a single float", lambda: _actor(SINGLE)),
    _kind("action-multi-discrete", "a vector of categories", lambda: _actor(MULTI)),
    _kind("action-multi-discrete-greedy", "the same, greedy", lambda: _greedy(MULTI), False),
    _kind("action-multi-discrete-matrix", "a matrix of categories", lambda: _actor(MULTI_MATRIX)),
    _kind("action-unbounded", "floats without bounds", _unbounded),
    _kind(
        "action-unclipped",
        "floats that leave their bounds, as the policy does not clip",
        lambda: _actor(NARROW, clip=False),
    ),
    _kind("action-clipped", "floats that are mostly clipped", lambda: _actor(NARROW)),
    _kind("action-shifted", "Q values of actions from 3 on, sampled", _shifted_q),
    _kind("action-shifted-greedy", "the same, greedy", lambda: greedy_policy.GreedyPolicy(_shifted_q()), False),
    _kind(
        "action-shifted-epsilon",
        "the same, ε-greedy",
        lambda: epsilon_greedy_policy.EpsilonGreedyPolicy(_shifted_q(), 0.3),
    ),
    _kind("action-shifted-masked", "the allowed actions from 3 on", lambda: _shifted_q(masked=True)),
    _kind("action-list", "one action in a list", _one_in_a_list),
]
