"""TF-Agents' agents learn from what a server recorded, as the dataset gives it."""

import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import tensorflow as tf
from tf_agents.agents.ddpg import critic_network
from tf_agents.agents.dqn import dqn_agent
from tf_agents.agents.ppo import ppo_clip_agent
from tf_agents.agents.sac import sac_agent, tanh_normal_projection_network
from tf_agents.networks import actor_distribution_network, sequential, value_network
from tf_agents.replay_buffers import tf_uniform_replay_buffer
from tf_agents.specs import BoundedTensorSpec, TensorSpec
from tf_agents.trajectories import time_step as ts
from tf_agents.utils import example_encoding_dataset

from policy_client import RemotePolicy, recordings
from policy_client.experience import END, Experience, RowsLost
from policy_client.tf_agents import experience_dataset
from saver import PolicySaver
from tests.support.server import ROOT, RunningServer, serving
from tests.support.steady import until

OBSERVATION = TensorSpec((3,), tf.float32, "observation")
CHOICE = BoundedTensorSpec((), tf.int64, 0, 1, "action")
FORCE = BoundedTensorSpec((2,), tf.float32, -1, 1, "action")
TIME_STEP = ts.time_step_spec(OBSERVATION)
LENGTH = 6
STEPS = 30
ROWS = 4


def adam() -> Any:
    return tf.keras.optimizers.Adam(1e-2)


def dqn() -> Any:
    network = sequential.Sequential([tf.keras.layers.Dense(8, "relu"), tf.keras.layers.Dense(2)])
    return dqn_agent.DqnAgent(TIME_STEP, CHOICE, network, adam())


def ppo() -> Any:
    actor = actor_distribution_network.ActorDistributionNetwork(OBSERVATION, CHOICE, fc_layer_params=(8,))
    value = value_network.ValueNetwork(OBSERVATION, fc_layer_params=(8,))
    return ppo_clip_agent.PPOClipAgent(TIME_STEP, CHOICE, adam(), actor_net=actor, value_net=value, num_epochs=2)


def sac() -> Any:
    actor = actor_distribution_network.ActorDistributionNetwork(
        OBSERVATION,
        FORCE,
        fc_layer_params=(8,),
        continuous_projection_net=tanh_normal_projection_network.TanhNormalProjectionNetwork,
    )
    critic = critic_network.CriticNetwork((OBSERVATION, FORCE), joint_fc_layer_params=(8,))
    return sac_agent.SacAgent(
        TIME_STEP,
        FORCE,
        critic_network=critic,
        actor_network=actor,
        actor_optimizer=adam(),
        critic_optimizer=adam(),
        alpha_optimizer=adam(),
    )


MAKERS = {"dqn": dqn, "ppo": ppo, "sac": sac}
# How each agent reads: DQN and SAC single transitions, PPO longer pieces, each transition once.
SHAPES: dict[str, dict[str, Any]] = {
    "dqn": {"num_steps": 2, "batch_size": 16},
    "ppo": {"num_steps": 6, "shift": 5, "batch_size": 8},
    "sac": {"num_steps": 2, "batch_size": 16},
}


@pytest.fixture(scope="module")
def agents() -> dict[str, Any]:
    made = {name: make() for name, make in MAKERS.items()}
    for agent in made.values():
        agent.initialize()
    return made


@pytest.fixture(scope="module")
def recorded_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recorded")


