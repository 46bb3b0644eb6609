"""A shadow on a real server: it is asked what the active version was asked, and its answers are compared."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from tf_agents.policies import tf_policy
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import policy_step
from tf_agents.trajectories import time_step as ts

from app.engine.noise import seeded_noise
from saver import PolicySaver
from saver.artifact import Noise
from tests.support.canaries import Operator
from tests.support.recorded import Trainer
from tests.support.server import RunningServer, serving
from tests.support.steady import until

KINDS = ("boltzmann", "continuous", "recurrent", "nested")
NUDGED, SAME, OTHER = 100, 200, 300


class Nudging(Trainer):
    """Its weights at NUDGED are near those that serve first, and at SAME they are equal."""

    def take(self, train_step: int) -> None:
        super().take(0 if train_step in (NUDGED, SAME) else train_step)
        draw = np.random.default_rng(5)
        for variable in self.policy.variables() if train_step == NUDGED else ():
            variable.assign_add(draw.normal(0, 0.002 if self.name == "continuous" else 0.2, variable.shape))
        self._train_step.assign(train_step)

    def weights(self, train_step: int) -> list[np.ndarray]:
        self.take(train_step)
        return [variable.numpy() for variable in self.policy.variables()]


class Words(tf_policy.TFPolicy):
    """Acts by a word of its observation, which LiteRT has no hash for."""

    def __init__(self) -> None:
        self.number = tf.Variable(0, dtype=tf.int64)
        spec = tensor_spec.BoundedTensorSpec([], tf.int64, 0, 10**6, "action")
        super().__init__(ts.time_step_spec({"word": tf.TensorSpec([], tf.string, "word")}), spec)

    def _variables(self) -> list[tf.Variable]:
        return [self.number]

    def _distribution(self, time_step: Any, policy_state: Any) -> Any:
        place = tf.strings.to_hash_bucket_fast(time_step.observation["word"], 16)
        # Words of every other bucket get another action from another number.
        return policy_step.PolicyStep(tfp.distributions.Deterministic(place + self.number * (place % 2)), policy_state)


@pytest.fixture(scope="module")
def trainers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Nudging]:
    place = tmp_path_factory.mktemp("shadow")
    made = {name: Nudging(name, place / name) for name in KINDS}
    for trainer in made.values():
        for train_step in (NUDGED, SAME, OTHER):
            trainer.publish(train_step)
    return made


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, policy = tmp_path_factory.mktemp("words") / "words", Words()
    saver = PolicySaver(policy)
    saver.save(str(folder), verify=False)
    policy.number.assign(3)
    saver.save_checkpoint(str(folder / "checkpoints" / "three"))
    return folder


@pytest.fixture(scope="module")
def server(trainers: dict[str, Nudging], words: Path) -> Iterator[RunningServer]:
    folders = {name: trainer.folder for name, trainer in trainers.items()} | {"words": words}
    with serving(folders, "--no-watch") as running:
        for name in folders:  # the newest checkpoint serves first
            running.reload(name, checkpoint="export").raise_for_status()
        yield running


class Compared:
    """Requests that were compared, each on its own: what the server has no time for is sent again."""

    def __init__(self, server: RunningServer, policy: str, checkpoint: str) -> None:
        self.server, self.policy = server, policy
        self.operator = Operator(server, policy)
        self.operator.put()
        self.operator.put(shadow={"checkpoint": checkpoint})

    @property
    def report(self) -> dict[str, Any]:
        return self.operator.report()["shadow"]

    def ask(self, path: str = "action", **body: Any) -> dict[str, Any]:
        """Returns the answer of the active version, once the shadow was asked the same."""
        before = self.report
        while True:
            answer = self.server.http.post(f"/v1/policies/{self.policy}/{path}", json=body).raise_for_status().json()
            while _seen(now := self.report) == _seen(before):
                time.sleep(0.02)  # to look has the server work, too, which leaves less of it for the shadow
            if now["answers"] > before["answers"] or "run_id" in body:
                return answer
            before = now


def _seen(report: dict[str, Any]) -> int:
    return report["answers"] + report["skipped"]


def name_of(train_step: int) -> str:
    return f"{train_step:010d}"


def values(trainer: Nudging, train_step: int, observations: np.ndarray) -> np.ndarray:
    """What the Q-network of "boltzmann" gives for each action."""
    first, first_bias, second, second_bias = trainer.weights(train_step)
    return np.maximum(observations @ first + first_bias, 0) @ second + second_bias


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def test_agreement_and_divergence_are_those_computed_by_hand(
    server: RunningServer, trainers: dict[str, Nudging]
) -> None:
    """Greedy and seeded actions are compared, those that chance decides by their distributions alone."""
    trainer, draw = trainers["boltzmann"], np.random.default_rng(1)
    compared = Compared(server, "boltzmann", name_of(NUDGED))
    rows = draw.normal(size=(4, 200, 4)).astype(np.float32)
    greedy = compared.ask(observation=rows[0].tolist(), options={"mode": "greedy"})
    seeded = compared.ask(observation=rows[1].tolist(), options={"seed": 7})
    compared.ask(observation=rows[2].tolist())
    compared.ask("distribution", observation=rows[3].tolist())
    assert {greedy["version"], seeded["version"]} == {"export"}
    then, now = ([values(trainer, step, part) for part in rows] for step in (0, NUDGED))
    gumbel = -np.log(-np.log(seeded_noise(Noise(2, 0), 200, 7)["noise/uniform"]))
    assert greedy["action"] == then[0].argmax(axis=1).tolist()
    assert seeded["action"] == (then[1] + gumbel).argmax(axis=1).tolist()
    agree = np.concatenate(
        [
            greedy["action"] == now[0].argmax(axis=1),
            seeded["action"] == (now[1] + gumbel).argmax(axis=1),
        ]
    )
    log_p, log_q = (log_softmax(np.concatenate(parts)) for parts in (then, now))
    divergence = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    report = compared.report
    assert 0 < agree.sum() < 400
    assert (report["compared"], report["answers"], report["failures"]) == (400, 4, 0)
    assert report["agreement"] == pytest.approx(agree.mean(), abs=1e-6)
    assert report["max_difference"] == 1.0
    assert report["mean_kl"] == pytest.approx(divergence.mean(), rel=1e-4)
    assert (report["version"], report["train_step"], report["share"]) == (name_of(NUDGED), NUDGED, 1.0)
    assert 0 < report["p50_ms"] <= report["p99_ms"]


def test_continuous_actions_agree_within_a_thousandth_of_their_range(
    server: RunningServer, trainers: dict[str, Nudging]
) -> None:
    trainer, draw = trainers["continuous"], np.random.default_rng(2)
    rows = draw.normal(size=(500, 4)).astype(np.float32)
    compared = Compared(server, "continuous", name_of(NUDGED))
    compared.ask(observation=rows.tolist(), options={"mode": "greedy"})
    actions = []
    for train_step in (0, NUDGED):
        hidden, bias, _, means, means_bias = trainer.weights(train_step)  # the third is of the deviations
        actions.append(np.tanh(np.maximum(rows @ hidden + bias, 0) @ means + means_bias) * [1.0, 2.0])
    apart = np.abs(actions[0] - actions[1])
    agree = (apart <= [0.002, 0.004]).all(axis=1)
    report = compared.report
    assert 0 < agree.sum() < 500
    assert report["compared"] == 500
    assert report["agreement"] == pytest.approx(agree.mean(), abs=0.005)  # by rounding, a row may lie on the border
    assert report["max_difference"] == pytest.approx(apart.max(), abs=1e-5)
    assert report["mean_kl"] > 0


@pytest.mark.parametrize(("train_step", "same"), [(SAME, True), (OTHER, False)])
def test_a_recurrent_shadow_has_the_states_that_the_active_version_had(
    server: RunningServer, train_step: int, same: bool
) -> None:
    """A vector whose rows begin episodes at different steps, and a session that is none."""
    compared = Compared(server, "recurrent", name_of(train_step))
    draw, asked = np.random.default_rng(3), 0
    while compared.report["compared"] < 25:  # steps that the server has no time for are skipped
        for rows in (6, None):
            name, shape = f"{train_step}-{asked}", (4,) if rows is None else (rows, 4)
            body: dict[str, Any] = {"id": name, "run_id": "r", "observation": draw.normal(size=shape).tolist()}
            compared.ask("sessions", **body)
            for step in range(1, 5):
                kinds = [0 if (step + row) % 3 == 0 else 1 for row in range(rows or 1)]
                body = {"observation": draw.normal(size=shape).tolist(), "step": step, "run_id": "r"}
                body["step_type"] = kinds if rows else kinds[0]
                compared.ask(f"sessions/{name}/action", **body)
            asked += 5 * (rows or 1)
    report = compared.report
    assert report["failures"] == 0
    assert report["compared"] + report["skipped"] == asked
    assert (report["agreement"] == 1.0) is same
    assert (report["max_difference"] < 1e-6) is same


def test_nested_actions_are_compared_leaf_by_leaf(server: RunningServer) -> None:
    body = {"observation": {"camera": [[1, 2, 3], [4, 5, 6]], "body": [[0.1, 0.2, 0.3], 4]}}
    same, other = Compared(server, "nested", name_of(SAME)), None
    same.ask(**body)
    assert (same.report["compared"], same.report["agreement"], same.report["max_difference"]) == (1, 1.0, 0.0)
    other = Compared(server, "nested", name_of(OTHER))
    other.ask(**body)
    assert (other.report["compared"], other.report["agreement"]) == (1, 0.0)


def test_words_are_compared_where_tensorflow_runs_the_policy(server: RunningServer) -> None:
    compared = Compared(server, "words", "three")
    sent = [f"word {number}" for number in range(40)]
    answer = compared.ask(observation={"word": sent})
    odd = sum(action % 2 for action in answer["action"])
    report = compared.report
    assert 0 < odd < 40
    assert (report["compared"], report["agreement"], report["max_difference"]) == (40, 1 - odd / 40, 3.0)
    assert "mean_kl" not in report


def test_what_there_is_no_time_for_is_skipped_and_counted(server: RunningServer) -> None:
    compared = Compared(server, "boltzmann", name_of(SAME))
    body = {"observation": [[0.1, 0.2, 0.3, 0.4]] * 2500, "options": {"mode": "greedy"}}
    sent = 0
    while not compared.report["skipped"] or not compared.report["compared"]:
        with ThreadPoolExecutor(2) as pool:  # more rows at once than are compared at a time
            for answer in pool.map(lambda _: server.http.post("/v1/policies/boltzmann/action", json=body), range(6)):
                answer.raise_for_status()
        sent += 6 * 2500
    until(lambda: (now := compared.report)["compared"] + now["skipped"] == sent)
    assert compared.report["agreement"] == 1.0
    metrics = server.http.get("/metrics").text
    for comparison in ("agree", "skipped"):
        line = f'policy_server_shadow_rows_total{{comparison="{comparison}",policy="boltzmann"}} '
        assert float(metrics.split(line)[1].split("\n")[0]) > 0


def test_a_share_of_the_requests_is_asked(server: RunningServer) -> None:
    operator = Operator(server, "boltzmann")
    operator.put()
    operator.put(shadow={"checkpoint": name_of(SAME), "share": 0.2})
    body = {"observation": [0.1, 0.2, 0.3, 0.4], "options": {"mode": "greedy"}}
    for _ in range(300):
        server.http.post("/v1/policies/boltzmann/action", json=body).raise_for_status()
    until(lambda: (now := operator.report()["shadow"])["compared"] + now["skipped"] >= 20)
    row = operator.report()["shadow"]
    assert row["compared"] + row["skipped"] <= 120
