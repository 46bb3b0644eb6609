"""How saved policies are used: directly, by flattened signatures, and with the variables of a checkpoint."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tf_agents.policies import greedy_policy, policy_loader, tf_policy
from tf_agents.trajectories import time_step

from saver import PolicySaver
from tests.support import saver_policies as policies
from tests.support.saver_policies import Saved

ROWS = 3


def episode(rows: int = ROWS, steps: int = 5) -> list[time_step.TimeStep]:
    """Time steps of CartPole-like observations: the first, those between, the last."""
    seen = tf.random.stateless_uniform((steps, rows, 4), (1, 2), -0.4, 0.4)
    middle = [time_step.transition(observation, tf.ones([rows])) for observation in seen[1:-1]]
    return [time_step.restart(seen[0], rows), *middle, time_step.termination(seen[-1], tf.ones([rows]))]


def nested_observations(rows: int, steps: int = 3) -> list[time_step.TimeStep]:
    numbers = np.random.default_rng(0)
    return [
        time_step.TimeStep(
            tf.fill([rows], time_step.StepType.FIRST if step == 0 else time_step.StepType.MID),
            tf.zeros([rows]),
            tf.ones([rows]),
            {
                "camera": tf.zeros([rows, 2, 2], tf.uint8),
                "speed": tf.constant(numbers.uniform(-1, 1, [rows]), tf.float32),
                "joints": (
                    tf.constant(numbers.uniform(-1, 1, [rows, 2]), tf.float32),
                    tf.constant(numbers.integers(0, 3, [rows, 2]), tf.int32),
                ),
            },
        )
        for step in range(steps)
    ]


def assert_same(found: Any, expected: Any) -> None:
    for a, b in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


@pytest.fixture(scope="module")
def greedy(tmp_path_factory: pytest.TempPathFactory) -> tuple[tf_policy.TFPolicy, Path]:
    """A live recurrent policy that answers the same each time, by what it has seen, and its export."""
    policy = greedy_policy.GreedyPolicy(policies.q_lstm())
    for index, variable in enumerate(policy.variables()):
        strength = 3.0 if variable.shape.rank == 2 else 0.0
        variable.assign(strength * tf.random.stateless_normal(variable.shape, (index, 2)))
    folder = tmp_path_factory.mktemp("greedy") / "policy"
    PolicySaver(policy).save(folder)
    return policy, folder


# Directly


def test_episode_of_a_recurrent_policy_is_that_of_the_live_one(greedy):
    live, folder = greedy
    model = tf.saved_model.load(str(folder))
    state, live_state = model.get_initial_state(batch_size=ROWS), live.get_initial_state(ROWS)
    assert_same(state, live_state)
    seen = set()
    for steps in episode():
        step, live_step = model.action(steps, state), live.action(steps, live_state)
        assert_same(step, live_step)
        state, live_state = step.state, live_step.state
        seen.update(step.action.numpy().tolist())
    assert seen == {0, 1}
    assert not np.allclose(state[0], model.get_initial_state(ROWS)[0])


def test_episode_by_distributions_is_that_of_the_live_policy(saved: Saved):
    live = saved.saver("recurrent")._raw_policy
    model = tf.saved_model.load(str(saved.folder("recurrent")))
    state, live_state = model.get_initial_state(batch_size=ROWS), live.get_initial_state(ROWS)
    for steps in episode():
        step, live_step = model.distribution(steps, state), live.distribution(steps, live_state)
        assert_same(step.action.logits_parameter(), live_step.action.logits_parameter())
        assert_same(step.state, live_step.state)
        assert step.action.sample(2).shape == (2, ROWS)
        state, live_state = step.state, live_step.state


def test_state_may_be_left_out_where_there_is_none(saved: Saved):
    model = tf.saved_model.load(str(saved.folder("q")))
    steps = episode()[0]
    assert model.get_initial_state(batch_size=ROWS) == ()
    for step in (model.action(steps), model.action(steps, ()), model.action(steps, policy_state=())):
        assert (step.action.shape, step.state, step.info) == ((ROWS,), (), ())
    assert_same(
        model.distribution(steps).action.logits_parameter(), model.distribution(steps, ()).action.logits_parameter()
    )


def test_policy_without_distribution_says_so(saved: Saved):
    model = tf.saved_model.load(str(saved.folder("nested")))
    with pytest.raises(tf.errors.InvalidArgumentError, match="assertion failed"):
        model.distribution(nested_observations(ROWS)[0], model.get_initial_state(ROWS))


def test_model_variables_are_those_of_the_policy_and_change_its_answers(greedy):
    live, folder = greedy
    model = tf.saved_model.load(str(folder))
    assert [v.shape for v in model.model_variables] == [v.shape for v in live.variables()]
    assert_same(model.model_variables, live.variables())
    steps = episode()[0]
    for variable in model.model_variables[:-1]:
        variable.assign(tf.zeros_like(variable))
    for bias, action in (((0.0, 1.0), 1), ((1.0, 0.0), 0)):
        model.model_variables[-1].assign(bias)
        assert model.action(steps, model.get_initial_state(ROWS)).action.numpy().tolist() == [action] * ROWS


# By flattened signatures, as the documentation of the class shows


def flat(prefix: str, nest: Any) -> dict[str, tf.Tensor]:
    """The tensors of a nest by their paths below `prefix`."""
    if isinstance(nest, dict):
        items = list(nest.items())
    elif hasattr(nest, "_fields"):
        items = list(nest._asdict().items())
    elif isinstance(nest, list | tuple):
        items = list(enumerate(nest))
    else:
        return {prefix: nest}
    return {name: tensor for key, value in items for name, tensor in flat(f"{prefix}/{key}", value).items()}


def below(prefix: str, tensors: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def test_flattened_episode_is_that_of_the_live_policy(saved: Saved):
    live = saved.saver("nested")._raw_policy
    model = tf.saved_model.load(str(saved.folder("nested")))
    get_initial_state, action = model.signatures["get_initial_state"], model.signatures["action"]
    state, live_state = get_initial_state(batch_size=tf.constant(ROWS)), live.get_initial_state(ROWS)
    assert set(state) == {"count", "trace/0"}
    for steps in nested_observations(ROWS):
        step = action(**flat("0", steps), **{f"1/{name}": value for name, value in state.items()})
        live_step = live.action(steps, live_state)
        assert step.keys() == (flat("action", live_step.action) | flat("state", live_step.state)).keys() | {
            "info/speed_seen"
        }
        for part in ("action", "state", "info"):
            for name, value in flat(part, getattr(live_step, part)).items():
                np.testing.assert_array_equal(step[name], value, name)
        state, live_state = below("state/", step), live_step.state
    assert state["count"].numpy().tolist() == [3] * ROWS


def test_flattened_state_without_nest_paths_goes_back_in_under_its_own_names(saved: Saved):
    model = tf.saved_model.load(str(saved.folder("no nest paths")))
    action = model.signatures["action"]
    state = model.signatures["get_initial_state"](batch_size=tf.constant(ROWS))
    for count, steps in enumerate(nested_observations(ROWS), start=1):
        left, right = steps.observation["joints"]
        observation = {name: steps.observation[name] for name in ("camera", "speed")} | {"left": left, "right": right}
        inputs = steps._asdict() | observation
        del inputs["observation"]
        step = action(**inputs, **state)
        state = {name: step[name] for name in state}
        assert state["count"].numpy().tolist() == [count] * ROWS
        np.testing.assert_array_equal(step["speed_seen"], steps.observation["speed"])


def test_flattened_signatures_and_direct_calls_answer_alike(greedy):
    model = tf.saved_model.load(str(greedy[1]))
    direct, flattened = model.get_initial_state(ROWS), model.get_initial_state(ROWS)
    for steps in episode():
        step = model.action(steps, direct)
        by_name = model.signatures["action"](**flat("0", steps), **flat("1", flattened))
        assert_same([by_name["action"], by_name["state/0"], by_name["state/1"]], [step.action, *step.state])
        direct, flattened = step.state, [by_name["state/0"], by_name["state/1"]]


# With the variables of a checkpoint


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "with metadata"])
def trained(request, tmp_path_factory: pytest.TempPathFactory) -> tuple[PolicySaver, Path]:
    """`export`, and a `checkpoint` that is one training step ahead of it."""
    step, seen = tf.Variable(1, dtype=tf.int64), tf.Variable(10, dtype=tf.int64)
    saver = PolicySaver(policies.q(), train_step=step, metadata={"seen": seen} if request.param else None)
    folder = tmp_path_factory.mktemp("trained")
    saver.save(folder / "export")
    step.assign(2)
    seen.assign(20)
    for index, variable in enumerate(saver._raw_policy.variables()):
        variable.assign(tf.random.stateless_normal(variable.shape, (index, 5)))
    saver.save_checkpoint(folder / "checkpoint")
    return saver, folder


def assert_is_ahead(model: Any, saver: PolicySaver) -> None:
    assert_same(model.model_variables, saver._raw_policy.variables())
    steps = episode()[0]
    assert_same(
        model.distribution(steps).action.logits_parameter(),
        saver._raw_policy.distribution(steps).action.logits_parameter(),
    )
    assert int(model.get_train_step()) == 2
    assert {name: int(value) for name, value in model.get_metadata().items()} == saver.get_metadata()


def test_graph_of_an_export_and_variables_of_a_checkpoint_are_a_full_model(trained, tmp_path):
    saver, folder = trained
    shutil.copytree(folder / "export", tmp_path / "mixed", ignore=shutil.ignore_patterns("variables"))
    shutil.copytree(folder / "checkpoint" / "variables", tmp_path / "mixed" / "variables")
    assert_is_ahead(tf.saved_model.load(str(tmp_path / "mixed")), saver)


def test_checkpoint_is_restored_into_a_loaded_export(trained):
    saver, folder = trained
    model = tf.saved_model.load(str(folder / "export"))
    assert int(model.get_train_step()) == 1
    tf.train.Checkpoint(policy=model).read(str(folder / "checkpoint/variables/variables")).assert_consumed()
    assert_is_ahead(model, saver)


def test_tf_agents_own_loader_takes_export_and_checkpoint(trained, tmp_path):
    saver, folder = trained
    export, checkpoint = str(folder / "export"), str(folder / "checkpoint")
    policy_loader.materialize_saved_model(export, checkpoint, str(tmp_path / "full"))
    for policy in (policy_loader.load(export, checkpoint), policy_loader.load(str(tmp_path / "full"))):
        assert policy.get_train_step() == 2
        assert_same(policy.variables(), saver._raw_policy.variables())
