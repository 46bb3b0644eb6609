"""Small real TF-Agents policies; each is made anew, with weights of its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf
from tf_agents.networks import q_network, q_rnn_network
from tf_agents.policies import q_policy, random_tf_policy, tf_policy
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import policy_step, time_step

from saver import PolicySaver

CARTPOLE = tensor_spec.BoundedTensorSpec(
    (4,), tf.float32, [-4.8, -9.0, -0.4, -9.0], [4.8, 9.0, 0.4, 9.0], "observation"
)
ACTION = tensor_spec.BoundedTensorSpec((), tf.int64, 0, 1, "action")


def q(observation: tf.TypeSpec = CARTPOLE, units: int = 3) -> tf_policy.TFPolicy:
    """Samples from its values; no state."""
    network = q_network.QNetwork(observation, ACTION, fc_layer_params=(units,))
    return q_policy.QPolicy(time_step.time_step_spec(observation), ACTION, network)


def q_lstm() -> tf_policy.TFPolicy:
    network = q_rnn_network.QRnnNetwork(
        CARTPOLE, ACTION, input_fc_layer_params=(3,), lstm_size=(2,), output_fc_layer_params=None
    )
    return q_policy.QPolicy(time_step.time_step_spec(CARTPOLE), ACTION, network)


def random() -> tf_policy.TFPolicy:
    """No variables, no distribution."""
    return random_tf_policy.RandomTFPolicy(time_step.time_step_spec(CARTPOLE), ACTION)


NESTED_OBSERVATION = {
    "camera": tensor_spec.BoundedTensorSpec((2, 2), tf.uint8, 0, 255, "camera"),
    "speed": tensor_spec.BoundedTensorSpec((), tf.float32, -1.0, 1.0, "speed"),
    "joints": (
        tf.TensorSpec((2,), tf.float32, "left"),
        tensor_spec.BoundedTensorSpec((2,), tf.int32, [0, -5], [3, 5], "right"),
    ),
}
NESTED_ACTION = {
    "move": tensor_spec.BoundedTensorSpec((2,), tf.float32, [-1.0, -2.0], [1.0, 2.0], "move"),
    "grip": tensor_spec.BoundedTensorSpec((), tf.int32, 0, 2, "grip"),
}


class NestedPolicy(tf_policy.TFPolicy):
    """Nested observation, action, state and info, by one weight."""

    def __init__(self, clip: bool = True) -> None:
        super().__init__(
            time_step.time_step_spec(NESTED_OBSERVATION),
            NESTED_ACTION,
            policy_state_spec={
                "count": tf.TensorSpec((), tf.int32, "count"),
                "trace": [tf.TensorSpec((2,), tf.float32, "trace")],
            },
            clip=clip,
            info_spec={"speed_seen": tf.TensorSpec((), tf.float32, "speed_seen")},
        )
        self._weight = tf.Variable(1.0, name="weight")

    def _variables(self) -> list[tf.Variable]:
        return [self._weight]

    def _action(self, time_step: Any, policy_state: Any, seed: Any = None) -> policy_step.PolicyStep:
        speed = time_step.observation["speed"]
        left, right = time_step.observation["joints"]
        action = {"move": tf.clip_by_value(left * self._weight, -1.0, 1.0), "grip": tf.math.abs(right[:, 0]) % 3}
        state = {"count": policy_state["count"] + 1, "trace": [policy_state["trace"][0] + left]}
        return policy_step.PolicyStep(action, state, {"speed_seen": speed})

    def _distribution(self, time_step: Any, policy_state: Any) -> policy_step.PolicyStep:
        raise NotImplementedError


def input_fn_and_spec() -> tuple[Callable[[Any], Any], Any]:
    """Four named sensors in place of a time step."""
    spec = {
        "position": tensor_spec.BoundedTensorSpec((2,), tf.float32, -4.8, 4.8, "position"),
        "speed": tf.TensorSpec((2,), tf.float32, "speed"),
    }

    def to_time_step(sensors: Any) -> Any:
        observation = tf.concat([sensors["position"], sensors["speed"]], -1)
        rows = tf.shape(observation)[0]
        first, zero, one = tf.zeros([rows], tf.int32), tf.zeros([rows]), tf.ones([rows])
        return time_step.TimeStep(first, zero, one, observation), ()

    return to_time_step, spec


def one_tensor() -> tuple[Callable[[Any], Any], Any]:
    """The observation alone, with a name of its own."""

    def to_time_step(observation: Any) -> Any:
        return input_fn_and_spec()[0]({"position": observation[:, :2], "speed": observation[:, 2:]})

    return to_time_step, tf.TensorSpec((4,), tf.float32, "sensors")


# Every kind of export: name → its saver.
SAVERS: dict[str, Callable[[], PolicySaver]] = {
    "q": lambda: PolicySaver(q()),
    "nested": lambda: PolicySaver(NestedPolicy()),
    "recurrent": lambda: PolicySaver(q_lstm()),
    "no nest paths": lambda: PolicySaver(NestedPolicy(), use_nest_path_signatures=False),
    "fixed batch": lambda: PolicySaver(q(), batch_size=2),
    "fixed batch, recurrent": lambda: PolicySaver(q_lstm(), batch_size=2),
    "input_fn": lambda: PolicySaver(q(), input_fn_and_spec=input_fn_and_spec()),
    "input_fn, one tensor": lambda: PolicySaver(q(), input_fn_and_spec=one_tensor()),
    "random": lambda: PolicySaver(random()),
}


class Saved:
    """Exports of every kind, made when they are first asked for. Tests may not write into them."""

    def __init__(self, parent: Path) -> None:
        self._parent = parent
        self._savers: dict[str, PolicySaver] = {}

    def saver(self, name: str) -> PolicySaver:
        self.folder(name)
        return self._savers[name]

    def folder(self, name: str) -> Path:
        folder = self._parent / name
        if name not in self._savers:
            self._savers[name] = SAVERS[name]()
            self._savers[name].save(folder, verify=False)  # for time: tests/saver/test_verify.py looks at that
        return folder
