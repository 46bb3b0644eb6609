"""Constants that are functions of variables: compiled versions answer as TF-Agents does, for every row of a table."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tf_agents.policies import policy_saver, tf_policy
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import policy_step
from tf_agents.trajectories import time_step as ts

from app.builder import compile as compiling
from app.builder.compile import Compiler
from app.engine.litert import LiteRTEngine
from app.engine.savedmodel.load import load_copy
from tests.support.opened import opened

ROWS = 1000
FUNCTIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "identity": tf.identity,
    "relu": tf.nn.relu,
    "relu6": tf.nn.relu6,
    "leaky": tf.nn.leaky_relu,
    "abs": tf.abs,
    "clipped": lambda v: tf.clip_by_value(v, -1e3, 1e3),
    "square": tf.square,
    "sign": tf.sign,
    "rounded": tf.round,
    "positive part of the exponential": lambda v: tf.exp(tf.minimum(v, 10.0)),
    "where": lambda v: tf.where(v > 0, v, 0.1 * v),
    "branch on a variable": lambda v: tf.cond(tf.reduce_sum(v) > 0, lambda: v, lambda: -v),
    "normalised": lambda v: v / tf.norm(v),
    "softmax": tf.nn.softmax,
    "integer": lambda v: tf.cast(tf.cast(tf.clip_by_value(v, -1e6, 1e6), tf.int32), tf.float32),
    "half": lambda v: tf.cast(tf.cast(v, tf.float16), tf.float32),
    "sorted": tf.sort,
    "of its shape": lambda v: v * tf.cast(tf.shape(v)[0], tf.float32),
    "of many": lambda v: tf.nn.relu(tf.concat([v[1:], v[:1]], 0)) + tf.nn.elu(v),
}


class Table(tf_policy.TFPolicy):
    """Looks an item up: in a function of its variable, once for each of several."""

    def __init__(self, functions: dict[str, Callable[[tf.Tensor], tf.Tensor]]) -> None:
        self.values = tf.Variable(np.random.default_rng(0).uniform(0.5, 1.5, ROWS).astype(np.float32))
        self.functions = functions
        item = {"item": tensor_spec.BoundedTensorSpec([], tf.int32, 0, ROWS - 1, "item")}
        super().__init__(
            ts.time_step_spec(item), {f"{i:02}": tf.TensorSpec([], tf.float32) for i in range(len(functions))}
        )

    def _variables(self) -> list[tf.Variable]:
        return [self.values]

    def _action(self, time_step: Any, policy_state: Any, seed: Any = None) -> policy_step.PolicyStep:
        item = time_step.observation["item"]
        action = {f"{i:02}": self.looked_up(f, item) for i, f in enumerate(self.functions.values())}
        return policy_step.PolicyStep(action, policy_state)

    def looked_up(self, function: Callable[[tf.Tensor], tf.Tensor], item: tf.Tensor) -> tf.Tensor:
        return tf.gather(function(self.values), item)

    def _distribution(self, time_step: Any, policy_state: Any) -> policy_step.PolicyStep:
        raise NotImplementedError


class InBranches(Table):
    """The function is worked out in a branch that the input chooses."""

    def looked_up(self, function: Callable[[tf.Tensor], tf.Tensor], item: tf.Tensor) -> tf.Tensor:
        return tf.cond(
            tf.reduce_max(item) > 0,
            lambda: tf.gather(function(self.values), item),
            lambda: tf.gather(self.values, item),
        )


class Repeated(Table):
    """The function is worked out for each row; with a fixed batch size, that is known beforehand."""

    def looked_up(self, function: Callable[[tf.Tensor], tf.Tensor], item: tf.Tensor) -> tf.Tensor:
        repeated = tf.broadcast_to(self.values, [tf.shape(item)[0], ROWS])
        return tf.gather(function(repeated), item, batch_dims=1)


class Folded(Table):
    """Conversion folds one variable into another."""

    def looked_up(self, function: Callable[[tf.Tensor], tf.Tensor], item: tf.Tensor) -> tf.Tensor:
        return tf.gather(function(self.values), item) * self.values[3] * 2.0 - self.values[4]


SOME = {name: FUNCTIONS[name] for name in ("relu", "clipped")}
POLICIES = {
    "at once": (lambda: Table(FUNCTIONS), {}),
    "in branches": (lambda: InBranches(SOME), {}),
    "repeated": (lambda: Repeated(SOME), {}),
    "repeated for a fixed batch": (lambda: Repeated(SOME), {"batch_size": 8}),
    "folded": (lambda: Folded(SOME), {}),
}


def versions() -> list[np.ndarray]:
    """Weights: such as the export's, of both signs and all magnitudes with zeros, negative, and all the same."""
    generator = np.random.default_rng(1)
    any_sign = generator.choice([-1.0, 1.0], ROWS) * 10.0 ** generator.uniform(-5, 5, ROWS)
    any_sign[3:7] = [-2.0, 0.0, -0.0, 1.0]
    near = generator.uniform(0.5, 1.5, ROWS)
    near[[17, 930]] = [-1.02, -0.3]
    return [values.astype(np.float32) for values in (near, any_sign, -np.abs(any_sign), np.full(ROWS, 6.0))]


@pytest.mark.parametrize("kind", POLICIES)
def test_compiled_versions_answer_every_row_as_tf_agents_does(kind, tmp_path: Path):
    make, options = POLICIES[kind]
    policy = make()
    policy_saver.PolicySaver(policy, **options).save(str(tmp_path / "export"))
    graph = opened(tmp_path / "export")
    copy = load_copy(graph)
    compiler = Compiler(copy, graph.spec, graph.serving)
    item = np.arange(ROWS, dtype=np.int32)
    inputs = {"0/step_type": np.ones(ROWS, np.int32), "0/observation/item": item}
    inputs |= {"0/reward": np.zeros(ROWS, np.float32), "0/discount": np.ones(ROWS, np.float32)}
    for values in versions():
        policy.values.assign(values)
        copy.model.model_variables[0].assign(values)
        compiler.compile(copy, tmp_path / "m.tflite")
        found = LiteRTEngine(tmp_path / "m.tflite", graph.spec).run("action", inputs)
        expected = policy.action(ts.restart({"item": tf.constant(item)}, ROWS)).action
        for (name, tensor), function in zip(sorted(expected.items()), policy.functions, strict=True):
            # In the last digits a product may differ, and only there.
            exact = 0.0 if kind != "folded" else 1e-6
            np.testing.assert_allclose(found[f"action/{name}"], tensor.numpy(), rtol=exact, err_msg=function)


def test_constants_that_are_worked_out_need_no_conversion(tmp_path: Path, monkeypatch):
    policy_saver.PolicySaver(Table(FUNCTIONS)).save(str(tmp_path / "export"))
    graph = opened(tmp_path / "export")
    copy = load_copy(graph)
    compiler = Compiler(copy, graph.spec, graph.serving)
    monkeypatch.setattr(compiling, "_convert", lambda _: pytest.fail("it is converted"))
    for values in versions():
        copy.model.model_variables[0].assign(values)
        assert compiler.compile(copy, tmp_path / "m.tflite")


def test_what_a_branch_works_out_from_constants_alone_is_converted_for_each_version(tmp_path: Path):
    policy_saver.PolicySaver(InBranches(SOME)).save(str(tmp_path / "export"))
    graph = opened(tmp_path / "export")
    assert not Compiler(load_copy(graph), graph.spec, graph.serving).patches
