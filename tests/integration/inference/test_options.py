"""The options of a request: greedy and sampled actions, seeds, log-probabilities."""

import concurrent.futures
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tf_agents.policies import greedy_policy, policy_saver
from tf_agents.trajectories import time_step as ts

from tests.support import policies
from tests.support.server import RunningServer, serving

ROWS = np.random.default_rng(1).normal(size=(40, 4)).round(3).tolist()
ONE = ROWS[0]


def act(server: RunningServer, policy: str, observation: object, **options: object) -> dict:
    body = {"observation": observation, "options": options}
    response = server.http.post(f"/v1/policies/{policy}/action", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def time_step(observation: object, rows: int) -> ts.TimeStep:
    return ts.TimeStep(tf.fill([rows], 1), tf.zeros([rows]), tf.ones([rows]), tf.constant(observation, tf.float32))


@pytest.mark.parametrize("name", ["boltzmann", "continuous", "cartpole"])
def test_greedy_is_the_action_of_the_greedy_policy(server: RunningServer, name: str) -> None:
    expected = greedy_policy.GreedyPolicy(policies.make(name)).action(time_step(ROWS, len(ROWS))).action
    np.testing.assert_allclose(act(server, name, ROWS, mode="greedy")["action"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["boltzmann", "continuous"])
@pytest.mark.parametrize("options", [{"mode": "greedy"}, {"mode": "sample"}, {"seed": 5}, {}])
def test_log_prob_is_that_of_the_action_that_is_answered(server: RunningServer, name: str, options: dict) -> None:
    answer = act(server, name, ROWS, log_prob=True, **options)
    distribution = policies.make(name).distribution(time_step(ROWS, len(ROWS))).action
    np.testing.assert_allclose(answer["log_prob"], distribution.log_prob(answer["action"]), rtol=1e-4, atol=1e-5)
    assert np.shape(act(server, name, ONE, log_prob=True, **options)["log_prob"]) == ()


def test_sampled_actions_are_distributed_as_the_policy_says(server: RunningServer) -> None:
    rows = 4096
    probs = policies.make("boltzmann").distribution(time_step([ONE], 1)).action.probs_parameter().numpy()[0]
    for options in ({"mode": "sample"}, {"mode": "sample", "seed": 11}):
        ones = np.mean(act(server, "boltzmann", [ONE] * rows, **options)["action"])
        # Five standard errors: one false alarm in 1.7 million.
        assert abs(ones - probs[1]) < 5 * np.sqrt(probs[0] * probs[1] / rows)
    distribution = policies.make("continuous").distribution(time_step([ONE], 1)).action
    sampled = np.array(act(server, "continuous", [ONE] * rows, mode="sample")["action"])
    error = distribution.stddev().numpy()[0] / np.sqrt(rows)
    assert (np.abs(sampled.mean(0) - distribution.mean().numpy()[0]) < 5 * error).all()


def test_unseeded_samples_differ_from_call_to_call(server: RunningServer) -> None:
    first, second = (act(server, "continuous", ROWS, mode="sample")["action"] for _ in range(2))
    assert first != second


def test_a_seed_gives_the_same_bytes_at_any_load_and_in_any_process(server: RunningServer, exports: Path) -> None:
    def ask(observation: object) -> bytes:
        body = {"observation": observation, "options": {"seed": 123, "log_prob": True}}
        return server.http.post("/v1/policies/continuous/action", json=body).content

    def noise(number: int) -> None:
        act(server, "continuous", ROWS[: 1 + number % 7], **({"seed": number} if number % 2 else {}))

    alone = {"one": ask(ONE), "batch": ask(ROWS)}
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        load = [pool.submit(noise, number) for number in range(60)]
        asked = [("one", pool.submit(ask, ONE)) for _ in range(20)] + [
            ("batch", pool.submit(ask, ROWS)) for _ in range(20)
        ]
        for name, answer in asked:
            assert answer.result() == alone[name]
        for future in load:
            future.result()
    with serving({"continuous": exports / "continuous"}, prepared=True) as other:
        body = {"observation": ROWS, "options": {"seed": 123, "log_prob": True}}
        assert other.http.post("/action", json=body).content == alone["batch"]


def test_a_row_has_its_own_noise_whatever_stands_behind_it(server: RunningServer) -> None:
    whole = act(server, "continuous", ROWS, seed=9)["action"]
    for rows in (1, 3, 16, 17):
        assert act(server, "continuous", ROWS[:rows], seed=9)["action"] == whole[:rows]
    assert act(server, "continuous", ONE, seed=9)["action"] == whole[0]
    same = act(server, "continuous", [ONE] * 40, seed=9)["action"]
    assert len(np.unique(same, axis=0)) == 40
    assert act(server, "continuous", ROWS, seed=10)["action"] != whole


def test_a_policy_without_chance_honours_seed_and_mode_by_its_one_action(server: RunningServer) -> None:
    plain = act(server, "recurrent", ROWS)
    for options in ({"seed": 1}, {"mode": "sample"}, {"mode": "greedy"}):
        assert act(server, "recurrent", ROWS, **options)["action"] == plain["action"]
    fixed = act(server, "fixed", ROWS, seed=4)
    assert fixed["action"] == act(server, "fixed", ROWS)["action"]
    np.testing.assert_allclose(fixed["policy_state"][0], act(server, "fixed", ROWS)["policy_state"][0], atol=1e-6)


def test_what_an_export_cannot_honour_is_refused_by_name_and_reason(server: RunningServer) -> None:
    for policy, route, option, value, reason in [
        ("cartpole", "action", "log_prob", True, "deterministic"),
        ("boltzmann", "distribution", "mode", "greedy", "not sampled"),
        ("boltzmann", "distribution", "seed", 1, "not sampled"),
        ("boltzmann", "distribution", "log_prob", True, "not sampled"),
    ]:
        body = {"observation": ONE, "options": {option: value}}
        response = server.http.post(f"/v1/policies/{policy}/{route}", json=body)
        assert response.status_code == 501
        assert f"option {option}" in response.json()["detail"]
        assert reason in response.json()["detail"]


def test_an_export_of_tf_agents_own_saver_says_what_it_lacks(tmp_path: Path) -> None:
    policy_saver.PolicySaver(policies.make("boltzmann")).save(str(tmp_path / "plain"))
    with serving({"plain": tmp_path / "plain"}) as running:
        for option, value in (("seed", 1), ("mode", "greedy"), ("log_prob", True)):
            response = running.http.post("/action", json={"observation": ONE, "options": {option: value}})
            assert response.status_code == 501
            assert f"option {option}" in response.json()["detail"]
            assert "saver.PolicySaver" in response.json()["detail"]
        described = running.http.get("/v1/policies/plain").json()
        assert described["distributions"]["family"] == "categorical"
        assert set(described["unavailable"]) == {"greedy", "sample", "log_prob"}
