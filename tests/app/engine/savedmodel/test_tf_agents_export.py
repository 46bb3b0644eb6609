"""Exports of TF-Agents' own PolicySaver: specs that its own reader rejects, and distributions that are random."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from tf_agents.policies import policy_saver, tf_policy
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import policy_step
from tf_agents.trajectories import time_step as ts

from saver import PolicySaver
from saver.artifact import Leaf, leaves
from tests.support.opened import opened
from tests.support.server import ROOT, RunningServer, serving
from tests.zoo.kind import FLOATS
from tests.zoo.kinds import KINDS, make

Bounded = tensor_spec.BoundedTensorSpec
OBSERVATION = {"doors": Bounded([3], tf.bool, False, [True] * 3, "doors"), "lamp": Bounded((), tf.bool, 0, 1, "lamp")}
SAVERS: dict[str, Any] = {"ours": PolicySaver, "plain": policy_saver.PolicySaver}


class SwitchPolicy(tf_policy.TFPolicy):
    """Its action turns the lamp over where any door is open, and gives the doors turned over."""

    def __init__(self) -> None:
        self._unused = tf.Variable(1.0)
        action = {"lamp": Bounded((), tf.bool, False, True, "lamp"), "doors": Bounded([3], tf.bool, [False] * 3, True)}
        super().__init__(ts.time_step_spec(OBSERVATION), action, clip=False)  # TF-Agents clips no Booleans

    def _variables(self) -> list[tf.Variable]:
        return [self._unused]

    def _action(self, time_step: Any, policy_state: Any, seed: Any = None) -> Any:
        doors, lamp = time_step.observation["doors"], time_step.observation["lamp"]
        lamp = tf.math.logical_xor(lamp, tf.reduce_any(doors, -1))
        return policy_step.PolicyStep({"lamp": lamp, "doors": tf.logical_not(doors)}, policy_state)


class WanderingPolicy(tf_policy.TFPolicy):
    """Its distribution's mean is the observation and a number that `draw` gives."""

    def __init__(self, draw: Callable[[Any, tf.Tensor], tf.Tensor]) -> None:
        self._draw = draw
        self._generator = tf.random.Generator.from_seed(3)
        super().__init__(ts.time_step_spec(FLOATS), tf.TensorSpec([], tf.float32, "action"))

    def _variables(self) -> list[tf.Variable]:
        return [self._generator.state]

    def _distribution(self, time_step: Any, policy_state: Any) -> Any:
        first = time_step.observation[:, 0]
        mean = first + self._draw(self._generator, tf.shape(first))
        return policy_step.PolicyStep(tfp.distributions.Normal(mean, tf.ones_like(mean)), policy_state)


RANDOM = {
    "thompson": lambda: make(KINDS["linear-thompson"], seed=7),
    "dropout": lambda: make(KINDS["dropout-thompson"], seed=7),
    "generator": lambda: WanderingPolicy(lambda generator, shape: generator.normal(shape)),
    "uniform": lambda: WanderingPolicy(lambda _, shape: tf.random.uniform(shape)),
}
CALM = {
    "calm": lambda: WanderingPolicy(lambda _, shape: tf.zeros(shape)),
    "q": lambda: make(KINDS["q"], seed=7),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plain")


@pytest.fixture(scope="module")
def switches(folder: Path) -> dict[str, Path]:
    for name, saver in SAVERS.items():
        saver(SwitchPolicy()).save(str(folder / name))
    return {name: folder / name for name in SAVERS}


@pytest.fixture(scope="module")
def server(folder: Path, switches: dict[str, Path]) -> Iterator[RunningServer]:
    policy_saver.PolicySaver(RANDOM["thompson"]()).save(str(folder / "thompson"))
    with serving(switches | {"thompson": folder / "thompson"}, "--log-level", "warning") as running:
        yield running


@pytest.mark.parametrize("saver", SAVERS)
def test_booleans_with_bounds_are_read(saver: str, switches: dict[str, Path]) -> None:
    spec = opened(switches[saver]).spec
    assert isinstance(spec.inputs, dict)
    assert spec.inputs["observation"] == {
        "doors": Leaf("0/observation/doors", "bool", (3,), False, True),
        "lamp": Leaf("0/observation/lamp", "bool", (), False, True),
    }
    assert dict(leaves(spec.action)) == {
        "doors": Leaf("action/doors", "bool", (3,), False, True),
        "lamp": Leaf("action/lamp", "bool", (), False, True),
    }


@pytest.mark.parametrize("saver", SAVERS)
def test_booleans_with_bounds_are_served(saver: str, server: RunningServer) -> None:
    body = {"observation": {"doors": [[False, True, False], [False] * 3], "lamp": [True, True]}}
    answer = server.http.post(f"/v1/policies/{saver}/action", json=body).json()
    assert answer["action"] == {"doors": [[True, False, True], [True] * 3], "lamp": [False, True]}
    refused = server.http.post(f"/v1/policies/{saver}/action", json={"observation": {"doors": [0, 1, 2], "lamp": True}})
    assert refused.status_code == 422


@pytest.mark.parametrize("saver", SAVERS)
def test_booleans_with_bounds_are_described(saver: str, switches: dict[str, Path], server: RunningServer) -> None:
    assert server.http.get(f"/v1/policies/{saver}").status_code == 200
    assert server.http.get("/openapi.json").status_code == 200
    shown = subprocess.run(
        [sys.executable, "-m", "app", "inspect", str(switches[saver])], cwd=ROOT, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    assert "bool" in shown.stdout


def test_a_distribution_that_is_random_says_so(server: RunningServer) -> None:
    body = {"observation": [0.0] * 4}
    observation = server.http.get("/v1/policies/thompson").json()
    assert json.dumps(observation).count('"random": true') == 1
    answers = [server.http.post("/v1/policies/thompson/distribution", json=body) for _ in range(2)]
    assert [answer.json()["distribution"]["random"] for answer in answers] == [True, True], answers[0].text


@pytest.mark.parametrize("kind", [*RANDOM, *CALM])
def test_randomness_of_plain_distributions_is_known(kind: str, tmp_path: Path) -> None:
    policy_saver.PolicySaver((RANDOM | CALM)[kind]()).save(str(tmp_path / "export"))
    infos = opened(tmp_path / "export").serving.distributions
    assert [info.details.get("random", False) for info in infos.values()] == [kind in RANDOM]
