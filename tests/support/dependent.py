"""Policies of which the rows of a call depend on each other, each in its own way, and some that only look so."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp
from tf_agents.policies import gaussian_policy, ou_noise_policy, tf_policy
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import policy_step
from tf_agents.trajectories import time_step as ts

FLOATS = tf.TensorSpec([4], tf.float32, "observation")
BOX = tensor_spec.BoundedTensorSpec([2], tf.float32, -10.0, 10.0, "action")
THREE = tensor_spec.BoundedTensorSpec([], tf.int64, 0, 2, "action")
KERNEL = [[1.0, -2.0, 0.5], [0.3, 0.7, -1.0], [-0.6, 0.2, 0.9], [0.4, -0.8, 0.1]]


class Own(tf_policy.TFPolicy):
    """Its action is what `answer` makes of observation and state, which stays what it is but for `after`."""

    def __init__(self, action: Any = BOX, state: Any = ()) -> None:
        super().__init__(ts.time_step_spec(FLOATS), action, policy_state_spec=state)
        self.kernel = tf.Variable(KERNEL)

    def _variables(self) -> list[tf.Variable]:
        return [self.kernel]

    def _action(self, time_step: Any, policy_state: Any, seed: Any = None) -> policy_step.PolicyStep:
        action = self.answer(time_step.observation, policy_state)
        return policy_step.PolicyStep(action, self.after(time_step.observation, policy_state))

    def after(self, observation: tf.Tensor, state: Any) -> Any:
        return state

    def _distribution(self, time_step: Any, policy_state: Any) -> policy_step.PolicyStep:
        raise NotImplementedError


class CenteredOverTheBatch(Own):
    def answer(self, observation: tf.Tensor, _: Any) -> tf.Tensor:
        return (observation - tf.reduce_mean(observation, axis=0)) @ self.kernel[:, :2]


class CenteredByWeight(Own):
    """Over the batch, where its first weight says so."""

    def answer(self, observation: tf.Tensor, _: Any) -> tf.Tensor:
        mean = tf.reduce_mean(observation, axis=0)
        return (observation - tf.where(self.kernel[0, 0] > 0, mean, tf.zeros_like(mean))) @ self.kernel[:, :2]


class BatchNormalised(Own):
    """In training mode, with a discrete action: what it says seldom changes."""

    def __init__(self) -> None:
        super().__init__(THREE)

    def answer(self, observation: tf.Tensor, _: Any) -> tf.Tensor:
        values = observation @ self.kernel
        mean, variance = tf.nn.moments(values, axes=[0])
        return tf.argmax(tf.nn.batch_normalization(values, mean, variance, None, None, 1e-3), axis=-1)


class FirstRowsCounter(Own):
    """Every row takes the first row's counter for its own."""

    def __init__(self) -> None:
        super().__init__(tf.TensorSpec([], tf.int32), tf.TensorSpec([], tf.int32, "counter"))

    def answer(self, observation: tf.Tensor, state: Any) -> tf.Tensor:
        return tf.zeros_like(state) + state[0]

    def after(self, observation: tf.Tensor, state: Any) -> Any:
        return state + 1


class LargestOfManyRows(Own):
    """Only in a batch of more than 64 rows."""

    def answer(self, observation: tf.Tensor, _: Any) -> tf.Tensor:
        many = tf.cast(tf.shape(observation)[0] > 64, tf.float32)
        return observation[:, :2] + many * tf.reduce_max(observation)


class DividedByRows(Own):
    def answer(self, observation: tf.Tensor, _: Any) -> tf.Tensor:
        return observation[:, :2] / tf.cast(tf.shape(observation)[0], tf.float32)


class ByPlace(Own):
    """A row's place in its batch is in its answer."""

    def answer(self, observation: tf.Tensor, _: Any) -> tf.Tensor:
        place = tf.cast(tf.range(tf.shape(observation)[0]), tf.float32)
        return observation[:, :2] + place[:, None]


class Attentive(Own):
    """Rows attend to each other."""

    def answer(self, observation: tf.Tensor, _: Any) -> tf.Tensor:
        return (tf.nn.softmax(observation @ tf.transpose(observation)) @ observation)[:, :2]


class MixedState(Own):
    """Only its next state mixes rows; its action does not."""

    def __init__(self) -> None:
        super().__init__(state=tf.TensorSpec([2], tf.float32, "trace"))

    def answer(self, observation: tf.Tensor, state: Any) -> tf.Tensor:
        return observation[:, :2] + state

    def after(self, observation: tf.Tensor, state: Any) -> Any:
        return 0.9 * state + 0.1 * tf.reduce_mean(observation[:, :2], axis=0)


class OneRow(Own):
    """Takes one row only."""

    def answer(self, observation: tf.Tensor, _: Any) -> tf.Tensor:
        return observation[:, :2] + tf.reshape(2.0 * observation[:, 2], [1])


class SharedNoise(Own):
    def answer(self, observation: tf.Tensor, _: Any) -> tf.Tensor:
        return observation[:, :2] + tf.random.normal([2])


class ParameterNoise(Own):
    """The weights of a call are drawn for all of its rows, and each row has a little noise of its own."""

    def answer(self, observation: tf.Tensor, _: Any) -> tf.Tensor:
        kernel = self.kernel[:, :2] + 0.01 * tf.random.normal([4, 2])
        mean = observation @ kernel
        return mean + tf.random.normal(tf.shape(mean))


