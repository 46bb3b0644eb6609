"""Small policies of every kind that the journeys need, made anew with fixed seeds, and their exports."""

import atexit
import copy
import functools
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path, PosixPath
from typing import Any

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

import tensorflow as tf
import tensorflow_probability as tfp
from tf_agents.networks import actor_distribution_network, actor_distribution_rnn_network, q_network, q_rnn_network
from tf_agents.policies import actor_policy, greedy_policy, policy_saver, q_policy, tf_policy
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import policy_step
from tf_agents.trajectories import time_step as ts

from saver import PolicySaver
from tests.support.shared import made_once

FLOATS4 = tf.TensorSpec([4], tf.float32, "observation")
TWO = tensor_spec.BoundedTensorSpec([], tf.int64, 0, 1, "action")
BOX = tensor_spec.BoundedTensorSpec([2], tf.float32, [-1.0, -2.0], [1.0, 2.0], "action")
NESTED = {
    "camera": tensor_spec.BoundedTensorSpec([2, 3], tf.uint8, 0, 200, "camera"),
    "body": (tf.TensorSpec([3], tf.float32, "joints"), tensor_spec.BoundedTensorSpec([], tf.int32, 0, 9, "gear")),
}


class NumberPolicy(tf_policy.TFPolicy):
    """Its action shows its weights: 1,000 times the variable `number`, plus the observation's first entry.

    `number` stands at both ends of a list of variables with a large one between, so that a torn read shows.
    """

    def __init__(self, number: int = 0, filler: int = 1, state: Any = ()) -> None:
        self.first = tf.Variable(number, dtype=tf.int64)
        self.filler = tf.Variable(tf.zeros([filler]))
        self.last = tf.Variable(number, dtype=tf.int64)
        spec = tensor_spec.BoundedTensorSpec([2], tf.int64, 0, 10**12, "action")
        super().__init__(ts.time_step_spec(FLOATS4), spec, policy_state_spec=state)

    def _variables(self) -> list[tf.Variable]:
        return [self.first, self.filler, self.last]

    def set_number(self, number: int) -> None:
        self.first.assign(number)
        self.last.assign(number)

    def _distribution(self, time_step: Any, policy_state: Any) -> Any:
        row = tf.cast(time_step.observation[:, 0], tf.int64)
        both = tf.stack([1000 * self.first + row, 1000 * self.last + row], axis=1)
        return policy_step.PolicyStep(tfp.distributions.Deterministic(both), policy_state)


class CountingPolicy(NumberPolicy):
    """Its action shows its weights, and in which step of its episode it is: 1,000 times the number, plus the step.

    Its state is that step and, as a float, the last observation's first entry.
    """

    def __init__(self, filler: int = 1) -> None:
        state = {"steps": tf.TensorSpec([], tf.int64), "last": tf.TensorSpec([1], tf.float32)}
        super().__init__(filler=filler, state=state)

    def _distribution(self, time_step: Any, policy_state: Any) -> Any:
        steps = policy_state["steps"] + 1
        both = tf.stack([1000 * self.first + steps, 1000 * self.last + steps], axis=1)
        # Infinite after an observation of 1e38 or more.
        after = {"steps": steps, "last": time_step.observation[:, :1] * 10.0}
        return policy_step.PolicyStep(tfp.distributions.Deterministic(both), after)


class InformedPolicy(tf_policy.TFPolicy):
    """Its info has a number for each row, and one for the whole batch."""

    def __init__(self) -> None:
        info = {"row": tf.TensorSpec([], tf.float32), "batch": tf.TensorSpec([], tf.float32)}
        super().__init__(ts.time_step_spec(FLOATS4), TWO, info_spec=info)
        self.share = tf.Variable(0.5)

    def _variables(self) -> list[tf.Variable]:
        return [self.share]

    def _distribution(self, time_step: Any, policy_state: Any) -> Any:
        first = time_step.observation[:, 0]
        action = tfp.distributions.Deterministic(tf.cast(first > 0, tf.int64))
        return policy_step.PolicyStep(action, policy_state, {"row": first, "batch": tf.identity(self.share)})


class FlattenNested(tf.keras.layers.Layer):
    """The nested observation as one vector."""

    def call(self, observation: Any) -> tf.Tensor:
        camera = observation["camera"]
        flat = tf.reshape(tf.cast(camera, tf.float32), tf.concat([tf.shape(camera)[:-2], [6]], 0))
        joints, gear = observation["body"]
        return tf.concat([flat / 255.0, joints, tf.cast(gear, tf.float32)[..., None]], -1)


def _cartpole() -> tf_policy.TFPolicy:
    network = q_network.QNetwork(FLOATS4, TWO, fc_layer_params=(16,))
    return greedy_policy.GreedyPolicy(q_policy.QPolicy(ts.time_step_spec(FLOATS4), TWO, network))