@pytest.fixture(scope="module")
def recording(
    agents: dict[str, Any], recorded_in: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """A server that has recorded a vector of environments with each agent's policy."""
    folder = tmp_path_factory.mktemp("experience")
    policies = {}
    for name, agent in agents.items():
        policies[name] = folder / name
        saver = PolicySaver(agent.collect_policy, train_step=agent.train_step_counter)
        saver.save(str(policies[name]), verify=False)
    with serving(policies, "--no-watch", "--experience-dir", str(recorded_in), prepared=True) as running:
        for name in policies:
            with RemotePolicy(running.url, name) as policy:
                play(policy)
            with Experience(running.url, name, wait_ms=50_000) as experience:  # the recorder works when others do not
                seen = 0
                while seen < ROWS * STEPS:
                    seen += experience.read().rows
        yield running


def play(policy: RemotePolicy) -> None:
    """Episodes of `LENGTH` observations each; every other one ends at a time limit."""
    random = np.random.default_rng(1)
    with policy.session(random.normal(size=(ROWS, 3)).astype(np.float32)) as session:
        for step in range(1, STEPS + 1):
            place, episode = step % LENGTH, step // LENGTH
            kind = 0 if place == 0 else 2 if place == LENGTH - 1 else 1
            session.step(
                random.normal(size=(ROWS, 3)).astype(np.float32),
                step_type=np.full(ROWS, kind),
                reward=np.full(ROWS, 0.0 if kind == 0 else 1.0, np.float32),
                discount=np.full(ROWS, 0.0 if kind == 2 and episode % 2 else 1.0, np.float32),
            )


def reader(recording: RunningServer, policy: str, **options: Any) -> Experience:
    return Experience(recording.url, policy, wait_ms=2000, **options)


@pytest.mark.parametrize("name", MAKERS)
def test_agent_learns_from_the_dataset_as_it_comes(recording: RunningServer, agents: dict[str, Any], name: str) -> None:
    agent = agents[name]
    before = [variable.numpy() for variable in agent.collect_policy.variables()]
    with reader(recording, name) as experience:
        dataset = experience_dataset(experience, stop_when_idle=True, **SHAPES[name])
        wanted = tf.nest.map_structure(lambda spec: spec.dtype, agent.collect_data_spec)
        tf.nest.assert_same_structure(dataset.element_spec, agent.collect_data_spec)
        assert tf.nest.map_structure(lambda spec: spec.dtype, dataset.element_spec) == wanted
        losses = [float(agent.train(batch).loss) for batch in dataset]
    assert len(losses) >= 2
    assert np.isfinite(losses).all()
    after = [variable.numpy() for variable in agent.collect_policy.variables()]
    assert any((one != other).any() for one, other in zip(before, after, strict=True))


def test_replay_buffer_takes_the_dataset(recording: RunningServer, agents: dict[str, Any]) -> None:
    buffer = tf_uniform_replay_buffer.TFUniformReplayBuffer(agents["dqn"].collect_data_spec, 1, max_length=1000)
    with reader(recording, "dqn", complete_episodes=True) as experience:
        episodes = 0
        for episode in experience_dataset(experience, num_steps=None, stop_when_idle=True):
            for step in range(len(episode.reward)):
                buffer.add_batch(tf.nest.map_structure(lambda leaf, at=step: leaf[at : at + 1], episode))
            assert episode.step_type[0] == ts.StepType.FIRST
            assert episode.next_step_type[-1] == ts.StepType.LAST
            episodes += 1
    assert episodes == ROWS * (STEPS // LENGTH)
    assert buffer.num_frames() == episodes * (LENGTH - 1)


def test_truncation_is_no_termination(recording: RunningServer) -> None:
    with reader(recording, "dqn") as experience:
        columns = experience.read().columns
    ended = columns["next_step_type"] == 2
    assert set(columns["discount"][ended].tolist()) == {0.0, 1.0}
    assert (columns["discount"][~ended] == 1).all()


def test_cursor_goes_on_where_another_reader_was(recording: RunningServer) -> None:
    with reader(recording, "dqn", max_rows=7) as first:
        seen = [first.read().columns["time_ns"] for _ in range(3)]
        cursor = first.cursor
    with reader(recording, "dqn", cursor=cursor) as second:
        rest = second.read().columns["time_ns"]
    with reader(recording, "dqn") as whole:
        assert np.concatenate([*seen, rest]).tolist() == whole.read().columns["time_ns"].tolist()
    with reader(recording, "dqn", cursor=END) as late:
        assert late.read(wait_ms=0).rows == 0


def test_iteration_waits_and_ends_when_it_is_closed(recording: RunningServer) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RowsLost)
        with reader(recording, "dqn", max_rows=16) as experience:
            rows = 0
            for columns in experience:
                rows += len(columns["reward"])
                if rows == ROWS * STEPS:
                    experience.close()
    assert rows == ROWS * STEPS


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num_steps": None, "batch_size": 4}, "episodes differ"),
        ({"num_steps": None}, "complete_episodes=True"),
        ({"num_steps": 0}, "num_steps is 0"),
        ({"shift": 0}, "shift is 0"),
    ],
)
def test_shapes_that_cannot_be_are_refused(recording: RunningServer, options: dict[str, Any], says: str) -> None:
    with reader(recording, "dqn") as experience, pytest.raises(ValueError, match=says):
        experience_dataset(experience, **options)


