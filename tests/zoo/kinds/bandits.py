"""Policies that bandit agents make of statistics: linear ones, Thompson sampling, EXP3."""

from typing import Any

import tensorflow as tf
from tf_agents.bandits.agents import (
    bernoulli_thompson_sampling_agent,
    exp3_agent,
    lin_ucb_agent,
    linear_thompson_sampling_agent,
)
from tf_agents.bandits.policies import categorical_policy
from tf_agents.policies import greedy_policy, tf_policy
from tf_agents.specs import bandit_spec_utils, tensor_spec
from tf_agents.trajectories import time_step as ts

from tests.zoo.kind import ARMS, MASKED_TIME_STEP, TIME_STEP, Kind, split_mask

PER_ARM = bandit_spec_utils.create_per_arm_observation_spec(3, 2, 4)
FOUR = tensor_spec.BoundedTensorSpec([], tf.int32, 0, 3, "action")
MEAN, SAMPLED, OPTIMISTIC = "predicted_rewards_mean", "predicted_rewards_sampled", "predicted_rewards_optimistic"


def experienced(agent: Any) -> Any:
    """Gives a linear agent the statistics of 20 observations for each model."""
    for cov, data, samples in zip(agent.cov_matrix, agent.data_vector, agent.num_samples, strict=True):
        seen = tf.random.normal([20, cov.shape[0]], dtype=cov.dtype)
        cov.assign(tf.matmul(seen, seen, transpose_a=True))
        data.assign(tf.linalg.matvec(seen, tf.random.normal([20], dtype=cov.dtype), transpose_a=True))
        samples.assign(20.0)
    return agent


def bandit(name: str, describe: str, make: Any, stochastic: bool = False, **more: Any) -> Kind:
    return Kind(name, "Bandits", describe, make, stochastic=stochastic, **more)


def _lin_ucb(**options: Any) -> tf_policy.TFPolicy:
    arguments = {"time_step_spec": TIME_STEP, "action_spec": ARMS, "alpha": 0.5, **options}
    return experienced(lin_ucb_agent.LinearUCBAgent(**arguments)).policy


def _lin_ucb_by_eigenvalues() -> tf_policy.TFPolicy:
    agent = experienced(
        lin_ucb_agent.LinearUCBAgent(TIME_STEP, ARMS, alpha=0.5, use_eigendecomp=True, dtype=tf.float64)
    )
    for cov, values, vectors in zip(agent.cov_matrix, agent.eig_vals, agent.eig_matrix, strict=True):
        eigenvalues, eigenvectors = tf.linalg.eigh(cov)
        values.assign(eigenvalues)
        vectors.assign(eigenvectors)
    return agent.policy


def _lin_greedy() -> tf_policy.TFPolicy:
    """Without exploration only the weights θ count, which the agent computes as it trains."""
    agent = experienced(lin_ucb_agent.LinearUCBAgent(TIME_STEP, ARMS, alpha=0.0))
    agent._variable_collection.theta.assign(agent.theta)
    return agent.policy


def _thompson(**options: Any) -> tf_policy.TFPolicy:
    arguments = {"time_step_spec": TIME_STEP, "action_spec": ARMS, "emit_policy_info": (MEAN, SAMPLED), **options}
    return experienced(linear_thompson_sampling_agent.LinearThompsonSamplingAgent(**arguments)).policy


def _bernoulli() -> tf_policy.TFPolicy:
    variables = bernoulli_thompson_sampling_agent.BernoulliBanditVariableCollection(3)
    for wins, losses, (won, lost) in zip(variables.alpha, variables.beta, [(8, 3), (5, 5), (2, 9)], strict=True):
        wins.assign(won)
        losses.assign(lost)
    return bernoulli_thompson_sampling_agent.BernoulliThompsonSamplingAgent(
        TIME_STEP, ARMS, variables, emit_policy_info=(MEAN, SAMPLED)
    ).policy


def _exp3() -> tf_policy.TFPolicy:
    agent = exp3_agent.Exp3Agent(TIME_STEP, ARMS, learning_rate=0.5)
    agent._weights.assign([1.0, -0.5, 2.0])
    return agent.policy


def _categorical() -> tf_policy.TFPolicy:
    return categorical_policy.CategoricalPolicy(tf.Variable([0.3, 0.6, -0.4]), TIME_STEP, ARMS)


KINDS = [
    bandit("lin-ucb", "LinearUCBAgent, all its info", lambda: _lin_ucb(emit_policy_info=(MEAN, OPTIMISTIC))),
    bandit(
        "lin-ucb-log-probability",
        "the same with a bias, with log-probabilities",
        lambda: _lin_ucb(add_bias=True, emit_log_probability=True),
    ),
    bandit("lin-ucb-eigenvalues", "LinearUCBAgent by eigenvalues, float64", _lin_ucb_by_eigenvalues),
    bandit("lin-greedy", "LinearUCBAgent that does not explore", _lin_greedy),
    bandit(
        "lin-ucb-masked",
        "LinearUCBAgent, the allowed arms",
        lambda: _lin_ucb(time_step_spec=MASKED_TIME_STEP, observation_and_action_constraint_splitter=split_mask),
    ),
    bandit(
        "lin-ucb-per-arm",
        "LinearUCBAgent, features of each arm",
        lambda: _lin_ucb(time_step_spec=ts.time_step_spec(PER_ARM), action_spec=FOUR, accepts_per_arm_features=True),
    ),
    bandit("linear-thompson", "LinearThompsonSamplingAgent, its info the sampled rewards", _thompson, True),
    bandit(
        "linear-thompson-per-arm",
        "the same, features of each arm",
        lambda: _thompson(time_step_spec=ts.time_step_spec(PER_ARM), action_spec=FOUR, accepts_per_arm_features=True),
        True,
    ),
    bandit(
        "bernoulli-thompson",
        "BernoulliThompsonSamplingAgent, its batch fixed, as it wants",
        _bernoulli,
        True,
        options=lambda: {"batch_size": 60},
    ),
    bandit("exp3", "Exp3Agent", _exp3, True),
    bandit("categorical-bandit", "CategoricalPolicy", _categorical, True),
    bandit("categorical-bandit-greedy", "the same, greedy", lambda: greedy_policy.GreedyPolicy(_categorical())),
]
