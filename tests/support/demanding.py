"""Policies that do not take whatever their spec allows: they refuse it, or answer NaN, or take one row a call."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tf_agents.policies import tf_policy
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import policy_step, time_step

NUMBER = tf.TensorSpec((), tf.float32, "observation")
TEXT = tf.TensorSpec((), tf.string, "observation")
ID = tf.TensorSpec((), tf.int64, "observation")
ACTION = tensor_spec.BoundedTensorSpec((), tf.float32, -1e9, 1e9, "action")
STATE = tf.TensorSpec((), tf.float32, "state")


class Demanding(tf_policy.TFPolicy):
    """Its action is `answer(weight, observation, policy_state)`; with a state, a pair of action and next state."""

    def __init__(self, observation: Any, answer: Callable[..., Any], state: Any = (), weight: float = 1.0) -> None:
        super().__init__(time_step.time_step_spec(observation), ACTION, policy_state_spec=state)
        self.weight = tf.Variable(weight, name="weight")
        self._answer = answer

    def _variables(self) -> list[tf.Variable]:
        return [self.weight]

    def _action(self, time_step: Any, policy_state: Any, seed: Any = None) -> policy_step.PolicyStep:
        answer = self._answer(self.weight, time_step.observation, policy_state)
        action, state = answer if isinstance(answer, tuple) else (answer, policy_state)
        return policy_step.PolicyStep(action, state, ())

    def _distribution(self, time_step: Any, policy_state: Any) -> policy_step.PolicyStep:
        raise NotImplementedError


def _logarithm(weight: Any, observation: Any, _: Any) -> Any:
    return tf.math.log(observation) * weight


def _root(weight: Any, observation: Any, _: Any) -> Any:
    return tf.math.sqrt(observation - 5.0) * weight


def _quotient(weight: Any, observation: Any, _: Any) -> Any:
    return tf.cast(100 // observation, tf.float32) * weight


def _asserting(weight: Any, observation: Any, _: Any) -> Any:
    check = tf.debugging.assert_greater(observation, 2.0, message="the observation has to be above 2")
    with tf.control_dependencies([check]):
        return observation * weight


def _far_ids(weight: Any, observation: Any, _: Any) -> Any:
    return tf.gather(tf.constant([0.1, 0.2, 0.3]), observation - 1000) * weight


def _some_ids(weight: Any, observation: Any, _: Any) -> Any:
    return tf.gather(tf.constant([0.25]), observation) * weight


def _numbers(weight: Any, observation: Any, _: Any) -> Any:
    return tf.strings.to_number(observation) * weight


def _examples(weight: Any, observation: Any, _: Any) -> Any:
    return tf.io.parse_example(observation, {"x": tf.io.FixedLenFeature([], tf.float32)})["x"] * weight


def _json(weight: Any, observation: Any, _: Any) -> Any:
    serialized = tf.io.decode_json_example(observation)
    return tf.io.parse_example(serialized, {"x": tf.io.FixedLenFeature([], tf.float32)})["x"] * weight


def _each(read: Callable[[Any], Any]) -> Callable[..., Any]:
    def answer(weight: Any, observation: Any, _: Any) -> Any:
        return tf.map_fn(read, observation, fn_output_signature=tf.float32) * weight

    return answer


def _image(data: Any) -> Any:
    return tf.reduce_mean(tf.cast(tf.io.decode_jpeg(data, channels=3), tf.float32))


def _compressed(data: Any) -> Any:
    return tf.io.decode_raw(tf.io.decode_compressed(data, "ZLIB"), tf.float32)[0]


def _raw(weight: Any, observation: Any, _: Any) -> Any:
    """As many rows as there are in the bytes."""
    return tf.reshape(tf.io.decode_raw(observation, tf.float32), [-1]) * weight


def _lines(weight: Any, observation: Any, _: Any) -> Any:
    """As many rows as there are lines."""
    return tf.strings.to_number(tf.strings.split(observation, "\n").values) * weight


def _sensible(weight: Any, observation: Any, _: Any) -> Any:
    """Those that are no outliers."""
    return tf.boolean_mask(observation, tf.abs(observation) < 0.5) * weight


def _one_row(weight: Any, observation: Any, state: Any) -> Any:
    """As in RT-1: written for one robot, and exported for any number."""
    before = tf.reshape(state, [1, 1])
    return observation + before[:, 0] * weight, before[:, 0] + 1.0


MAKERS: dict[str, Callable[[], Demanding]] = {
    "logarithm": lambda: Demanding(NUMBER, _logarithm),
    "root": lambda: Demanding(NUMBER, _root),
    "integer quotient": lambda: Demanding(ID, _quotient),
    "asserts": lambda: Demanding(NUMBER, _asserting),
    "far ids": lambda: Demanding(ID, _far_ids),
    "some ids": lambda: Demanding(ID, _some_ids),
    "numbers in text": lambda: Demanding(TEXT, _numbers),
    "serialized examples": lambda: Demanding(TEXT, _examples),
    "JSON": lambda: Demanding(TEXT, _json),
    "images": lambda: Demanding(TEXT, _each(_image)),
    "compressed": lambda: Demanding(TEXT, _each(_compressed)),
    "raw bytes": lambda: Demanding(TEXT, _raw),
    "lines": lambda: Demanding(TEXT, _lines),
    "left out": lambda: Demanding(NUMBER, _sensible),
    "one row": lambda: Demanding(NUMBER, _one_row, STATE),
}
# Part of what each says to made-up inputs.
SAYS = {
    "asserts": "the observation has to be above 2",
    "far ids": "is not in [0, 3)",
    "numbers in text": "could not correctly convert string",
    "serialized examples": "is required but could not be found",
}


def text_input() -> tuple[Callable[[Any], Any], Any]:
    """Four numbers in a text, in place of a time step."""

    def to_time_step(sent: Any) -> Any:
        numbers = tf.strings.to_number(tf.strings.split(sent["text"], ",").to_tensor())
        observation = tf.reshape(numbers, [-1, 4])
        rows = tf.shape(observation)[0]
        return time_step.TimeStep(tf.zeros([rows], tf.int32), tf.zeros([rows]), tf.ones([rows]), observation), ()

    return to_time_step, {"text": tf.TensorSpec((), tf.string, "text")}
