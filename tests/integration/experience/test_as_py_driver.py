"""The server records what TF-Agents' PyDriver collects from the same environment and policy in process."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tf_agents.agents.ppo import ppo_clip_agent
from tf_agents.bandits.policies import greedy_reward_prediction_policy
from tf_agents.networks import actor_distribution_network, q_network, value_network
from tf_agents.policies import greedy_policy, py_tf_eager_policy
from tf_agents.specs import BoundedTensorSpec, TensorSpec, tensor_spec
from tf_agents.trajectories import time_step as ts

from policy_client import Experience, RemotePolicy
from saver import PolicySaver
from tests.support import policies
from tests.support.driving import Drifting, assert_close, collected
from tests.support.server import RunningServer, serving

STEPS = 24
OBSERVATION = TensorSpec((4,), tf.float32, "observation")
CHOICE = BoundedTensorSpec((), tf.int64, 0, 1, "action")
NAMES = ("cartpole", "recurrent", "nested", "ppo", "bandit")
# A bandit's episodes have one action.
OPTIONS: dict[str, dict[str, Any]] = {"bandit": {"length": 1}}


def ppo() -> Any:
    """Greedy, so that nothing is drawn; its info is that of the policy that collects: the distribution."""
    actor = actor_distribution_network.ActorDistributionNetwork(OBSERVATION, CHOICE, fc_layer_params=(8,))
    value = value_network.ValueNetwork(OBSERVATION, fc_layer_params=(8,))
    optimizer = tf.keras.optimizers.Adam()
    time_step = ts.time_step_spec(OBSERVATION)
    agent = ppo_clip_agent.PPOClipAgent(time_step, CHOICE, optimizer, actor_net=actor, value_net=value)
    agent.initialize()
    return greedy_policy.GreedyPolicy(agent.collect_policy)


def bandit() -> Any:
    network = q_network.QNetwork(OBSERVATION, CHOICE, fc_layer_params=(8,))
    return greedy_reward_prediction_policy.GreedyRewardPredictionPolicy(
        ts.time_step_spec(OBSERVATION), CHOICE, reward_network=network
    )


@pytest.fixture(scope="module")
def local() -> dict[str, Any]:
    tf.random.set_seed(3)
    made = {name: greedy_policy.GreedyPolicy(policies.make(name)) for name in ("cartpole", "recurrent", "nested")}
    return made | {"ppo": ppo(), "bandit": bandit()}


@pytest.fixture(scope="module")
def driven(local: dict[str, Any]) -> Callable[..., Any]:
    """The policy by that name as a driver of `rows` environments runs it, traced when it is first asked for."""

    @functools.cache
    def made(name: str, rows: int | None) -> Any:
        return py_tf_eager_policy.PyTFEagerPolicy(local[name], use_tf_function=True, batch_time_steps=rows is None)

    return made


@pytest.fixture(scope="module")
def server(local: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("driven")
    for name, policy in local.items():
        PolicySaver(policy).save(str(folder / name), verify=False)  # for time: tests/saver looks at that
    served = {name: folder / name for name in local}
    with serving(served, "--no-watch", "--experience-dir", str(folder / "recorded"), prepared=True) as running:
        yield running


def play(remote: RemotePolicy, environment: Drifting, steps: int) -> None:
    """As a simulator does that knows nothing of TF-Agents: one session, however many episodes."""
    step = environment.reset()
    with remote.session(step.observation) as session:
        for _ in range(steps):
            step = environment.step(session.answer.action)
            session.step(step.observation, step_type=step.step_type, reward=step.reward, discount=step.discount)


def recorded(server: RunningServer, name: str, before: str, rows: int) -> dict[str, Any]:
    """So many rows behind a cursor, and no more."""
    found: list[dict[str, Any]] = []
    with Experience(server.url, name, cursor=before) as experience:
        while sum(len(columns["step"]) for columns in found) < rows:
            found.append(experience.read(wait_ms=10_000).columns)
        assert experience.read(wait_ms=0).rows == 0
    return {key: np.concatenate([columns[key] for columns in found]) for key in found[0]}


def packed(spec: Any, columns: dict[str, Any], path: str, at: int) -> Any:
    """The nest of one row."""
    if isinstance(spec, dict):
        return {key: packed(child, columns, f"{path}/{key}", at) for key, child in spec.items()}
    if isinstance(spec, tuple | list):
        return tuple(packed(child, columns, f"{path}/{number}", at) for number, child in enumerate(spec))
    return columns[path][at]


@pytest.mark.parametrize("truncates", [False, True])
@pytest.mark.parametrize("rows", [None, 3])
@pytest.mark.parametrize("name", NAMES)
def test_rows_are_the_trajectories_of_a_driver(
    server: RunningServer,
    local: dict[str, Any],
    driven: Callable[..., Any],
    name: str,
    rows: int | None,
    truncates: bool,
) -> None:
    options = {"truncates": truncates, **OPTIONS.get(name, {})}
    policy = driven(name, rows)
    theirs = collected(policy, rows, STEPS, **options)
    with Experience(server.url, name, cursor="end", wait_ms=0) as experience:
        experience.read()
        before = experience.cursor
    environment = Drifting(policy.time_step_spec.observation, policy.action_spec, rows, **options)
    with RemotePolicy(server.url, name) as remote:
        play(remote, environment, len(theirs))
    columns = recorded(server, name, before, len(theirs) * (rows or 1))
    assert len(columns["step"]) == len(theirs) * (rows or 1)
    for row in range(rows or 1):
        mine = {key: np.asarray(values)[columns["row"] == row] for key, values in columns.items()}
        order = np.argsort(mine["step"])
        assert mine["step"][order].tolist() == list(range(len(theirs)))
        for at, trajectory in zip(order, theirs, strict=True):
            for field in trajectory._fields:
                wanted = getattr(trajectory, field)
                if rows is not None:
                    wanted = tf.nest.map_structure(lambda leaf, row=row: leaf[row], wanted)
                assert_close(packed(_spec(local[name], field), mine, field, at), wanted)
    ended = columns["next_step_type"] == ts.StepType.LAST
    assert set(columns["discount"][ended].tolist()) == ({0.0, 1.0} if truncates else {0.0})
    assert ((columns["step_type"] == 2) == (columns["next_step_type"] == 0)).all(), "rows between episodes"


def _spec(policy: Any, field: str) -> Any:
    spec = getattr(policy.trajectory_spec, field)
    return tensor_spec.to_nest_array_spec(spec)
