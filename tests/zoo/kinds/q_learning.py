"""Policies that DQN, double DQN and categorical DQN make, and the wrappers they explore with."""

from typing import Any

import tensorflow as tf
from tf_agents.agents.categorical_dqn import categorical_dqn_agent
from tf_agents.agents.dqn import dqn_agent
from tf_agents.networks import categorical_q_network
from tf_agents.policies import boltzmann_policy, categorical_q_policy, epsilon_greedy_policy, q_policy, tf_policy

from tests.zoo.kind import FLOATS, MASKED_TIME_STEP, THREE, TIME_STEP, Kind, adam, q_net, split_mask


def _dqn(agent: type = dqn_agent.DqnAgent, **options: Any) -> dqn_agent.DqnAgent:
    return agent(TIME_STEP, THREE, q_net(), adam(), **options)


def _masked_dqn(**options: Any) -> dqn_agent.DqnAgent:
    network = q_net()
    return dqn_agent.DqnAgent(
        MASKED_TIME_STEP, THREE, network, adam(), observation_and_action_constraint_splitter=split_mask, **options
    )


def q(**options: Any) -> tf_policy.TFPolicy:
    """A plain QPolicy, whose distribution has the Q values as logits."""
    return q_policy.QPolicy(TIME_STEP, THREE, q_net(), **options)


def _atoms(atoms: int = 11) -> categorical_q_network.CategoricalQNetwork:
    return categorical_q_network.CategoricalQNetwork(FLOATS, THREE, num_atoms=atoms, fc_layer_params=(8,))


def _c51(**options: Any) -> categorical_dqn_agent.CategoricalDqnAgent:
    return categorical_dqn_agent.CategoricalDqnAgent(
        TIME_STEP, THREE, _atoms(), adam(), min_q_value=-20.0, max_q_value=20.0, **options
    )


def _decaying_epsilon() -> tf_policy.TFPolicy:
    return epsilon_greedy_policy.EpsilonGreedyPolicy(q(), epsilon=tf.Variable(0.4, name="epsilon"))


def _temperature() -> tf_policy.TFPolicy:
    return boltzmann_policy.BoltzmannPolicy(q(), temperature=lambda: tf.constant(1.0) + 1.0)


def _group(name: str, describe: str, make: Any, stochastic: bool = False) -> Kind:
    return Kind(name, "Q-learning", describe, make, stochastic=stochastic)


KINDS = [
    _group("q", "Q values as logits, sampled", q, stochastic=True),
    _group("q-log-probability", "the same, with log-probabilities", lambda: q(emit_log_probability=True), True),
    _group("dqn-greedy", "DqnAgent's policy", lambda: _dqn().policy),
    _group(
        "dqn-epsilon", "DqnAgent's collect_policy, ε a number", lambda: _dqn(epsilon_greedy=0.3).collect_policy, True
    ),
    _group(
        "dqn-epsilon-callable",
        "the same, ε a function",
        lambda: _dqn(epsilon_greedy=lambda: tf.constant(0.5)).collect_policy,
        True,
    ),
    _group("dqn-epsilon-variable", "ε-greedy, ε a variable", _decaying_epsilon, True),
    _group(
        "dqn-epsilon-log-probability",
        "ε-greedy, with log-probabilities",
        lambda: _dqn(epsilon_greedy=0.3, emit_log_probability=True).collect_policy,
        True,
    ),
    _group(
        "dqn-boltzmann",
        "DqnAgent's collect_policy by Boltzmann",
        lambda: _dqn(epsilon_greedy=None, boltzmann_temperature=2.0).collect_policy,
        True,
    ),
    _group("boltzmann-callable", "BoltzmannPolicy, its temperature a function", _temperature, True),
    _group("ddqn-greedy", "DdqnAgent's policy", lambda: _dqn(dqn_agent.DdqnAgent).policy),
    _group("dqn-masked-greedy", "greedy among the allowed actions", lambda: _masked_dqn().policy),
    _group(
        "dqn-masked-epsilon",
        "ε-greedy among the allowed actions",
        lambda: _masked_dqn(epsilon_greedy=0.4).collect_policy,
        True,
    ),
    _group(
        "q-masked",
        "Q values of the allowed actions as logits, sampled",
        lambda: q_policy.QPolicy(
            MASKED_TIME_STEP, THREE, q_net(), observation_and_action_constraint_splitter=split_mask
        ),
        True,
    ),
    _group("c51-greedy", "CategoricalDqnAgent's policy", lambda: _c51().policy),
    _group(
        "c51-epsilon", "CategoricalDqnAgent's collect_policy", lambda: _c51(epsilon_greedy=0.3).collect_policy, True
    ),
    _group(
        "c51",
        "CategoricalQPolicy, sampled",
        lambda: categorical_q_policy.CategoricalQPolicy(TIME_STEP, THREE, _atoms(), -20.0, 20.0, temperature=0.5),
        True,
    ),
]
