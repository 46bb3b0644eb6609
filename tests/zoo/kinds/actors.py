"""Policies that REINFORCE, PPO, SAC, DDPG, TD3, CQL and behavioural cloning make."""

from typing import Any

import tensorflow as tf
from tf_agents.agents.behavioral_cloning import behavioral_cloning_agent
from tf_agents.agents.cql import cql_sac_agent
from tf_agents.agents.ddpg import actor_network, critic_network, ddpg_agent
from tf_agents.agents.ppo import ppo_actor_network, ppo_agent, ppo_clip_agent, ppo_kl_penalty_agent
from tf_agents.agents.reinforce import reinforce_agent
from tf_agents.agents.sac import sac_agent, tanh_normal_projection_network
from tf_agents.agents.td3 import td3_agent
from tf_agents.networks import normal_projection_network, value_network
from tf_agents.policies import actor_policy, greedy_policy, tf_policy

from tests.zoo.kind import (
    BOX,
    FLOATS,
    MASKED_TIME_STEP,
    THREE,
    TIME_STEP,
    Kind,
    actor_net,
    adam,
    lively,
    q_net,
    split_mask,
)


def _value() -> value_network.ValueNetwork:
    return value_network.ValueNetwork(FLOATS, fc_layer_params=(4,))


def _normal(spec: Any) -> normal_projection_network.NormalProjectionNetwork:
    return normal_projection_network.NormalProjectionNetwork(
        spec, init_means_output_factor=1.0, state_dependent_std=True, std_bias_initializer_value=-0.5
    )


def lively_actor(action: Any = BOX) -> Any:
    """An actor whose means and deviations depend on the observation."""
    return actor_net(action=action, continuous_projection_net=_normal)


def _reinforce(action: Any = BOX) -> reinforce_agent.ReinforceAgent:
    return reinforce_agent.ReinforceAgent(TIME_STEP, action, lively_actor(action), adam(), value_network=_value())


def _ppo(agent: type = ppo_clip_agent.PPOClipAgent, action: Any = BOX, **options: Any) -> ppo_agent.PPOAgent:
    arguments = {"normalize_observations": False, **options}
    return agent(TIME_STEP, action, optimizer=adam(), actor_net=lively_actor(action), value_net=_value(), **arguments)


def _normalised(**options: Any) -> ppo_agent.PPOAgent:
    """Its normaliser has seen observations, as after some training."""
    made = _ppo(normalize_observations=True, num_epochs=1, **options)
    seen = tf.random.stateless_normal([64, 4], [1, 2], mean=[0.5, -1.0, 2.0, 0.0], stddev=[0.5, 2.0, 1.0, 3.0])
    made.update_observation_normalizer(seen[:, None])
    return made


def _ppo_kl() -> ppo_agent.PPOAgent:
    return _ppo(
        ppo_kl_penalty_agent.PPOKLPenaltyAgent,
        num_epochs=1,
        initial_adaptive_kl_beta=1.0,
        adaptive_kl_target=0.01,
        adaptive_kl_tolerance=0.3,
    )


def _ppo_actor() -> tf_policy.TFPolicy:
    network = ppo_actor_network.PPOActorNetwork().create_sequential_actor_net((8,), BOX)
    made = ppo_clip_agent.PPOClipAgent(
        TIME_STEP, BOX, optimizer=adam(), actor_net=network, value_net=_value(), normalize_observations=False
    )
    return made.collect_policy


def _critic() -> critic_network.CriticNetwork:
    return critic_network.CriticNetwork((FLOATS, BOX), joint_fc_layer_params=(4,))


def _squashing_actor() -> Any:
    return actor_net(continuous_projection_net=tanh_normal_projection_network.TanhNormalProjectionNetwork)


def _sac() -> sac_agent.SacAgent:
    optimizers = {f"{name}_optimizer": adam() for name in ("actor", "critic", "alpha")}
    return sac_agent.SacAgent(TIME_STEP, BOX, _critic(), _squashing_actor(), **optimizers)


def _cql() -> cql_sac_agent.CqlSacAgent:
    optimizers = {f"{name}_optimizer": adam() for name in ("actor", "critic", "alpha")}
    return cql_sac_agent.CqlSacAgent(
        TIME_STEP,
        BOX,
        _critic(),
        _squashing_actor(),
        **optimizers,
        cql_alpha=1.0,
        num_cql_samples=1,
        include_critic_entropy_term=False,
        use_lagrange_cql_alpha=False,
    )


def _actor() -> actor_network.ActorNetwork:
    return actor_network.ActorNetwork(FLOATS, BOX, fc_layer_params=(8,), last_kernel_initializer=lively(0.3))


def ddpg() -> ddpg_agent.DdpgAgent:
    """Explores with Ornstein-Uhlenbeck noise."""
    return ddpg_agent.DdpgAgent(TIME_STEP, BOX, _actor(), _critic(), adam(), adam(), ou_stddev=0.05, ou_damping=0.5)


