"""Policies with memory: LSTMs, a GRU, two layers of them, and the value network's state beside the actor's."""

from typing import Any

import tensorflow as tf
from tf_agents.agents.ddpg import actor_rnn_network, critic_rnn_network, ddpg_agent
from tf_agents.agents.dqn import dqn_agent
from tf_agents.agents.ppo import ppo_clip_agent
from tf_agents.agents.reinforce import reinforce_agent
from tf_agents.networks import (
    actor_distribution_rnn_network,
    nest_map,
    q_rnn_network,
    sequential,
    value_rnn_network,
)
from tf_agents.policies import actor_policy, greedy_policy, q_policy, tf_policy

from tests.zoo.kind import BOX, FLOATS, MASKED_TIME_STEP, THREE, TIME_STEP, Kind, adam, split_mask


def _q_rnn(lstm_size: tuple[int, ...] = (5,)) -> q_rnn_network.QRnnNetwork:
    return q_rnn_network.QRnnNetwork(
        FLOATS, THREE, lstm_size=lstm_size, input_fc_layer_params=(8,), output_fc_layer_params=(6,)
    )


def _dqn(lstm_size: tuple[int, ...] = (5,), **options: Any) -> dqn_agent.DqnAgent:
    return dqn_agent.DqnAgent(TIME_STEP, THREE, _q_rnn(lstm_size), adam(), **options)


def _masked_q() -> tf_policy.TFPolicy:
    return q_policy.QPolicy(MASKED_TIME_STEP, THREE, _q_rnn(), observation_and_action_constraint_splitter=split_mask)


def actor_rnn(action: Any = BOX, lstm_size: tuple[int, ...] = (5,)) -> Any:
    """An LSTM actor that gives distributions."""
    return actor_distribution_rnn_network.ActorDistributionRnnNetwork(
        FLOATS, action, lstm_size=lstm_size, input_fc_layer_params=(8,), output_fc_layer_params=(6,)
    )


def _value_rnn() -> value_rnn_network.ValueRnnNetwork:
    return value_rnn_network.ValueRnnNetwork(
        FLOATS, lstm_size=(3,), input_fc_layer_params=(4,), output_fc_layer_params=(4,)
    )


def _ppo(values: bool = False) -> ppo_clip_agent.PPOClipAgent:
    return ppo_clip_agent.PPOClipAgent(
        TIME_STEP,
        BOX,
        optimizer=adam(),
        actor_net=actor_rnn(),
        value_net=_value_rnn(),
        normalize_observations=False,
        compute_value_and_advantage_in_train=not values,
    )


def _reinforce() -> tf_policy.TFPolicy:
    return reinforce_agent.ReinforceAgent(TIME_STEP, THREE, actor_rnn(THREE), adam()).collect_policy


def _ddpg() -> tf_policy.TFPolicy:
    actor = actor_rnn_network.ActorRnnNetwork(
        FLOATS, BOX, lstm_size=(5,), input_fc_layer_params=(8,), output_fc_layer_params=(6,)
    )
    critic = critic_rnn_network.CriticRnnNetwork((FLOATS, BOX), lstm_size=(3,))
    return ddpg_agent.DdpgAgent(TIME_STEP, BOX, actor, critic, adam(), adam()).policy


def _gru() -> tf_policy.TFPolicy:
    layers = [
        tf.keras.layers.Dense(8, activation="tanh"),
        tf.keras.layers.GRU(5, return_sequences=True, return_state=True),
        tf.keras.layers.Dense(3),
    ]
    network = sequential.Sequential(layers, input_spec=FLOATS)
    return greedy_policy.GreedyPolicy(q_policy.QPolicy(TIME_STEP, THREE, network))


def _stacked_sequential() -> tf_policy.TFPolicy:
    """Nested state: an LSTM in a branch of its own beside a feed-forward one, then an LSTM over both."""
    branches = nest_map.NestMap(
        {
            "memory": sequential.Sequential([tf.keras.layers.LSTM(4, return_sequences=True, return_state=True)]),
            "now": tf.keras.layers.Dense(4, activation="tanh"),
        }
    )
    layers = [
        tf.keras.layers.Lambda(lambda x: {"memory": x, "now": x}),
        branches,
        tf.keras.layers.Lambda(lambda parts: tf.concat([parts["memory"], parts["now"]], -1)),
        tf.keras.layers.LSTM(3, return_sequences=True, return_state=True),
        tf.keras.layers.Dense(3),
    ]
    network = sequential.Sequential(layers, input_spec=FLOATS)
    return greedy_policy.GreedyPolicy(q_policy.QPolicy(TIME_STEP, THREE, network))


def _actor_rnn_greedy() -> tf_policy.TFPolicy:
    return greedy_policy.GreedyPolicy(actor_policy.ActorPolicy(TIME_STEP, BOX, actor_rnn(lstm_size=(5, 4))))


def _kind(name: str, describe: str, make: Any, stochastic: bool = False) -> Kind:
    return Kind(name, "Recurrent", describe, make, stochastic=stochastic)


KINDS = [
    _kind("dqn-lstm-greedy", "QRnnNetwork, one LSTM", lambda: _dqn().policy),
    _kind("dqn-lstm-epsilon", "the same, ε-greedy", lambda: _dqn(epsilon_greedy=0.3).collect_policy, True),
    _kind("dqn-lstm-stacked", "QRnnNetwork, two LSTM layers", lambda: _dqn((5, 4)).policy),
    _kind("q-lstm-masked", "QRnnNetwork over the allowed actions", _masked_q, True),
    _kind("dqn-gru", "a Sequential network with a GRU", _gru),
    _kind("dqn-nested-state", "LSTMs in branches, the state a nest", _stacked_sequential),
    _kind("reinforce-lstm", "ActorDistributionRnnNetwork, categorical", _reinforce, True),
    _kind("actor-lstm-stacked-greedy", "ActorDistributionRnnNetwork, two LSTM layers, greedy", _actor_rnn_greedy),
    _kind("ppo-lstm", "PPO with LSTMs for actor and values", lambda: _ppo().collect_policy, True),
    _kind("ppo-lstm-greedy", "the same, greedy", lambda: _ppo().policy),
    _kind("ppo-lstm-values", "its state and info have the values' part too", lambda: _ppo(True).collect_policy, True),
    _kind("ddpg-lstm", "ActorRnnNetwork", _ddpg),
]
