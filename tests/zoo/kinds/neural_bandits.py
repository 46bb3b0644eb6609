"""Policies that bandit agents make of networks: predicted rewards, rankings, and mixtures of policies."""

from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp
from tf_agents.bandits.agents import (
    dropout_thompson_sampling_agent,
    exp3_mixture_agent,
    greedy_multi_objective_neural_agent,
    greedy_reward_prediction_agent,
    neural_boltzmann_agent,
    neural_epsilon_greedy_agent,
    neural_falcon_agent,
    neural_linucb_agent,
    ranking_agent,
    static_mixture_agent,
)
from tf_agents.bandits.multi_objective import multi_objective_scalarizer
from tf_agents.bandits.networks import global_and_arm_feature_network, heteroscedastic_q_network
from tf_agents.bandits.policies import constraints, greedy_reward_prediction_policy
from tf_agents.networks import encoding_network
from tf_agents.policies import tf_policy
from tf_agents.specs import bandit_spec_utils, tensor_spec
from tf_agents.trajectories import time_step as ts

from tests.zoo.kind import ARMS, FLOATS, MASKED_TIME_STEP, TIME_STEP, adam, q_net, split_mask
from tests.zoo.kinds.bandits import FOUR, MEAN, OPTIMISTIC, PER_ARM, bandit, experienced

SOME_ARMS = bandit_spec_utils.create_per_arm_observation_spec(3, 2, 4, add_num_actions_feature=True)
SLOTS = tensor_spec.BoundedTensorSpec([2], tf.int32, 0, 3, "action")
RANKING = ts.time_step_spec(PER_ARM, tf.TensorSpec([2], tf.float32))
TYPE = "bandit_policy_type"

_Greedy = greedy_reward_prediction_agent.GreedyRewardPredictionAgent
_Epsilon = neural_epsilon_greedy_agent.NeuralEpsilonGreedyAgent
_Boltzmann = neural_boltzmann_agent.NeuralBoltzmannAgent


def _neural_lin_ucb(from_rewards: bool, epsilon: float = 0.0) -> tf_policy.TFPolicy:
    encoder = encoding_network.EncodingNetwork(FLOATS, fc_layer_params=(5,))
    agent = neural_linucb_agent.NeuralLinUCBAgent(
        TIME_STEP,
        ARMS,
        encoder,
        encoding_network_num_train_steps=10 if from_rewards else -1,
        encoding_dim=5,
        optimizer=adam(),
        alpha=0.5,
        epsilon_greedy=epsilon,
        emit_policy_info=(MEAN, OPTIMISTIC),
        dtype=tf.float32,
    )
    experienced(agent)
    agent.policy._actions_from_reward_layer.assign(from_rewards)
    return agent.policy


def _neural(agent: type, **options: Any) -> tf_policy.TFPolicy:
    return agent(TIME_STEP, ARMS, q_net(action=ARMS), adam(), **options).policy


def _masked(agent: type, **options: Any) -> tf_policy.TFPolicy:
    network = q_net(action=ARMS)
    return agent(
        MASKED_TIME_STEP, ARMS, network, adam(), observation_and_action_constraint_splitter=split_mask, **options
    ).policy


def _counts(*numbers: int) -> list[tf.Variable]:
    return [tf.Variable(number, dtype=tf.int64) for number in numbers]


def _falcon() -> tf_policy.TFPolicy:
    return _neural(
        neural_falcon_agent.NeuralFalconAgent,
        num_samples_list=_counts(40, 30, 20),
        exploitation_coefficient=3.0,
        emit_policy_info=(MEAN, TYPE),
    )


def _gumbel() -> tf_policy.TFPolicy:
    return _neural(_Boltzmann, boltzmann_gumbel_exploration_constant=4.0, num_samples_list=_counts(4, 9, 16))


def _arm_network(spec: Any, dot: bool = False) -> Any:
    if dot:
        return global_and_arm_feature_network.create_feed_forward_dot_product_network(spec, (4,), (4,))
    return global_and_arm_feature_network.create_feed_forward_common_tower_network(spec, (4,), (4,), (4,))


def _per_arm(agent: type = _Greedy, spec: Any = PER_ARM, dot: bool = False, **options: Any) -> tf_policy.TFPolicy:
    network = _arm_network(spec, dot)
    return agent(ts.time_step_spec(spec), FOUR, network, adam(), accepts_per_arm_features=True, **options).policy


def _heteroscedastic() -> tf_policy.TFPolicy:
    network = heteroscedastic_q_network.HeteroscedasticQNetwork(FLOATS, ARMS, fc_layer_params=(8,))
    return _Greedy(TIME_STEP, ARMS, network, adam(), emit_policy_info=(MEAN,)).policy


def _constrained() -> tf_policy.TFPolicy:
    limit = constraints.AbsoluteConstraint(
        TIME_STEP, ARMS, q_net(action=ARMS), comparator_fn=tf.greater, absolute_value=0.0
    )
    return greedy_reward_prediction_policy.GreedyRewardPredictionPolicy(
        TIME_STEP, ARMS, q_net(action=ARMS), constraints=[limit]
    )


def _dropout() -> tf_policy.TFPolicy:
    return dropout_thompson_sampling_agent.DropoutThompsonSamplingAgent(
        TIME_STEP, ARMS, adam(), dropout_rate=0.4, network_layers=(16,), emit_policy_info=(MEAN,)
    ).policy