def _td3() -> td3_agent.Td3Agent:
    return td3_agent.Td3Agent(TIME_STEP, BOX, _actor(), _critic(), adam(), adam(), exploration_noise_std=0.3)


def _cloning(action: Any, network: Any) -> behavioral_cloning_agent.BehavioralCloningAgent:
    return behavioral_cloning_agent.BehavioralCloningAgent(TIME_STEP, action, network, adam(), epsilon_greedy=0.2)


def _masked_actor() -> tf_policy.TFPolicy:
    network = actor_net(action=THREE)
    return actor_policy.ActorPolicy(
        MASKED_TIME_STEP, THREE, network, observation_and_action_constraint_splitter=split_mask
    )


_PG, _AC, _BC = "Policy gradient", "Actor-critic", "Imitation"
KINDS = [
    Kind("reinforce", _PG, "ReinforceAgent's collect_policy", lambda: _reinforce().collect_policy, stochastic=True),
    Kind("reinforce-greedy", _PG, "ReinforceAgent's policy", lambda: _reinforce().policy),
    Kind("reinforce-discrete", _PG, "categorical", lambda: _reinforce(THREE).collect_policy, stochastic=True),
    Kind(
        "ppo",
        _PG,
        "PPOClipAgent's collect_policy, its info the distribution's parameters",
        lambda: _ppo().collect_policy,
        stochastic=True,
    ),
    Kind("ppo-greedy", _PG, "PPOClipAgent's policy", lambda: _ppo().policy),
    Kind(
        "ppo-sampled",
        _PG,
        "its policy where evaluation is not greedy",
        lambda: _ppo(greedy_eval=False).policy,
        stochastic=True,
    ),
    Kind("ppo-discrete", _PG, "categorical", lambda: _ppo(action=THREE).collect_policy, stochastic=True),
    Kind("ppo-discrete-greedy", _PG, "the likeliest category", lambda: _ppo(action=THREE).policy),
    Kind(
        "ppo-normalised",
        _PG,
        "observations normalised by what was seen",
        lambda: _normalised().collect_policy,
        stochastic=True,
    ),
    Kind("ppo-normalised-greedy", _PG, "the same, greedy", lambda: _normalised().policy),
    Kind(
        "ppo-values",
        _PG,
        "its info has the value of the observation",
        lambda: _ppo(compute_value_and_advantage_in_train=False).collect_policy,
        stochastic=True,
    ),
    Kind("ppo-kl", _PG, "PPOKLPenaltyAgent's collect_policy", lambda: _ppo_kl().collect_policy, stochastic=True),
    Kind("ppo-actor-network", _PG, "PPOActorNetwork, deviations that depend on nothing", _ppo_actor, stochastic=True),
    Kind("actor-masked", _PG, "categorical among the allowed actions", _masked_actor, stochastic=True),
    Kind(
        "actor-masked-greedy", _PG, "the likeliest allowed action", lambda: greedy_policy.GreedyPolicy(_masked_actor())
    ),
    Kind("sac", _AC, "SacAgent's collect_policy, squashed by tanh", lambda: _sac().collect_policy, stochastic=True),
    Kind("sac-greedy", _AC, "SacAgent's policy, made greedy", lambda: greedy_policy.GreedyPolicy(_sac().policy)),
    Kind("cql-sac", _AC, "CqlSacAgent's policy", lambda: _cql().collect_policy, stochastic=True),
    Kind("ddpg", _AC, "DdpgAgent's policy", lambda: ddpg().policy),
    Kind(
        "ddpg-ou-noise",
        _AC,
        "DdpgAgent's collect_policy, with Ornstein-Uhlenbeck noise",
        lambda: ddpg().collect_policy,
        stochastic=True,
        stateful=True,
        draws_once_per_call=True,
    ),
    Kind("td3", _AC, "Td3Agent's policy", lambda: _td3().policy),
    Kind(
        "td3-gaussian-noise",
        _AC,
        "Td3Agent's collect_policy, with Gaussian noise",
        lambda: _td3().collect_policy,
        stochastic=True,
        draws_once_per_call=True,
    ),
    Kind(
        "cloning-discrete",
        _BC,
        "BehavioralCloningAgent's policy from a Q-network",
        lambda: _cloning(THREE, q_net()).policy,
    ),
    Kind(
        "cloning-discrete-epsilon",
        _BC,
        "its collect_policy, ε-greedy",
        lambda: _cloning(THREE, q_net()).collect_policy,
        stochastic=True,
    ),
    Kind(
        "cloning-continuous",
        _BC,
        "BehavioralCloningAgent's policy from an actor",
        lambda: _cloning(BOX, lively_actor()).policy,
    ),
    Kind(
        "cloning-continuous-collect",
        _BC,
        "its collect_policy",
        lambda: _cloning(BOX, lively_actor()).collect_policy,
        stochastic=True,
    ),
]
