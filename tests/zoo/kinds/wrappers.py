"""Policies without a network, policies around others, and qtopt's cross-entropy method."""

import sys
import types
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from tf_agents.networks import network
from tf_agents.policies import (
    actor_policy,
    fixed_policy,
    gaussian_policy,
    greedy_policy,
    ou_noise_policy,
    policy_info_updater_wrapper,
    random_tf_policy,
    temporal_action_smoothing,
    tf_policy,
)
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import policy_step

from tests.zoo.kind import BOX, FLOATS, MASKED_TIME_STEP, THREE, TIME_STEP, Kind, actor_net, split_mask
from tests.zoo.kinds.actions import NESTED, SHIFTED
from tests.zoo.kinds.actors import ddpg, lively_actor


class ScriptedPolicy(tf_policy.TFPolicy):
    """Plays a script over and over; its state counts the steps."""

    def __init__(self, script: list[int]) -> None:
        super().__init__(TIME_STEP, THREE, policy_state_spec=tf.TensorSpec([], tf.int32, "step"))
        self._script = tf.constant(script, tf.int64)

    def _variables(self) -> list[tf.Variable]:
        return []

    def _distribution(self, time_step: Any, policy_state: Any) -> Any:
        action = tf.gather(self._script, policy_state % self._script.shape[0])
        return policy_step.PolicyStep(tfp.distributions.Deterministic(action), policy_state + 1)


def _random(action: Any, time_step: Any = TIME_STEP, **options: Any) -> tf_policy.TFPolicy:
    return random_tf_policy.RandomTFPolicy(time_step, action, **options)


def _fixed(action: Any, spec: Any, **options: Any) -> tf_policy.TFPolicy:
    return fixed_policy.FixedPolicy(action, TIME_STEP, spec, **options)


def _actor() -> tf_policy.TFPolicy:
    return actor_policy.ActorPolicy(TIME_STEP, BOX, lively_actor())


def _smoothed(policy: tf_policy.TFPolicy) -> tf_policy.TFPolicy:
    return temporal_action_smoothing.TemporalActionSmoothing(policy, 0.8)


class CertainPolicy(tf_policy.TFPolicy):
    """Its info is a dictionary, which the updater wants: how large its largest logit is."""

    def __init__(self) -> None:
        super().__init__(TIME_STEP, THREE, info_spec={"certainty": tf.TensorSpec([], tf.float32, "certainty")})
        self._weights = tf.Variable(tf.random.normal([4, 3]), name="weights")

    def _variables(self) -> list[tf.Variable]:
        return [self._weights]

    def _distribution(self, time_step: Any, policy_state: Any) -> Any:
        logits = tf.matmul(time_step.observation, self._weights)
        distribution = tfp.distributions.Categorical(logits=logits, dtype=tf.int64)
        return policy_step.PolicyStep(distribution, policy_state, {"certainty": tf.reduce_max(logits, -1)})


def _informed(policy: tf_policy.TFPolicy) -> tf_policy.TFPolicy:
    """Adds the model's number to the info."""
    info = {**policy.info_spec, "model": tensor_spec.BoundedTensorSpec([1], tf.int32, 0, 9, "model")}

    def update(step: Any) -> dict[str, tf.Tensor]:
        return {"model": tf.fill([tf.shape(step.info["certainty"])[0], 1], 3)}

    return policy_info_updater_wrapper.PolicyInfoUpdaterWrapper(policy, info, update)


def _training_dropout() -> tf_policy.TFPolicy:
    """Its network drops units when it acts: the distribution is random itself."""
    network = actor_net(dropout_layer_params=[0.4], fc_layer_params=(16,))
    return actor_policy.ActorPolicy(TIME_STEP, BOX, network, training=True)


class _Critic(network.Network):
    """Scores of pairs of an observation and an action."""

    def __init__(self, input_tensor_spec: Any, name: str = "Critic") -> None:
        super().__init__(input_tensor_spec, state_spec=(), name=name)
        self._layers_in_turn = [tf.keras.layers.Dense(8, activation="tanh"), tf.keras.layers.Dense(1)]

    def call(self, inputs: Any, step_type: Any = None, network_state: Any = (), training: bool = False) -> Any:
        """One score for each row."""
        scores = tf.concat(inputs, -1)
        for layer in self._layers_in_turn:
            scores = layer(scores)
        return tf.squeeze(scores, -1), network_state