def _objectives() -> tf_policy.TFPolicy:
    scalarizer = multi_objective_scalarizer.LinearScalarizer([0.7, 0.3])
    networks = [(q_net(action=ARMS), tf.compat.v1.losses.mean_squared_error) for _ in range(2)]
    return greedy_multi_objective_neural_agent.GreedyMultiObjectiveNeuralAgent(
        TIME_STEP,
        ARMS,
        scalarizer,
        networks,
        adam(),
        emit_policy_info=(MEAN, "multiobjective_scalarized_predicted_rewards_mean"),
    ).policy


def _greedy_agent() -> Any:
    return _Greedy(TIME_STEP, ARMS, q_net(action=ARMS), adam())


def _static_mixture() -> tf_policy.TFPolicy:
    mixture = tfp.distributions.Categorical(probs=[0.7, 0.3])
    return static_mixture_agent.StaticMixtureAgent(mixture, [_greedy_agent(), _greedy_agent()]).policy


def _exp3_mixture() -> tf_policy.TFPolicy:
    agent = exp3_mixture_agent.Exp3MixtureAgent([_greedy_agent(), _greedy_agent(), _greedy_agent()])
    agent._mixture_weights.assign([0.5, 1.5, -0.5])
    return agent.policy


def _ranking(policy: str, spec: Any = RANKING) -> tf_policy.TFPolicy:
    agent = ranking_agent.RankingAgent(
        spec,
        SLOTS,
        _arm_network(spec.observation),
        adam(),
        policy_type=ranking_agent.RankingPolicyType[policy],
        feedback_model=ranking_agent.FeedbackModel.SCORE_VECTOR,
    )
    return ActionsOnly(agent.policy)


class ActionsOnly(tf_policy.TFPolicy):
    """A policy without its distribution: rankings' cannot be exported, and PolicySaver tries unless there is none."""

    def __init__(self, policy: tf_policy.TFPolicy) -> None:
        super().__init__(policy.time_step_spec, policy.action_spec, policy.policy_state_spec, policy.info_spec)
        self._wrapped = policy

    def _variables(self) -> Any:
        return self._wrapped.variables()

    def _action(self, time_step: Any, policy_state: Any, seed: Any = None) -> Any:
        return self._wrapped.action(time_step, policy_state, seed)

    def _distribution(self, time_step: Any, policy_state: Any) -> Any:
        raise NotImplementedError("rankings have no distribution that TensorFlow can save")


KINDS = [
    bandit("neural-lin-ucb", "NeuralLinUCBAgent, by its statistics", lambda: _neural_lin_ucb(False)),
    bandit(
        "neural-lin-ucb-rewards",
        "NeuralLinUCBAgent while its encoder is trained, ε-greedy",
        lambda: _neural_lin_ucb(True, 0.3),
        True,
    ),
    bandit(
        "neural-greedy",
        "GreedyRewardPredictionAgent, its info predicted rewards",
        lambda: _neural(_Greedy, emit_policy_info=(MEAN, TYPE)),
    ),
    bandit("neural-greedy-masked", "the same, the allowed arms", lambda: _masked(_Greedy)),
    bandit("neural-greedy-per-arm", "the same, features of each arm", lambda: _per_arm(emit_policy_info=(MEAN,))),
    bandit("neural-greedy-dot-product", "the same, by the product of both towers", lambda: _per_arm(dot=True)),
    bandit("neural-greedy-some-arms", "the same, some of the arms absent", lambda: _per_arm(spec=SOME_ARMS)),
    bandit("neural-greedy-heteroscedastic", "the same, a network that has variances too", _heteroscedastic),
    bandit("neural-greedy-constrained", "the same, under a learned constraint", _constrained),
    bandit(
        "neural-epsilon-greedy",
        "NeuralEpsilonGreedyAgent",
        lambda: _neural(
            _Epsilon, epsilon=0.3, emit_policy_info=(MEAN, TYPE), info_fields_to_inherit_from_greedy=(MEAN,)
        ),
        True,
    ),
    bandit(
        "neural-epsilon-greedy-per-arm",
        "the same, features of each arm, some absent",
        lambda: _per_arm(_Epsilon, SOME_ARMS, epsilon=0.3),
        True,
    ),
    bandit(
        "neural-boltzmann",
        "NeuralBoltzmannAgent",
        lambda: _neural(_Boltzmann, temperature=0.8, emit_policy_info=(MEAN, TYPE)),
        True,
    ),
    bandit("neural-boltzmann-gumbel", "the same by Gumbel noise and counts", _gumbel, True),
    bandit("neural-falcon", "NeuralFalconAgent", _falcon, True),
    bandit("dropout-thompson", "DropoutThompsonSamplingAgent: its distribution is random itself", _dropout, True),
    bandit("multi-objective", "GreedyMultiObjectiveNeuralAgent", _objectives),
    bandit("static-mixture", "StaticMixtureAgent of two greedy ones", _static_mixture, True),
    bandit("exp3-mixture", "Exp3MixtureAgent of three greedy ones", _exp3_mixture, True),
    bandit("ranking-cosine", "RankingAgent, similar items penalised", lambda: _ranking("COSINE_DISTANCE"), True),
    bandit("ranking-no-penalty", "RankingAgent, Plackett-Luce", lambda: _ranking("NO_PENALTY"), True),
    bandit("ranking-descending", "RankingAgent, by descending scores", lambda: _ranking("DESCENDING_SCORES")),
]
