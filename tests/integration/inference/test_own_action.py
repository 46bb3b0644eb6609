"""Sixteen connections at once: every robot gets the answer that TF-Agents gives to it alone, whatever its policy is."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tensorflow as tf
from tf_agents.policies import policy_saver
from tf_agents.trajectories import time_step as ts

from saver import PolicySaver
from tests.app.builder.test_constant_folding import FUNCTIONS, ROWS, Table, versions
from tests.support.dependent import (
    BatchNormalisedAndSampled,
    CenteredOverTheBatch,
    FirstRowsCounter,
    Inner,
    Own,
    gaussian,
    ornstein_uhlenbeck,
)
from tests.support.server import RunningServer, serving

CONNECTIONS = 16
EACH = 24
SOME = {name: FUNCTIONS[name] for name in ("relu", "abs", "clipped")}
POLICIES = {
    "centered": CenteredOverTheBatch,
    "fixed": CenteredOverTheBatch,
    "counter": FirstRowsCounter,
    "gaussian": gaussian,
    "ou": ornstein_uhlenbeck,
    "sampled": BatchNormalisedAndSampled,
    "table": lambda: Table(SOME),
    "plain": Inner,
}


class Served:
    """A server of all these, and the policies themselves."""

    def __init__(self, folder: Path, server: RunningServer, policies: dict[str, Any]) -> None:
        self.folder = folder
        self.server = server
        self.policies = policies

    def together(self, policy: str, bodies: list[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
        """The answers to each connection's bodies, all connections at once."""
        started = threading.Barrier(len(bodies))

        def robot(mine: list[dict[str, Any]]) -> list[dict[str, Any]]:
            with httpx.Client(base_url=self.server.url, trust_env=False, timeout=60) as http:
                started.wait()
                answers = [http.post(f"/v1/policies/{policy}/action", json=body) for body in mine]
            assert {answer.status_code for answer in answers} == {200}, answers[0].text
            return [answer.json() for answer in answers]

        with ThreadPoolExecutor(len(bodies)) as robots:
            return list(robots.map(robot, bodies))

    def description(self, policy: str) -> dict[str, Any]:
        described: dict[str, Any] = self.server.http.get(f"/v1/policies/{policy}").json()
        return described


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("own")
    made = {name: make() for name, make in POLICIES.items()}
    for name, policy in list(made.items()):
        kind = PolicySaver if name in ("counter", "plain") else policy_saver.PolicySaver
        step = tf.Variable(0, dtype=tf.int64)
        saver = kind(policy, batch_size=3 if name == "fixed" else None, train_step=step)
        saver.save(str(folder / name))
        if name == "table":
            made["table saver"], made["table step"] = saver, step
    with serving({name: folder / name for name in POLICIES}) as server:
        yield Served(folder, server, made)


def observations(seed: int, rows: int | None = None) -> Any:
    size = (4,) if rows is None else (rows, 4)
    return np.random.default_rng(seed).normal(size=size).astype(np.float32).tolist()


def acted(policy: Own, observation: Any, state: Any = ()) -> Any:
    """What TF-Agents answers to these rows in one call."""
    rows = len(observation)
    step = ts.TimeStep(tf.ones([rows], tf.int32), tf.zeros([rows]), tf.ones([rows]), tf.constant(observation))
    return policy.action(step, state)


def test_statistics_are_those_of_the_request(served: Served):
    sizes = [(None, 1, 2, 5, 17)[number % 5] for number in range(EACH)]
    bodies = [
        [{"observation": observations(100 * robot + n, size)} for n, size in enumerate(sizes)]
        for robot in range(CONNECTIONS)
    ]
    for mine, answers in zip(bodies, served.together("centered", bodies), strict=True):
        for body, size, answer in zip(mine, sizes, answers, strict=True):
            rows = [body["observation"]] if size is None else body["observation"]
            expected = acted(served.policies["centered"], rows).action.numpy()
            np.testing.assert_allclose(np.reshape(answer["action"], [-1, 2]), expected, rtol=1e-5, atol=1e-5)


def test_more_rows_than_a_batch_may_have_are_one_call(served: Served):
    rows = observations(1, 5000)
    answer = served.server.http.post("/v1/policies/centered/action", json={"observation": rows}).json()
    expected = acted(served.policies["centered"], rows).action.numpy()
    np.testing.assert_allclose(answer["action"], expected, rtol=1e-4, atol=1e-4)