class _Sampler:
    """Draws actions around the means, and moves the means to the elites."""

    def sample_batch_and_clip(self, samples: int, mean: Any, variance: Any, observation: Any = None) -> tf.Tensor:
        """[rows, samples, 2] actions within their bounds."""
        shape = tf.concat([tf.shape(mean)[:1], [samples], tf.shape(mean)[1:]], 0)
        noise = tf.random.normal(shape) * tf.sqrt(variance)[:, None]
        return tf.clip_by_value(mean[:, None] + noise, BOX.minimum, BOX.maximum)

    def refit_distribution_to(self, elites: tf.Tensor, actions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The elites' mean and variance."""
        return tf.unstack(tf.stack(tf.nn.moments(tf.gather(actions, elites, batch_dims=1), axes=1)))


def _cem() -> tf_policy.TFPolicy:
    # The wheel of tf-agents 0.19 lacks `policies.samplers`, of which CEMPolicy needs one name for an annotation.
    stub = types.ModuleType("tf_agents.policies.samplers")
    stub.qtopt_cem_actions_sampler = types.SimpleNamespace(ActionsSampler=_Sampler)
    sys.modules.setdefault(stub.__name__, stub)
    from tf_agents.policies import qtopt_cem_policy

    return qtopt_cem_policy.CEMPolicy(
        TIME_STEP,
        BOX,
        _Critic((FLOATS, BOX)),
        _Sampler(),
        init_mean=[0.0, 0.0],
        init_var=[1.0, 1.0],
        num_samples=16,
        num_iterations=3,
    )


_RANDOM, _AROUND = "Random and fixed", "Around other policies"
_HANDS = {"move": np.array([0.5, -0.5], np.float32), "hands": (2, 1)}
KINDS = [
    Kind("random-discrete", _RANDOM, "RandomTFPolicy, one category", lambda: _random(THREE), stochastic=True),
    Kind("random-continuous", _RANDOM, "RandomTFPolicy, floats", lambda: _random(BOX), stochastic=True),
    Kind("random-nested", _RANDOM, "RandomTFPolicy, a nest", lambda: _random(NESTED), stochastic=True),
    Kind(
        "random-shifted",
        _RANDOM,
        "RandomTFPolicy, categories from 3 on, with log-probabilities",
        lambda: _random(SHIFTED, emit_log_probability=True),
        stochastic=True,
    ),
    Kind(
        "random-masked",
        _RANDOM,
        "RandomTFPolicy among the allowed actions",
        lambda: _random(THREE, MASKED_TIME_STEP, observation_and_action_constraint_splitter=split_mask),
        stochastic=True,
    ),
    Kind("fixed", _RANDOM, "FixedPolicy, its log-probability 0", lambda: _fixed(2, THREE)),
    Kind("fixed-nested", _RANDOM, "FixedPolicy, a nest", lambda: _fixed(_HANDS, NESTED, emit_log_probability=False)),
    Kind("scripted", _RANDOM, "a script by the step in its state", lambda: ScriptedPolicy([0, 2, 2, 1])),
    Kind(
        "ou-noise",
        _AROUND,
        "OUNoisePolicy around an actor",
        lambda: ou_noise_policy.OUNoisePolicy(ddpg().policy, ou_stddev=0.1, ou_damping=0.6, clip=False),
        stochastic=True,
        stateful=True,
        draws_once_per_call=True,
    ),
    Kind(
        "gaussian-noise",
        _AROUND,
        "GaussianPolicy around an actor",
        lambda: gaussian_policy.GaussianPolicy(ddpg().policy, scale=0.3),
        stochastic=True,
        draws_once_per_call=True,
    ),
    Kind("smoothed", _AROUND, "TemporalActionSmoothing around an actor", lambda: _smoothed(_actor()), stochastic=True),
    Kind(
        "smoothed-greedy",
        _AROUND,
        "the same around a greedy one",
        lambda: _smoothed(greedy_policy.GreedyPolicy(_actor())),
    ),
    Kind(
        "info-updated",
        _AROUND,
        "PolicyInfoUpdaterWrapper: the model's number in the info",
        lambda: _informed(CertainPolicy()),
        stochastic=True,
    ),
    Kind(
        "info-updated-greedy",
        _AROUND,
        "the same around a greedy one",
        lambda: _informed(greedy_policy.GreedyPolicy(CertainPolicy())),
    ),
    Kind(
        "training-dropout",
        _AROUND,
        "an actor whose network drops units when it acts",
        _training_dropout,
        stochastic=True,
    ),
    Kind("cem", "Q-learning", "CEMPolicy: the best of sampled actions by a critic", _cem, stochastic=True),
]
