"""Asking a real server for actions, in every form that the contract allows."""

import numpy as np
import pytest
import tensorflow as tf
from tf_agents.trajectories import time_step as ts

from tests.support import policies
from tests.support.server import RunningServer

OBSERVATION = [0.1, 0.0, 0.0, 0.0]
BATCH = [[0.1, 0.0, 0.0, 0.0], [-1.0, 0.5, 2.0, -3.0], [0.0, 0.0, 1.0, 1.0]]


def act(server: RunningServer, policy: str, body: dict, route: str = "action") -> dict:
    response = server.http.post(f"/v1/policies/{policy}/{route}", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def time_step(observation: object, rows: int, first: bool = False) -> ts.TimeStep:
    kind = ts.StepType.FIRST if first else ts.StepType.MID
    return ts.TimeStep(tf.fill([rows], kind), tf.zeros([rows]), tf.ones([rows]), observation)


def test_only_an_observation_is_needed(server: RunningServer) -> None:
    for path in ("/action", "/v1/policies/cartpole/action"):
        answer = server.http.post(path, content=b'{"observation": [0.1, 0, 0, 0]}').json()
        assert answer.keys() == {"action", "version", "train_step"}
        assert answer["action"] in (0, 1)
        assert (answer["version"], answer["train_step"]) == ("export", 11)


def test_a_batch_gets_the_answers_of_its_rows(server: RunningServer) -> None:
    expected = policies.make("cartpole").action(time_step(tf.constant(BATCH), 3)).action.numpy().tolist()
    assert act(server, "cartpole", {"observation": BATCH})["action"] == expected
    assert [act(server, "cartpole", {"observation": row})["action"] for row in BATCH] == expected


@pytest.mark.parametrize("name", ["0/observation", "arg_0_observation", "observation"])
def test_every_spelling_of_a_flattened_name_is_understood(server: RunningServer, name: str) -> None:
    assert act(server, "cartpole", {name: BATCH}) == act(server, "cartpole", {"observation": BATCH})


def test_all_time_step_fields_may_be_sent(server: RunningServer) -> None:
    fields = {"step_type": [0, 1, 2], "reward": [0, 0.5, 1], "discount": [1, 1, 0]}
    flattened = {f"0/{name}": value for name, value in fields.items()}
    expected = act(server, "cartpole", {"observation": BATCH})
    assert act(server, "cartpole", {"observation": BATCH, **fields}) == expected
    assert act(server, "cartpole", {"0/observation": BATCH, **flattened}) == expected


@pytest.mark.parametrize("policy", ["recurrent", "fixed"])
def test_an_episode_with_policy_state_equals_the_policy_in_process(server: RunningServer, policy: str) -> None:
    local = policies.make(policy)
    state = local.get_initial_state(1)
    random = np.random.default_rng(3)
    body: dict = {}
    for step in range(30):
        observation = random.normal(size=4).astype(np.float32)
        expected = local.action(time_step(tf.constant(observation[None]), 1, first=step == 0), state)
        state = expected.state
        answer = act(server, policy, {"observation": observation.tolist(), **body})
        assert answer["action"] == expected.action.numpy()[0]
        for ours, theirs in zip(answer["policy_state"], tf.nest.flatten(state), strict=True):
            np.testing.assert_allclose(ours, theirs.numpy()[0], rtol=1e-5, atol=1e-6)
        body = {"policy_state": answer["policy_state"]}


def test_policy_state_may_be_sent_by_flattened_names(server: RunningServer) -> None:
    state = act(server, "recurrent", {"observation": OBSERVATION})["policy_state"]
    nested = act(server, "recurrent", {"observation": OBSERVATION, "policy_state": state})
    for first, second in (("1/0", "1/1"), ("arg_1_0", "arg_1_1")):
        body = {"observation": OBSERVATION, first: state[0], second: state[1]}
        assert act(server, "recurrent", body) == nested


def test_initial_state_has_the_form_of_the_question(server: RunningServer) -> None:
    assert np.shape(act(server, "recurrent", {}, "get_initial_state")["policy_state"]) == (2, 8)
    batch = act(server, "recurrent", {"batch_size": 5}, "get_initial_state")
    assert np.shape(batch["policy_state"]) == (2, 5, 8)
    assert act(server, "cartpole", {}, "get_initial_state") == {"policy_state": []}


def test_a_policy_of_fixed_batch_size_takes_any_number_of_rows(server: RunningServer) -> None:
    rows = np.random.default_rng(5).normal(size=(7, 4)).tolist()
    together = act(server, "fixed", {"observation": rows})
    assert together["action"] == [act(server, "fixed", {"observation": row})["action"] for row in rows]
    assert np.shape(act(server, "fixed", {"batch_size": 4}, "get_initial_state")["policy_state"]) == (2, 4, 8)


def test_nested_observations_come_nested_or_flattened(server: RunningServer) -> None:
    camera, joints, gear = [[1, 2, 3], [4, 5, 200]], [0.1, -0.2, 0.3], 7
    nested = act(server, "nested", {"observation": {"camera": camera, "body": [joints, gear]}})
    assert np.shape(nested["action"]) == (2,)
    for prefix in ("0/observation", "observation"):
        flat = {f"{prefix}/camera": camera, f"{prefix}/body/0": joints, f"{prefix}/body/1": gear}
        assert act(server, "nested", flat) == nested
    observation = {
        "camera": tf.constant([camera], tf.uint8),
        "body": (tf.constant([joints]), tf.constant([gear])),
    }
    local = policies.make("nested")
    expected = local.action(time_step(observation, 1, first=True), local.get_initial_state(1))
    np.testing.assert_allclose(nested["action"], expected.action.numpy()[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("route", ["action", "distribution"])
def test_info_is_returned_for_each_row(server: RunningServer, route: str) -> None:
    assert act(server, "informed", {"observation": [0.5, 0, 0, 0]}, route)["info"] == {"row": 0.5, "batch": 0.5}
    batch = act(server, "informed", {"observation": [[0.5, 0, 0, 0], [-2, 0, 0, 0]]}, route)["info"]
    assert batch == {"row": [0.5, -2.0], "batch": [0.5, 0.5]}


def test_an_export_without_nest_paths_takes_its_own_names(server: RunningServer) -> None:
    expected = act(server, "cartpole", {"observation": BATCH})["action"]
    assert act(server, "unnested", {"observation": BATCH})["action"] == expected


def test_sampled_actions_differ_from_row_to_row_and_call_to_call(server: RunningServer) -> None:
    body = {"observation": [OBSERVATION] * 64}
    first, second = (np.array(act(server, "continuous", body)["action"]) for _ in range(2))
    assert len(np.unique(first, axis=0)) > 32
    assert not np.array_equal(first, second)
    assert (np.abs(first) <= [1, 2]).all()


def test_distribution_is_that_of_the_policy(server: RunningServer) -> None:
    answer = act(server, "boltzmann", {"observation": BATCH}, "distribution")
    expected = policies.make("boltzmann").distribution(time_step(tf.constant(BATCH), 3)).action
    leaf = answer["distribution"]
    assert leaf["family"] == "categorical"
    np.testing.assert_allclose(leaf["parameters"]["logits"], expected.logits_parameter(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(leaf["parameters"]["probs"], expected.probs_parameter(), rtol=1e-5)
    np.testing.assert_allclose(leaf["entropy"], expected.entropy(), rtol=1e-5)
    assert leaf["mode"] == expected.mode().numpy().tolist()


def test_distribution_of_one_observation_is_not_batched(server: RunningServer) -> None:
    leaf = act(server, "continuous", {"observation": OBSERVATION}, "distribution")["distribution"]
    assert leaf["family"] == "multivariate_normal_diag"
    assert np.shape(leaf["parameters"]["loc"]) == np.shape(leaf["parameters"]["scale_diag"]) == (2,)
    assert np.shape(leaf["entropy"]) == ()


def test_distribution_of_a_recurrent_policy_carries_its_state(server: RunningServer) -> None:
    body = {"observation": OBSERVATION}
    assert (
        act(server, "recurrent", body, "distribution")["policy_state"] == act(server, "recurrent", body)["policy_state"]
    )


def test_train_step_and_every_metadata_entry_are_returned(server: RunningServer) -> None:
    assert server.http.get("/v1/policies/cartpole/train_step").json() == {"train_step": 11}
    metadata = server.http.get("/v1/policies/cartpole/metadata").json()
    assert metadata == {"metadata": {"episodes": 5, "frames": 6}}


def test_the_list_and_the_description_show_what_serves(server: RunningServer) -> None:
    listed = server.http.get("/v1/policies").json()["policies"]
    assert [row["name"] for row in listed] == list(policies.MAKERS)
    assert listed[0] == {
        "name": "cartpole",
        "version": "export",
        "train_step": 11,
        "engine": "litert",
        "ready": True,
    }
    described = server.http.get("/v1/policies/nested").json()
    assert described["signatures"]["action"]["inputs"]["0/observation/camera"] == {
        "dtype": "uint8",
        "shape": [None, 2, 3],
    }
    camera = described["specs"]["inputs"]["dict"]["observation"]["dict"]["camera"]
    assert (camera["minimum"], camera["maximum"]) == (0, 200)
    assert described["distributions"]["family"] == "deterministic"


def test_weights_newer_than_any_are_a_conflict_within_the_deadline(server: RunningServer) -> None:
    body = {"observation": OBSERVATION, "options": {"min_train_step": 12, "timeout_ms": 100}}
    response = server.http.post("/action", json=body)
    assert response.status_code == 409
    assert "train step 11" in response.json()["detail"]
    assert act(server, "cartpole", {"observation": OBSERVATION, "options": {"min_train_step": 11}})
