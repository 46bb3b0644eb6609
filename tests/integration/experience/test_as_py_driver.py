"""Rows of experience are the trajectories that TF-Agents' PyDriver collects from the same steps, field by field."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tf_agents.drivers import py_driver
from tf_agents.environments import batched_py_environment, py_environment
from tf_agents.policies import py_policy, py_tf_eager_policy, tf_policy
from tf_agents.specs import array_spec, tensor_spec
from tf_agents.trajectories import policy_step, trajectory
from tf_agents.trajectories import time_step as ts

from app.wire import msgpack_body
from saver import PolicySaver
from tests.support import policies
from tests.support.server import RunningServer, serving
from tests.zoo.kinds import actions, bandits

STEPS = 40


def _ppo() -> tf_policy.TFPolicy:
    return actions._ppo(tensor_spec.BoundedTensorSpec([2], tf.float32, -1, 1, "action"))


# Name → what makes the policy.
POLICIES: dict[str, Callable[[], tf_policy.TFPolicy]] = {
    "cartpole": lambda: policies.make("cartpole"),
    "recurrent": lambda: policies.make("recurrent"),
    "nested": lambda: policies.make("nested"),
    "boltzmann": lambda: policies.make("boltzmann"),
    "ppo": _ppo,
    "bandit": bandits._lin_ucb,
}
# Those that give the same actions in this process: the others draw theirs.
SAME_HERE = ("cartpole", "recurrent", "nested", "bandit")
SESSIONS = itertools.count()


class Environment(py_environment.PyEnvironment):
    """Observations drawn from the spec; episodes of 1 to 6 steps, or of one, that end or are truncated."""

    def __init__(self, spec: ts.TimeStep, action_spec: Any, seed: int, longest: int) -> None:
        super().__init__()
        self._spec, self._action = spec, action_spec
        self._draw = np.random.RandomState(seed)
        self._longest = longest
        self._left = 0

    def observation_spec(self) -> Any:
        return self._spec.observation

    def action_spec(self) -> Any:
        return self._action

    def _observation(self) -> Any:
        return array_spec.sample_spec_nest(self._spec.observation, self._draw)

    def _reset(self) -> ts.TimeStep:
        self._left = self._draw.randint(1, self._longest + 1)
        return ts.restart(self._observation())

    def _step(self, action: Any) -> ts.TimeStep:
        if self._current_time_step.is_last():
            return self.reset()
        self._left -= 1
        reward = np.float32(self._draw.normal())
        if self._left:
            return ts.transition(self._observation(), reward, 0.75)
        return (ts.termination if self._draw.rand() < 0.5 else ts.truncation)(self._observation(), reward)


class SessionPolicy(py_policy.PyPolicy):
    """Steps a session: the observation goes to the server, and its answer is the action."""

    def __init__(self, server: RunningServer, name: str, policy: tf_policy.TFPolicy, **begin: Any) -> None:
        specs = [tensor_spec.to_array_spec(spec) for spec in (policy.time_step_spec, policy.action_spec)]
        super().__init__(*specs, info_spec=tensor_spec.to_array_spec(policy.info_spec))
        self._server, self._begin = server, begin
        self.id = f"driven-{next(SESSIONS)}"
        self._root = f"/v1/policies/{name}/sessions"
        self._steps = 0

    def _action(self, time_step: ts.TimeStep, policy_state: Any, seed: int | None = None) -> policy_step.PolicyStep:
        body = {name: plain(value) for name, value in time_step._asdict().items()}
        if self._steps:
            path, body = f"{self._root}/{self.id}/action", body | {"step": self._steps}
        else:
            path, body = self._root, body | {"id": self.id, **self._begin}
        answer = self._server.http.post(path, json=body).raise_for_status().json()
        self._steps += 1
        info = like(self._info_spec, answer["info"]) if "info" in answer else ()
        return policy_step.PolicyStep(like(self._action_spec, answer["action"]), policy_state, info)


def plain(nest: Any) -> Any:
    if isinstance(nest, dict):
        return {key: plain(child) for key, child in nest.items()}
    if isinstance(nest, tuple):
        return [plain(child) for child in nest]
    return np.asarray(nest).tolist()


def like(spec: Any, answer: Any) -> Any:
    if isinstance(spec, dict):
        return {key: like(child, answer[key]) for key, child in spec.items()}
    if isinstance(spec, tuple):
        return tuple(like(child, answer[place]) for place, child in enumerate(spec))
    return np.asarray(answer, spec.dtype)


def columns(collected: trajectory.Trajectory) -> dict[str, np.ndarray]:
    """The leaves of a trajectory by the names of columns."""
    found: dict[str, np.ndarray] = {}

    def walk(path: str, nest: Any) -> None:
        if isinstance(nest, dict):
            for key, child in nest.items():
                walk(f"{path}/{key}", child)
        elif isinstance(nest, tuple | list):
            for place, child in enumerate(nest):
                walk(f"{path}/{place}", child)
        else:
            found[path] = np.asarray(nest)

    for name, nest in collected._asdict().items():
        walk(name, nest)
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningServer, dict[str, tf_policy.TFPolicy]]]:
    folder = tmp_path_factory.mktemp("driven")
    known, folders = {}, {}
    for name, make in POLICIES.items():
        tf.keras.utils.set_random_seed(7)
        known[name] = make()
        tf.random.set_seed(None)
        folders[name] = folder / name
        PolicySaver(known[name], train_step=tf.Variable(3, dtype=tf.int64)).save(str(folders[name]), verify=False)
    with serving(folders, "--no-watch", "--experience-dir", str(folder / "experience")) as server:
        yield server, known


def environment(policy: tf_policy.TFPolicy, name: str, seed: int) -> Environment:
    spec, action = (tensor_spec.to_array_spec(each) for each in (policy.time_step_spec, policy.action_spec))
    return Environment(spec, action, seed, longest=1 if name == "bandit" else 6)


def driven(env: py_environment.PyEnvironment, policy: py_policy.PyPolicy) -> list[dict[str, np.ndarray]]:
    collected: list[trajectory.Trajectory] = []
    driver = py_driver.PyDriver(env, policy, [collected.append], max_steps=STEPS)
    driver.run(env.reset(), policy.get_initial_state(env.batch_size or 1) if name_has_state(policy) else ())
    return [columns(each) for each in collected]


def name_has_state(policy: py_policy.PyPolicy) -> bool:
    return policy.policy_state_spec != ()


def rows_of(server: RunningServer, policy: str, session: str, count: int) -> dict[str, Any]:
    """The rows of a session, when there are so many."""
    parts: list[dict[str, Any]] = []
    cursor = ""
    while sum(len(part["step"]) for part in parts) < count:
        answer = server.http.get(
            f"/v1/policies/{policy}/experience",
            params={"cursor": cursor, "wait_ms": 10_000},
            headers={"Accept": "application/msgpack"},
        ).raise_for_status()
        page = msgpack_body.decode(answer.content)
        assert page["rows"], "the rows do not come"
        cursor, found = page["cursor"], page["columns"]
        mine = [place for place, each in enumerate(found["session"]) if each == session]
        if mine:
            kept = {
                name: values if isinstance(values, np.ndarray) else np.array(values) for name, values in found.items()
            }
            parts.append({name: values[mine] for name, values in kept.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def check(rows: dict[str, Any], collected: list[dict[str, np.ndarray]], dtypes_of: dict[str, Any]) -> None:
    assert len(rows["step"]) == len(collected)
    for name in collected[0]:
        expected = np.stack([each[name] for each in collected])
        found = rows[name]
        assert found.shape == expected.shape, name
        assert found.dtype == dtypes_of[name], name
        np.testing.assert_array_equal(found, expected.astype(found.dtype), err_msg=name)


def dtypes(policy: tf_policy.TFPolicy) -> dict[str, Any]:
    spec = tensor_spec.to_array_spec(policy.trajectory_spec)
    found = {}

    def walk(path: str, nest: Any) -> None:
        if isinstance(nest, dict):
            for key, child in nest.items():
                walk(f"{path}/{key}", child)
        elif isinstance(nest, tuple | list):
            for place, child in enumerate(nest):
                walk(f"{path}/{place}", child)
        else:
            found[path] = nest.dtype

    for name, nest in spec._asdict().items():
        walk(name, nest)
    return found


@pytest.mark.parametrize("name", POLICIES)
def test_rows_are_what_py_driver_collects(made: tuple[RunningServer, dict[str, tf_policy.TFPolicy]], name: str) -> None:
    server, known = made
    policy = known[name]
    begin = {} if name in SAME_HERE else {"options": {"seed": 5}}
    stepped = SessionPolicy(server, name, policy, **begin)
    collected = driven(environment(policy, name, 3), stepped)
    # What was observed last was not sent: no step of the session followed.
    rows = rows_of(server, name, stepped.id, len(collected) - 1)
    check(rows, collected[:-1], dtypes(policy))
    kinds = set(zip(rows["step_type"].tolist(), rows["next_step_type"].tolist(), strict=True))
    assert {(0, 2), (2, 0)} <= kinds
    ends = rows["next_step_type"] == 2
    assert set(rows["discount"][ends].tolist()) == {0.0, 1.0}, "ended and truncated"
    assert set(rows["train_step"].tolist()) == {3}
    assert rows["step"].tolist() == list(range(len(collected) - 1))
    assert set(rows["seed"].tolist()) == ({-1} if name in SAME_HERE else {5})
    if name == "ppo":
        assert {each for each in rows if each.startswith("policy_info/")}, "the distribution's parameters"
    if name in SAME_HERE:
        here = driven(environment(policy, name, 3), py_tf_eager_policy.PyTFEagerPolicy(policy))
        for column, values in rows.items():
            if column in here[0]:
                expected = np.stack([each[column] for each in here[:-1]])
                compare = np.testing.assert_allclose if values.dtype.kind == "f" else np.testing.assert_array_equal
                compare(values, expected, **({"rtol": 1e-4, "atol": 1e-5} if values.dtype.kind == "f" else {}))


def test_vector_gives_the_rows_of_each_of_its_environments(
    made: tuple[RunningServer, dict[str, tf_policy.TFPolicy]],
) -> None:
    server, known = made
    policy = known["nested"]
    batch = batched_py_environment.BatchedPyEnvironment(
        [environment(policy, "nested", seed) for seed in (1, 2)], multithreading=False
    )
    stepped = SessionPolicy(server, "nested", policy)
    collected = driven(batch, stepped)[:-1]
    rows = rows_of(server, "nested", stepped.id, 2 * len(collected))
    for row in range(2):
        mine = {name: values[rows["row"] == row] for name, values in rows.items()}
        check(mine, [{name: value[row] for name, value in each.items()} for each in collected], dtypes(policy))
