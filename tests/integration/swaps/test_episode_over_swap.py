"""An episode of a recurrent policy goes on over swaps: each step as the policy in this process answers it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tf_agents.trajectories import time_step as ts

from saver import PolicySaver
from tests.support import policies
from tests.support.server import RunningServer, serving
from tests.support.steady import until

# A restored float32 network in another batch size: the last bits may differ.
CLOSE = 1e-5
# Name in tests/support/policies.py → whether the export has a fixed batch size.
POLICIES = ("recurrent", "fixed")


@dataclass(frozen=True)
class Step:
    """What one step of an episode gives: the actions, one a row, and the policy state as a list of arrays."""

    action: np.ndarray
    state: list[np.ndarray]

    def is_like(self, other: "Step") -> bool:
        same = np.array_equal(self.action, other.action)
        return same and all(np.allclose(a, b, CLOSE, CLOSE) for a, b in zip(self.state, other.state, strict=True))


class Trainer:
    """A recurrent policy in this process, whose weights at each train step can be had back."""

    def __init__(self, name: str, folder: Path) -> None:
        self.folder = folder
        self.policy = policies.make(name)
        self._train_step = tf.Variable(0, dtype=tf.int64)
        self._saver = PolicySaver(self.policy, train_step=self._train_step, **policies.MAKERS[name][1])
        self._weights: dict[int, list[np.ndarray]] = {}
        self._train(0)
        self._saver.save(str(folder), verify=False)

    def _train(self, train_step: int) -> None:
        """Other weights, drawn from the train step: large ones, so that other weights mean other states."""
        draw = np.random.default_rng(train_step)
        for variable in self.policy.variables():
            variable.assign(draw.normal(0, 0.7, variable.shape))
        self._train_step.assign(train_step)
        self._weights[train_step] = [variable.numpy() for variable in self.policy.variables()]

    def publish(self, train_step: int) -> str:
        self._train(train_step)
        name = f"{train_step:010d}"
        self._saver.save_checkpoint(str(self.folder / "checkpoints" / name))
        return name

    def step(self, train_step: int, observation: np.ndarray, state: list[np.ndarray] | None) -> Step:
        """One step in this process with the weights of `train_step`; the first of an episode without a state."""
        for variable, value in zip(self.policy.variables(), self._weights[train_step], strict=True):
            variable.assign(value)
        rows = len(observation)
        kind = tf.fill([rows], ts.StepType.FIRST if state is None else ts.StepType.MID)
        time_step = ts.TimeStep(kind, tf.zeros([rows]), tf.ones([rows]), tf.constant(observation))
        if state is None:
            before = self.policy.get_initial_state(rows)
        else:
            before = tf.nest.pack_sequence_as(self.policy.policy_state_spec, [tf.constant(part) for part in state])
        answer = self.policy.action(time_step, before)
        return Step(answer.action.numpy(), [part.numpy() for part in tf.nest.flatten(answer.state)])


class Episode:
    """An episode over HTTP and the same one in this process, which never sees a state from the server."""

    def __init__(self, server: RunningServer, name: str, trainer: Trainer, rows: int | None) -> None:
        self._server, self._name, self._trainer, self._rows = server, name, trainer, rows
        self._sent: Any = None
        self._here: list[np.ndarray] | None = None
        self.versions: list[int] = []
        self.distinct = 0

    def step(self, number: int) -> None:
        """One more step; the answer has to be that of the version which it names."""
        observation = np.random.default_rng(number).normal(0, 1, (self._rows or 1, 4)).astype(np.float32)
        answer = self._ask(observation)
        train_step = answer["train_step"]
        here = self._trainer.step(train_step, observation, self._here)
        there = Step(self._leading(answer["action"]), [self._leading(part) for part in answer["policy_state"]])
        assert there.is_like(here), f"step {number}, version {train_step}: {there} instead of {here}"
        others = [self._trainer.step(other, observation, self._here) for other in {*self.versions} - {train_step}]
        self.distinct += sum(not there.is_like(other) for other in others)
        self._sent, self._here = answer["policy_state"], here.state
        self.versions.append(train_step)

    def _ask(self, observation: np.ndarray) -> dict[str, Any]:
        body: dict[str, Any] = {"observation": (observation if self._rows else observation[0]).tolist()}
        if self._sent is not None:
            body["policy_state"] = self._sent
        return self._server.http.post(f"/v1/policies/{self._name}/action", json=body).raise_for_status().json()

    def _leading(self, value: Any) -> np.ndarray:
        """With a batch dimension, also where the question had none."""
        return np.asarray(value) if self._rows else np.asarray(value)[None]


@pytest.fixture(scope="module")
def trainers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trainer]:
    folder = tmp_path_factory.mktemp("episodes")
    return {name: Trainer(name, folder / name) for name in POLICIES}


@pytest.fixture(scope="module")
def server(trainers: dict[str, Trainer]) -> Iterator[RunningServer]:
    with serving({name: trainer.folder for name, trainer in trainers.items()}, "--log-level", "warning") as running:
        yield running


def serving_step(server: RunningServer, name: str) -> int:
    listed = server.http.get("/v1/policies").json()["policies"]
    return int(next(policy["train_step"] for policy in listed if policy["name"] == name))


@pytest.mark.parametrize("rows", [None, 3, pytest.param(4, marks=pytest.mark.only_full)])
@pytest.mark.parametrize("name", POLICIES)
def test_an_episode_goes_on_over_swaps_with_its_own_policy_state(
    server: RunningServer, trainers: dict[str, Trainer], name: str, rows: int | None, full: bool
) -> None:
    """The first swap comes by watching, the second by a reload, the third is a roll-back."""
    trainer, began = trainers[name], serving_step(server, name)
    episode, between = Episode(server, name, trainer, rows), 8 if full else 3
    for number in range(4 * between):
        if number == between:
            trainer.publish(began + 1)
            until(lambda: serving_step(server, name) == began + 1, "the watched version serving")
        elif number == 2 * between:
            server.reload(name, checkpoint=trainer.publish(began + 2)).raise_for_status()
        elif number == 3 * between:
            server.admin.post(f"/admin/policies/{name}/rollback").raise_for_status()
        episode.step(number)
    versions = (began, began + 1, began + 2, began + 1)
    assert episode.versions == [version for version in versions for _ in range(between)]
    assert episode.distinct >= 4 * between, "these weights are too alike to show whose answers they are"
    server.reload(name).raise_for_status()  # watching goes on


def test_episodes_at_once_keep_their_own_states_over_a_swap(
    server: RunningServer, trainers: dict[str, Trainer]
) -> None:
    """Steps of several episodes, at different places, one after the other between two swaps."""
    trainer, began = trainers["recurrent"], serving_step(server, "recurrent")
    episodes = [Episode(server, "recurrent", trainer, rows) for rows in (None, 1, 2, 5)]
    for number in range(12):
        if number == 6:
            server.reload("recurrent", checkpoint=trainer.publish(began + 1)).raise_for_status()
        for place, episode in enumerate(episodes):
            episode.step(100 * place + number)
    for episode in episodes:
        assert episode.versions == [began] * 6 + [began + 1] * 6
    server.reload("recurrent").raise_for_status()