class SharedCoin(Own):
    """Explores for all rows of a call, or for none."""

    def __init__(self) -> None:
        super().__init__(THREE)

    def answer(self, observation: tf.Tensor, _: Any) -> tf.Tensor:
        greedy = tf.argmax(observation @ self.kernel, axis=-1)
        drawn = tf.random.uniform(tf.shape(greedy), 0, 3, tf.int64)
        return tf.where(tf.random.uniform([]) < 0.3, drawn, greedy)


class SeededByPlace(Own):
    """Draws from a seed that stands in its graph, for each place in a batch the same in each call."""

    def answer(self, observation: tf.Tensor, _: Any) -> tf.Tensor:
        return observation[:, :2] + tf.random.stateless_normal(tf.shape(observation[:, :2]), [1, 2])


class BatchNormalisedAndSampled(Own):
    """Statistics of the batch, behind a draw."""

    def answer(self, observation: tf.Tensor, _: Any) -> tf.Tensor:
        mean = observation[:, :2] - tf.reduce_mean(observation[:, :2], axis=0)
        return mean + tf.random.normal(tf.shape(mean))


class Counting(Own):
    """Each call changes a variable."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = tf.Variable(0.0)

    def _variables(self) -> list[tf.Variable]:
        return [self.kernel, self.calls]

    def answer(self, observation: tf.Tensor, _: Any) -> tf.Tensor:
        return observation[:, :2] + 0.001 * self.calls.assign_add(1.0)


class Inner(Own):
    """A greedy policy for others to put noise on."""

    def _distribution(self, time_step: Any, policy_state: Any) -> policy_step.PolicyStep:
        return policy_step.PolicyStep(tfp.distributions.Deterministic(time_step.observation @ self.kernel[:, :2]))

    def _action(self, time_step: Any, policy_state: Any, seed: Any = None) -> policy_step.PolicyStep:
        return policy_step.PolicyStep(time_step.observation @ self.kernel[:, :2], policy_state)


def gaussian() -> tf_policy.TFPolicy:
    return gaussian_policy.GaussianPolicy(Inner(), scale=0.5)


def ornstein_uhlenbeck() -> tf_policy.TFPolicy:
    return ou_noise_policy.OUNoisePolicy(Inner())


# Policies that only look so.


class Linear(Own):
    def answer(self, observation: tf.Tensor, _: Any) -> tf.Tensor:
        return observation @ self.kernel[:, :2]


class NormalisedByItself(Own):
    """Statistics of each row; large sums, in which rounding shows."""

    def answer(self, observation: tf.Tensor, _: Any) -> tf.Tensor:
        wide = tf.repeat(observation, 500, axis=1)
        mean, variance = tf.nn.moments(wide, axes=[1], keepdims=True)
        return ((wide - mean) * tf.math.rsqrt(variance + 1e-6))[:, :2]


class OwnNoise(Own):
    def answer(self, observation: tf.Tensor, _: Any) -> tf.Tensor:
        mean = observation[:, :2]
        drawn = tfp.distributions.MultivariateNormalDiag(mean, tf.ones_like(mean)).sample()
        return tf.where(tf.random.uniform([tf.shape(mean)[0], 1]) < 0.5, drawn, mean)


class SeldomRandom(Own):
    """Explores for one row in a thousand: calls seldom differ."""

    def __init__(self) -> None:
        super().__init__(THREE)

    def answer(self, observation: tf.Tensor, _: Any) -> tf.Tensor:
        greedy = tf.argmax(observation @ self.kernel, axis=-1)
        drawn = tf.random.uniform(tf.shape(greedy), 0, 3, tf.int64)
        return tf.where(tf.random.uniform(tf.shape(greedy)) < 0.001, drawn, greedy)


class OwnCounter(FirstRowsCounter):
    def answer(self, observation: tf.Tensor, state: Any) -> tf.Tensor:
        return state


class Tied(Own):
    """All values are the same but for rounding."""

    def __init__(self) -> None:
        super().__init__(THREE)

    def answer(self, observation: tf.Tensor, _: Any) -> tf.Tensor:
        return tf.argmax(observation @ tf.repeat(self.kernel[:, :1], 3, axis=1) * [1.0, 1.0 + 1e-7, 1.0], axis=-1)


class OfPositive(Own):
    """Refuses rows with a negative number."""

    def answer(self, observation: tf.Tensor, _: Any) -> tf.Tensor:
        with tf.control_dependencies([tf.debugging.assert_non_negative(observation)]):
            return tf.sqrt(observation[:, :2])


# What makes each policy → a part of the reason that is given.
DEPENDENT: dict[Callable[[], tf_policy.TFPolicy], str] = {
    CenteredOverTheBatch: "action: action of a row",
    BatchNormalised: "action: action of a row",
    FirstRowsCounter: "action: action of a row",
    LargestOfManyRows: "action: action of a row",
    DividedByRows: "action: action of a row alone differs from that among 2",
    ByPlace: "action: action of a row alone differs",
    Attentive: "action: action of a row",
    MixedState: "action: state of a row",
    OneRow: "action: ",
    SharedNoise: "action draws the same numbers for all rows of a call (RandomStandardNormal)",
    ParameterNoise: "action draws the same numbers for all rows of a call (RandomStandardNormal)",
    SharedCoin: "action draws the same numbers for all rows of a call (RandomUniform)",
    SeededByPlace: "action: action of a row alone differs",
    BatchNormalisedAndSampled: "action: action of a row depends on what other rows hold",
    Counting: "action changes variables that all rows share (AssignAddVariableOp)",
    gaussian: "action draws the same numbers for all rows of a call",
    ornstein_uhlenbeck: "action changes variables that all rows share",
}
INDEPENDENT = [Linear, NormalisedByItself, OwnNoise, SeldomRandom, OwnCounter, Tied, OfPositive]