def exported(source: str, out: str, form: str, *options: str, **variables: str) -> str:
    """What the command says, in a process of its own."""
    words = [sys.executable, "-m", "policy_client", "experience", "export", source, out, "--format", form, *options]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **variables})
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def columns(recording: RunningServer) -> dict[str, Any]:
    with reader(recording, "ppo") as experience:
        return experience.read().columns


def test_parquet_has_every_column_from_server_and_folder(
    recording: RunningServer, columns: dict[str, Any], tmp_path: Path, recorded_in: Path
) -> None:
    for number, (source, options) in enumerate(((recording.url, ["--policy", "ppo"]), (str(recorded_in / "ppo"), []))):
        path = tmp_path / f"{number}.parquet"
        assert exported(source, str(path), "parquet", *options) == f"{ROWS * STEPS} rows in {path}\n"
        table = pyarrow.parquet.read_table(path)
        assert table.column_names == list(columns)
        for name in columns:
            found = recordings.values_in(table, name)
            assert np.array_equal(found, columns[name], equal_nan=name == "log_prob"), name
            assert isinstance(found, list) or found.dtype == columns[name].dtype, name


def test_tf_agents_reads_the_tfrecord(
    recording: RunningServer, agents: dict[str, Any], columns: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "ppo.tfrecord"
    exported(recording.url, str(path), "tfrecord", "--policy", "ppo")
    dataset = example_encoding_dataset.load_tfrecord_dataset([str(path)], as_trajectories=True, add_batch_dim=False)
    found = list(dataset.as_numpy_iterator())
    tf.nest.assert_same_structure(found[0], agents["ppo"].collect_data_spec)
    order = np.lexsort((columns["step"], columns["row"]))
    assert [one.observation.tolist() for one in found] == columns["observation"][order].tolist()
    logits = columns["policy_info/dist_params/logits"][order]
    assert [one.policy_info["dist_params"]["logits"].tolist() for one in found] == logits.tolist()
    assert [one.next_step_type for one in found] == columns["next_step_type"][order].tolist()


def test_minari_reads_the_dataset(recording: RunningServer, columns: dict[str, Any], tmp_path: Path) -> None:
    said = exported(recording.url, "played/served-v0", "minari", "--policy", "ppo", MINARI_DATASETS_PATH=str(tmp_path))
    whole = ROWS * (STEPS // LENGTH)
    assert said.startswith(f"{whole} episodes in the dataset played/served-v0")
    program = (
        "import minari, json\n"
        "data = minari.load_dataset('played/served-v0')\n"
        "one = [[e.observations.tolist(), e.actions.tolist(), e.rewards.tolist(), bool(e.terminations[-1]),"
        " bool(e.truncations[-1])] for e in data.iterate_episodes()]\n"
        "print(json.dumps(one))"
    )
    words = [sys.executable, "-c", program]
    env = {**os.environ, "MINARI_DATASETS_PATH": str(tmp_path)}
    done = subprocess.run(words, capture_output=True, text=True, env=env, check=True)
    episodes = json.loads(done.stdout.splitlines()[-1])
    mine = (columns["row"] == 0) & (columns["step"] < LENGTH)
    first = columns["observation"][mine]
    assert len(episodes) == whole
    assert episodes[0][0] == first.tolist()
    assert episodes[0][1] == columns["action"][mine][:-1].tolist()
    assert episodes[0][2] == [1.0] * (LENGTH - 1)
    assert {tuple(one[3:]) for one in episodes} == {(True, False), (False, True)}


@pytest.mark.parametrize(
    ("source", "says"),
    [("nowhere", "is no folder, and no address of a server"), (".", "has no segments of experience")],
)
def test_what_is_no_recording_is_said_in_one_line(source: str, says: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "policy_client", "experience", "export", source, "out.parquet"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_tutorial_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "tutorials" / "train-through-the-server.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(blocks[0], "export", "exec"), names)
    with serving(
        {"cartpole": tmp_path / "policies" / "cartpole"}, "--experience-dir", str(tmp_path / "seen")
    ) as running:
        for block in blocks[1:]:
            exec(compile(block.replace("http://localhost:8000", running.url), "tutorial", "exec"), names)
        assert np.isfinite(float(names["loss"]))
        until(
            lambda: running.http.get("/v1/policies/cartpole").json()["version"] == names["name"] == "0000000010", "it"
        )
