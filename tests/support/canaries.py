"""Policies whose versions differ in their returns, and simulators that say so."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp
from tf_agents.trajectories import policy_step

from tests.support.policies import NumberPolicy
from tests.support.server import RunningServer

# First entries of observations at which a version of a number above 100 fails, and others do not.
CRASHES, OVERFLOWS = 7.0, 3e8
_TABLE = 1000


class FragilePolicy(NumberPolicy):
    """Its action shows its weights. With a number above 100 some observations crash its engine, or overflow its state.

    The state is the first entry of the last observation, times the number and 1e28.
    """

    def __init__(self, filler: int = 1) -> None:
        super().__init__(filler=filler, state={"last": tf.TensorSpec([1], tf.float32)})

    def _distribution(self, time_step: Any, policy_state: Any) -> Any:
        row = time_step.observation[:, :1]
        place = tf.cast(tf.clip_by_value(row[:, 0], 0.0, 9.0), tf.int64) * self.first
        place = tf.where(row[:, 0] > 9.0, tf.zeros_like(place), place)
        looked_up = tf.gather(tf.zeros([_TABLE], tf.int64), place)  # of a place outside of it the engine raises
        both = tf.stack([1000 * self.first + looked_up, 1000 * self.last + looked_up], axis=1)
        after = {"last": row * tf.cast(self.last, tf.float32) * 1e28 + 0.0 * policy_state["last"]}
        return policy_step.PolicyStep(tfp.distributions.Deterministic(both), after)


@dataclass
class Simulators:
    """Episodes of sessions, one after the other. `gain`: number of the version that acts → the mean return."""

    server: RunningServer
    gain: Callable[[int], float]
    policy: str = "p"
    steps: int = 2
    spread: float = 10.0
    versions: dict[str, list[str]] = field(default_factory=dict)
    ids: Iterator[str] = field(default_factory=lambda: (f"episode-{number}" for number in itertools.count()))
    noise: Random = field(default_factory=lambda: Random(3))

    @property
    def root(self) -> str:
        return f"/v1/policies/{self.policy}/sessions"

    def begin(self, **fields: Any) -> tuple[str, dict[str, Any]]:
        """Begins a session; returns its id and its first answer."""
        id_ = next(self.ids)
        body = {"id": id_, "run_id": "r", "observation": [0.0] * 4} | fields
        answer = self.server.http.post(self.root, json=body).raise_for_status().json()
        self.versions[id_] = [answer["version"]]
        return id_, answer

    def step(self, id_: str, **fields: Any) -> dict[str, Any]:
        """One step of a session."""
        body = {"observation": [0.0] * 4} | fields
        answer = self.server.http.post(f"{self.root}/{id_}/action", json=body).raise_for_status().json()
        self.versions.setdefault(id_, []).append(answer["version"])
        return answer

    def episode(self, **fields: Any) -> str:
        """A whole episode in a session of its own; returns the version of its last answer."""
        id_, answer = self.begin(**fields)
        noise = self.noise.gauss(0.0, self.spread)
        for step in range(1, self.steps + 1):
            last = {"step_type": 2} if step == self.steps else {}
            reward = (self.gain(answer["action"][0] // 1000) + noise) / self.steps
            answer = self.step(id_, step=step, reward=reward, **last)
        return answer["version"]

    def episodes(self, count: int) -> list[str]:
        return [self.episode() for _ in range(count)]


class Operator:
    """What an operator asks of the traffic of one policy, and sees."""

    def __init__(self, server: RunningServer, policy: str = "p") -> None:
        self.server = server
        self.path = f"/admin/policies/{policy}"

    def put(self, **arms: Any) -> dict[str, Any]:
        return self.server.admin.put(f"{self.path}/traffic", json=arms).raise_for_status().json()

    def report(self) -> dict[str, Any]:
        return self.server.admin.get(f"{self.path}/traffic").raise_for_status().json()

    def promote(self) -> dict[str, Any]:
        return self.server.admin.post(f"{self.path}/traffic/promote").raise_for_status().json()

    def version(self, name: str) -> dict[str, Any]:
        found = self.server.admin.get(f"{self.path}/versions").raise_for_status().json()["versions"]
        return next(row for row in found if row["version"] == name)
