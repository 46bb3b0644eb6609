"""Metadata are data, also where they are the very variables that the policy or its train step is made of."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tf_agents.policies import epsilon_greedy_policy, policy_saver, tf_policy

from app.artifacts.checkpoint_identity import identify
from app.builder.builder import Builder
from app.builder.checkpoint_validation import train_step_in
from app.errors import SwapRefused
from saver import PolicySaver
from tests.support import saver_policies as policies
from tests.support.opened import opened

SAVERS = {"ours": PolicySaver, "plain": policy_saver.PolicySaver}


class Trainer:
    """Policies whose variables have several names; `set` changes every value."""

    def __init__(self, kind: str) -> None:
        self.step = tf.Variable(1, dtype=tf.int64)
        self.epsilon = tf.Variable(0.5)
        self.policy: tf_policy.TFPolicy = policies.q()
        self.metadata = METADATA[kind](self)

    def epsilon_greedy(self) -> tf.Variable:
        self.policy = epsilon_greedy_policy.EpsilonGreedyPolicy(self.policy, epsilon=lambda: self.epsilon)
        self.policy.epsilon_variable = self.epsilon  # tracked, and among its variables
        return self.epsilon

    def counting(self) -> tf.Variable:
        self.policy.steps_trained = self.step
        return self.step

    def saver(self, kind: str) -> policy_saver.PolicySaver:
        return SAVERS[kind](self.policy, train_step=self.step, metadata=self.metadata)

    def set(self, number: int) -> None:
        self.step.assign(number)
        self.epsilon.assign(0.25)
        for variable in self.policy.variables():
            if variable.dtype == tf.float32:
                variable.assign(tf.fill(variable.shape, 0.25))


def _data(trainer: Trainer) -> dict[str, tf.Variable]:
    """One that is a weight under three names, one that is the train step, and values of every kind."""
    return {
        "epsilon": trainer.epsilon_greedy(),
        "exploration": trainer.epsilon,
        "a/b.c": trainer.epsilon,
        "env_steps": trainer.step,
        "map": tf.Variable("desert"),
        "maps": tf.Variable(["a", "b"]),
        "n": tf.Variable(3),
        "truths": tf.Variable([True, False]),
        "byte": tf.Variable(7, dtype=tf.uint8),
        "best": tf.Variable(-np.inf),
        "all": tf.Variable([np.nan, np.inf, 1.0]),
        "half": tf.Variable(np.inf, dtype=tf.float16),
        "short": tf.Variable(np.nan, dtype=tf.bfloat16),
        "seen": tf.Variable([1.0], shape=tf.TensorShape([None])),
    }


# What else the variables are called, and what the metadata have to be after a restore.
METADATA: dict[str, Callable[[Trainer], dict[str, tf.Variable]]] = {
    "data": _data,
    "epsilon": lambda t: {"epsilon": t.epsilon_greedy()},
    "train step of the policy": lambda t: {"env_steps": t.counting(), "bias": t.policy.variables()[-1]},
    "train step of the policy alone": lambda t: {"x": (t.counting(), tf.Variable(1.0))[1]},
}
EXPECTED: dict[str, dict[str, Any]] = {
    "data": {
        "epsilon": 0.25,
        "exploration": 0.25,
        "a/b.c": 0.25,
        "env_steps": 7,
        "map": "desert",
        "maps": ["a", "b"],
        "n": 3,
        "truths": [True, False],
        "byte": 7,
        "best": "-Infinity",
        "all": ["NaN", "Infinity", 1.0],
        "half": "Infinity",
        "short": "NaN",
        "seen": [1.0, 2.0, 3.0],
    },
    "epsilon": {"epsilon": 0.25},
    "train step of the policy": {"env_steps": 7, "bias": [0.25] * 2},
    "train step of the policy alone": {"x": 1.0},
}


def settle(folder: Path) -> Path:
    then = time.time() - 60
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (then, then))
    return folder


def digest(folder: Path) -> str:
    return identify(settle(folder), 0.25, lambda folder, _: train_step_in(folder)).digest


@pytest.mark.parametrize("saver", SAVERS)
@pytest.mark.parametrize("kind", METADATA)
def test_checkpoints_and_exports_serve_with_their_metadata(tmp_path: Path, kind: str, saver: str) -> None:
    trainer = Trainer(kind)
    made = trainer.saver(saver)
    made.save(str(tmp_path / "policy"))
    builder = Builder(opened(tmp_path / "policy"), "tensorflow")
    trainer.set(7)
    if kind == "data":
        trainer.metadata["seen"].assign([1.0, 2.0, 3.0])
    made.save_checkpoint(str(tmp_path / "checkpoint"))
    made.save(str(tmp_path / "export"))
    for name in ("checkpoint", "export"):
        bundle = builder.prepare(tmp_path / name, digest(tmp_path / name), tmp_path / "bundles" / name).bundle
        assert (bundle.train_step, bundle.metadata) == (7, EXPECTED[kind])
        assert builder._of_graph.copy is not None
        for variable in builder._of_graph.copy.model.model_variables:
            assert np.all(variable.numpy() == (0.25 if variable.dtype == tf.float32 else 7)), variable.name
        if saver == "ours":
            assert builder.check(tmp_path / name) == 7


@pytest.mark.parametrize(("saver", "value"), [("ours", np.nan), ("plain", np.inf)])
def test_what_is_a_weight_too_has_to_be_finite(tmp_path: Path, saver: str, value: float) -> None:
    trainer = Trainer("epsilon")
    made = trainer.saver(saver)
    made.save(str(tmp_path / "policy"))
    builder = Builder(opened(tmp_path / "policy"), "tensorflow")
    trainer.epsilon.assign(value)
    for name, save in (("checkpoint", made.save_checkpoint), ("export", made.save)):
        save(str(tmp_path / name)) if name == "checkpoint" or saver == "plain" else made.save(
            tmp_path / name, verify=False
        )
        with pytest.raises(SwapRefused, match=r"model_variables/\d holds 1 values of 1 that are NaN or infinite"):
            builder.prepare(tmp_path / name, digest(tmp_path / name), tmp_path / "bundle")


def by_hand(folder: Path, trainer: Trainer, **changed: Any) -> Path:
    """A checkpoint whose variables are copies: each name has one of its own."""
    weights = [tf.Variable(variable) for variable in trainer.policy.variables()]
    tree = {
        "model_variables": weights,
        "train_step": tf.Variable(trainer.step),
        "metadata": {"epsilon": tf.Variable(0.5)},
    }
    tf.train.Checkpoint(**tree | changed).write(str(folder / "variables" / "variables"))
    return folder


def test_one_variable_may_be_two_in_the_checkpoint_if_they_are_equal(tmp_path: Path) -> None:
    trainer = Trainer("epsilon")
    trainer.saver("plain").save(str(tmp_path / "policy"))
    builder = Builder(opened(tmp_path / "policy"), "tensorflow")
    good = by_hand(tmp_path / "good", trainer)
    bundle = builder.prepare(good, digest(good), tmp_path / "bundle").bundle
    assert bundle.metadata == {"epsilon": 0.5}
    bad = by_hand(tmp_path / "bad", trainer, metadata={"epsilon": tf.Variable(0.1)})
    with pytest.raises(SwapRefused, match="metadata/epsilon and model_variables/0 differ, which are one variable"):
        builder.prepare(bad, digest(bad), tmp_path / "bundle")


def test_two_variables_may_be_one_in_the_checkpoint(tmp_path: Path) -> None:
    trainer = Trainer("epsilon")
    trainer.metadata = {"epsilon": tf.Variable(0.9)}
    trainer.saver("plain").save(str(tmp_path / "policy"))
    builder = Builder(opened(tmp_path / "policy"), "tensorflow")
    trainer.set(7)
    trainer.metadata = {"epsilon": trainer.epsilon}
    for name, save in (
        ("checkpoint", trainer.saver("plain").save_checkpoint),
        ("export", trainer.saver("plain").save),
    ):
        save(str(tmp_path / name))
        bundle = builder.prepare(tmp_path / name, digest(tmp_path / name), tmp_path / "bundle").bundle
        assert (bundle.train_step, bundle.metadata) == (7, {"epsilon": 0.25})
        assert builder._of_graph.copy is not None
        assert builder._of_graph.copy.model.model_variables[0].numpy() == 0.25


def test_a_train_step_that_is_no_number_is_unknown(tmp_path: Path) -> None:
    step = tf.Variable(3.0, dtype=tf.float64)
    made = policy_saver.PolicySaver(policies.q(), train_step=step)
    made.save(str(tmp_path / "policy"))
    builder = Builder(opened(tmp_path / "policy"), "tensorflow")
    for value, expected in ((np.inf, -1), (np.nan, -1), (2.0**70, -1), (8.0, 8)):
        step.assign(value)
        made.save_checkpoint(str(tmp_path / "checkpoint"))
        checkpoint = tmp_path / "checkpoint"
        bundle = builder.prepare(checkpoint, digest(checkpoint), tmp_path / "bundle").bundle
        assert bundle.train_step == expected


def test_files_of_tensorflow_1_are_called_so(tmp_path: Path) -> None:
    trainer = Trainer("epsilon")
    trainer.saver("plain").save(str(tmp_path / "policy"))
    builder = Builder(opened(tmp_path / "policy"), "tensorflow")
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        weight = tf.compat.v1.get_variable("dense/kernel", [2, 2])
        session.run(weight.initializer)
        prefix = str(tmp_path / "old" / "variables" / "variables")
        (tmp_path / "old" / "variables").mkdir(parents=True)
        tf.compat.v1.train.Saver([weight]).save(session, prefix, write_meta_graph=False)
    with pytest.raises(SwapRefused, match="a checkpoint of TensorFlow 1"):
        builder.prepare(tmp_path / "old", digest(tmp_path / "old"), tmp_path / "bundle")