def test_each_robot_goes_on_with_its_own_counter(served: Served):
    bodies = [
        [{"observation": observations(n), "policy_state": 1000 * robot + n} for n in range(EACH)]
        for robot in range(CONNECTIONS)
    ]
    for robot, answers in enumerate(served.together("counter", bodies)):
        assert [answer["action"] for answer in answers] == [1000 * robot + n for n in range(EACH)]
        assert [answer["policy_state"] for answer in answers] == [1000 * robot + n + 1 for n in range(EACH)]


@pytest.mark.parametrize("policy", ["gaussian", "ou"])
def test_requests_share_no_noise(served: Served, policy: str):
    body = {"observation": [1.0, 2.0, 3.0, 4.0]}
    answers = served.together(policy, [[body] * EACH] * CONNECTIONS)
    drawn = [tuple(answer["action"]) for mine in answers for answer in mine]
    assert len(set(drawn)) == len(drawn)


def test_rows_of_one_request_share_what_tf_agents_draws_once(served: Served):
    body = {"observation": [[1.0, 2.0, 3.0, 4.0]] * 3}
    first, second = (served.server.http.post("/v1/policies/gaussian/action", json=body).json() for _ in range(2))
    assert len(np.unique(first["action"], axis=0)) == len(np.unique(second["action"], axis=0)) == 1
    assert first["action"] != second["action"]


def test_samples_of_a_row_alone_are_around_its_own_mean(served: Served):
    """Alone, a row is its own mean: what is added to 0 is the draw."""
    bodies = [[{"observation": [100.0 * robot] * 4}] * EACH for robot in range(CONNECTIONS)]
    drawn = np.array([[answer["action"] for answer in mine] for mine in served.together("sampled", bodies)])
    assert np.abs(drawn).max() < 6
    assert len(np.unique(drawn)) == drawn.size


def test_a_fixed_batch_that_would_have_to_be_padded_is_refused(served: Served):
    def ask(rows: int | None) -> httpx.Response:
        body = {"observation": observations(1, rows)}
        return served.server.http.post("/v1/policies/fixed/action", json=body)

    expected = acted(served.policies["fixed"], observations(1, 3)).action.numpy()
    np.testing.assert_allclose(ask(3).json()["action"], expected, rtol=1e-5, atol=1e-5)
    for rows in (None, 1, 2, 4, 6):
        answer = ask(rows)
        assert answer.status_code == 422
        assert "its export takes 3 rows at once" in answer.text


def test_the_description_and_the_log_say_so(served: Served):
    for policy, reason in (
        ("centered", "of a row"),
        ("fixed", "of a row"),
        ("counter", "of a row"),
        ("gaussian", "draws the same numbers for all rows of a call"),
        ("ou", "changes variables that all rows share"),
        ("sampled", "of a row depends on what other rows hold"),
    ):
        described = served.description(policy)
        assert described["rows_independent"] is False
        assert reason in described["rows_reason"]
    for policy in ("table", "plain"):
        described = served.description(policy)
        assert described["rows_independent"] is True
        assert "rows_reason" not in described
        assert described["engine"] == "litert"


def test_every_row_of_a_table_is_right_in_every_version(served: Served):
    policy, saver, step = (served.policies[name] for name in ("table", "table saver", "table step"))
    item = np.arange(ROWS, dtype=np.int32)
    for number, values in enumerate(versions(), 1):
        policy.values.assign(values)
        step.assign(number)
        saver.save_checkpoint(str(served.folder / "table" / "checkpoints" / f"{number:03}"))
        reloaded = served.server.reload("table", checkpoint=f"{number:03}")
        assert reloaded.status_code == 200, reloaded.text
        body = {"observation": {"item": item.tolist()}}
        answer = served.server.http.post("/v1/policies/table/action", json=body).json()
        expected = policy.action(ts.restart({"item": tf.constant(item)}, ROWS)).action
        assert answer["version"] == f"{number:03}"
        for name, tensor in expected.items():
            np.testing.assert_array_equal(np.float32(answer["action"][name]), tensor.numpy())
    assert served.description("table")["engine"] == "litert"