def _boltzmann() -> tf_policy.TFPolicy:
    network = q_network.QNetwork(FLOATS4, TWO, fc_layer_params=(16,))
    return q_policy.QPolicy(ts.time_step_spec(FLOATS4), TWO, network)


def _recurrent() -> tf_policy.TFPolicy:
    network = q_rnn_network.QRnnNetwork(FLOATS4, TWO, lstm_size=(8,), input_fc_layer_params=(8,))
    return greedy_policy.GreedyPolicy(q_policy.QPolicy(ts.time_step_spec(FLOATS4), TWO, network))


def _continuous() -> tf_policy.TFPolicy:
    network = actor_distribution_network.ActorDistributionNetwork(FLOATS4, BOX, fc_layer_params=(8,))
    return actor_policy.ActorPolicy(ts.time_step_spec(FLOATS4), BOX, network)


def _nested() -> tf_policy.TFPolicy:
    network = actor_distribution_rnn_network.ActorDistributionRnnNetwork(
        NESTED, BOX, preprocessing_combiner=FlattenNested(), input_fc_layer_params=(8,), lstm_size=(5,)
    )
    policy = actor_policy.ActorPolicy(ts.time_step_spec(NESTED), BOX, network)
    return greedy_policy.GreedyPolicy(policy)


# Name → what makes the policy, and the options of its PolicySaver. The first is the default policy.
MAKERS: dict[str, tuple[Callable[[], tf_policy.TFPolicy], dict[str, Any]]] = {
    "cartpole": (_cartpole, {}),
    "boltzmann": (_boltzmann, {}),
    "recurrent": (_recurrent, {}),
    "continuous": (_continuous, {}),
    "nested": (_nested, {}),
    "fixed": (_recurrent, {"batch_size": 3}),
    "informed": (InformedPolicy, {}),
    "unnested": (_cartpole, {"use_nest_path_signatures": False}),
}


def make(name: str) -> tf_policy.TFPolicy:
    """The policy, with the same weights each time."""
    tf.keras.utils.set_random_seed(7)
    try:
        return MAKERS[name][0]()
    finally:
        tf.random.set_seed(None)  # or what is exported, here and in other tests, would replay its samples


def export(name: str, folder: Path) -> None:
    """Exports the policy with its own options, train step 11 and two metadata of one dtype."""
    saver = PolicySaver(
        make(name),
        train_step=tf.Variable(11, dtype=tf.int64),
        metadata={"episodes": tf.Variable(5, dtype=tf.int64), "frames": tf.Variable(6, dtype=tf.int64)},
        **MAKERS[name][1],
    )
    saver.save(str(folder), verify=False)  # for time: tests/saver looks at that


class Exports(PosixPath):
    """A folder with exports of the policies of `MAKERS`: each is made when it is first asked for, see `made_once`."""

    def __truediv__(self, name: str | os.PathLike[str]) -> Path:
        place = Path(self, name)
        return made_once(place, functools.partial(export, str(name))) if name in MAKERS else place


@functools.cache
def _exported(
    plain: bool, filler: int, kind_of_policy: type[NumberPolicy]
) -> tuple[NumberPolicy, tf.Variable, Any, Path]:
    """A policy whose number is 0, its train step, its saver, and the folder of its export, which stays as it is."""
    policy, train_step = kind_of_policy(filler=filler), tf.Variable(0, dtype=tf.int64)
    saver = (policy_saver.PolicySaver if plain else PolicySaver)(policy, train_step=train_step)
    parent = Path(tempfile.mkdtemp(prefix="test-exports-"))
    atexit.register(shutil.rmtree, parent, ignore_errors=True)
    saver.save(str(parent / "export"), **({} if plain else {"verify": False}))
    return policy, train_step, saver, parent / "export"


class NumberTrainer:
    """Publishes versions of a NumberPolicy, or one like it: the number in the answers is the train step.

    Those of one kind have one export, which is made once, and share their policy: see `copied`.
    """

    def __init__(
        self, folder: Path, plain: bool = False, filler: int = 1, kind_of_policy: type[NumberPolicy] = NumberPolicy
    ) -> None:
        self.folder = folder
        self.policy, self._train_step, self.saver, export = _exported(plain, filler, kind_of_policy)
        shutil.copytree(export, folder)

    def copied(self, folder: Path) -> "NumberTrainer":
        """Another one, of a copy of the export. Both change the same policy."""
        shutil.copytree(self.folder, folder)
        other = copy.copy(self)
        other.folder = folder
        return other

    def publish(self, number: int, name: str | None = None, folder: Path | None = None) -> str:
        """Saves a checkpoint whose answers show `number`; returns its name."""
        name = name or f"{number:010d}"
        self.policy.set_number(number)
        self._train_step.assign(number)
        self.saver.save_checkpoint(str((folder or self.folder / "checkpoints") / name))
        return name
