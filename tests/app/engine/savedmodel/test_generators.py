"""Policies that draw from a `tf.random.Generator`: each copy draws numbers of its own, whatever state was saved."""

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

from app.builder.builder import Builder
from app.builder.open_export import open_export
from app.engine.base import Engine
from app.engine.savedmodel.generators import generator_states
from app.engine.savedmodel.load import load_copy
from app.versions.loader import BundleLoader
from saver import PolicySaver
from tests.support.server import serving

FLOATS = tf.TensorSpec([2], tf.float32, "observation")
WIDE = tensor_spec.BoundedTensorSpec([], tf.float32, -100.0, 100.0, "action")
OBSERVATION = {"observation": [0.0, 0.0]}
Draw = Callable[[tf.random.Generator, tf.Tensor], tf.Tensor]


class DrawingPolicy(tf_policy.TFPolicy):
    """Its action is what `draw` gets from a generator, for so many rows, times a weight."""

    def __init__(self, draw: Draw, listed: bool = True, state: Any = ()) -> None:
        self._draw = draw
        self._generator = tf.random.Generator.from_seed(3)
        self.weight = tf.Variable(1.0)
        self._listed = [self.weight, self._generator.state] if listed else [self.weight]
        super().__init__(ts.time_step_spec(FLOATS), WIDE, policy_state_spec=state, clip=False)

    def _variables(self) -> list[tf.Variable]:
        return self._listed

    def _get_initial_state(self, batch_size: Any) -> Any:
        return self._generator.normal([batch_size]) if self._policy_state_spec != () else ()

    def _action(self, time_step: Any, policy_state: Any, seed: Any = None) -> Any:
        action = self._draw(self._generator, tf.shape(time_step.observation)[0])
        return policy_step.PolicyStep(self.weight * action, policy_state)


def plainly(generator: tf.random.Generator, rows: tf.Tensor) -> tf.Tensor:
    return generator.normal([rows])


def in_a_branch(generator: tf.random.Generator, rows: tf.Tensor) -> tf.Tensor:
    return tf.cond(rows > 100, lambda: tf.zeros([rows]), lambda: generator.uniform([rows]))


def in_a_loop(generator: tf.random.Generator, rows: tf.Tensor) -> tf.Tensor:
    def longer(number: tf.Tensor, total: tf.Tensor) -> Any:
        return number + 1, tf.ensure_shape(total + generator.normal([rows]), [None])

    return tf.while_loop(lambda number, _: number < 3, longer, [0, tf.zeros([rows])])[1]


def as_seeds(generator: tf.random.Generator, rows: tf.Tensor) -> tf.Tensor:
    return tf.random.stateless_normal([rows], tf.cast(generator.make_seeds(1)[:, 0], tf.int64))


def drawn(engine: Engine, calls: int = 4) -> list[float]:
    """What some calls of one row give."""
    row = {
        "0/step_type": np.ones(1, np.int32),
        "0/reward": np.zeros(1, np.float32),
        "0/discount": np.ones(1, np.float32),
    }
    row["0/observation"] = np.zeros((1, 2), np.float32)
    return [float(engine.run("action", row)["action"][0]) for _ in range(calls)]


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("saver", [PolicySaver, policy_saver.PolicySaver])
def test_no_two_copies_draw_the_same(saver: Any, listed: bool, tmp_path: Path) -> None:
    saver(DrawingPolicy(plainly, listed)).save(str(tmp_path / "export"))
    graph = open_export(tmp_path / "export", tmp_path / "graphs")
    bundle = Builder(graph).prepare(None, graph.digest, tmp_path / "version").bundle
    loader = BundleLoader()
    one, other = loader.load(graph, bundle), BundleLoader().load(graph, bundle)
    numbers = drawn(one) + drawn(other)
    loader.give_back(one)
    numbers += drawn(loader.load(graph, bundle))  # the same copy, restored again as in a swap
    assert len(set(numbers)) == len(numbers) == 12


@pytest.mark.parametrize("draw", [plainly, in_a_branch, in_a_loop, as_seeds])
def test_the_state_is_found_wherever_it_is_drawn_from(draw: Draw) -> None:
    policy = DrawingPolicy(draw)
    step = ts.restart(tf.zeros([2, 2]), 2)
    function = tf.function(lambda: policy.action(step).action).get_concrete_function()
    assert [id(state.handle) for state in generator_states([function])] == [id(policy._generator.state.handle)]


def test_variables_that_are_no_state_are_left_alone() -> None:
    policy = DrawingPolicy(lambda generator, rows: tf.random.normal([rows]))
    function = tf.function(lambda: policy.action(ts.restart(tf.zeros([2, 2]), 2)).action).get_concrete_function()
    assert generator_states([function]) == []


def test_initial_states_are_drawn_afresh_too(tmp_path: Path) -> None:
    policy = DrawingPolicy(lambda _, rows: tf.zeros([rows]), state=tf.TensorSpec([], tf.float32, "mood"))
    PolicySaver(policy).save(str(tmp_path / "export"))
    graph = open_export(tmp_path / "export", tmp_path / "graphs")
    bundle = Builder(graph).prepare(None, graph.digest, tmp_path / "version").bundle
    engines = [BundleLoader().load(graph, bundle) for _ in range(2)]
    moods = [float(next(iter(engine.initial_state(1).values()))[0]) for engine in engines]
    assert moods[0] != moods[1]
    assert bundle.engine == load_copy(graph).name


def test_workers_starts_and_swaps_share_no_numbers(tmp_path: Path) -> None:
    policy = DrawingPolicy(plainly)
    train_step = tf.Variable(1, dtype=tf.int64)
    saver = PolicySaver(policy, train_step=train_step)
    saver.save(str(tmp_path / "policy"))
    train_step.assign(2)
    saver.save_checkpoint(str(tmp_path / "policy" / "checkpoints" / "2"))
    options = ("--workers", "2", "--no-watch", "--state-dir", str(tmp_path / "state"), "--log-level", "warning")
    numbers: list[float] = []
    versions = []
    for _ in range(2):
        with serving({"policy": tmp_path / "policy"}, *options) as server:
            for swap in ({"checkpoint": "2"}, {"checkpoint": "export"}):
                for _ in range(20):  # each by a connection of its own, which any worker may take
                    answer = server.http.post("/action", json=OBSERVATION, headers={"Connection": "close"}).json()
                    numbers.append(answer["action"])
                versions.append(server.reload("policy", **swap).json()["version"])
            seeded = server.http.post("/action", json=OBSERVATION | {"options": {"seed": 7}})
            assert seeded.status_code == 501
            assert "draws random numbers of its own" in seeded.text
    assert versions == ["2", "export"] * 2
    assert len(set(numbers)) == len(numbers) == 80
