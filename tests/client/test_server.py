"""The clients and a real server, without sessions."""

from collections import namedtuple
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from policy_client import Conflict, DoesNotFit, NotFound, RemotePolicy, Retries, Unsupported
from tests.support.server import RunningServer

Connect = Callable[..., Any]
ROWS = np.random.default_rng(11).normal(size=(5, 4)).astype(np.float32)
CAMERA = np.random.default_rng(12).integers(0, 200, (3, 2, 3), np.uint8)
JOINTS = np.random.default_rng(13).normal(size=(3, 3)).astype(np.float32)
GEAR = np.array([0, 9, 4], np.int32)
Body = namedtuple("Body", ["joints", "gear"])


def test_a_batch_gets_the_actions_of_its_rows(server: RunningServer, connect: Connect) -> None:
    policy = connect(server.url)
    answer = policy.action(ROWS)
    assert (answer.action.dtype, answer.action.shape) == (np.int64, (5,))
    assert answer.action.tolist() == [policy.action(row).action for row in ROWS]
    assert (answer.version, answer.train_step, answer.policy_state, answer.info) == ("export", 11, None, None)


def test_observations_may_be_lists_and_other_dtypes(server: RunningServer, connect: Connect) -> None:
    policy = connect(server.url)
    expected = policy.action(ROWS).action.tolist()
    for observation in (ROWS.tolist(), ROWS.astype(np.float64), np.asfortranarray(ROWS)):
        assert policy.action(observation).action.tolist() == expected


@pytest.mark.parametrize("body", [(JOINTS, GEAR), [JOINTS, GEAR], Body(JOINTS, GEAR)])
def test_nested_observations_and_nested_state(server: RunningServer, connect: Connect, body: Any) -> None:
    policy = connect(server.url, "nested")
    if isinstance(body, Body):
        with pytest.raises(DoesNotFit, match=r"observation\.body"):  # this policy's body is a tuple, not a named one
            policy.action({"camera": CAMERA, "body": body})
        return
    answer = policy.action({"camera": CAMERA, "body": body})
    assert (answer.action.dtype, answer.action.shape) == (np.float32, (3, 2))
    assert [part.shape for part in answer.policy_state] == [(3, 5), (3, 5)]
    again = policy.action({"camera": CAMERA, "body": body}, policy_state=answer.policy_state)
    assert not np.array_equal(again.action, answer.action)


def test_an_episode_with_its_state_carried_is_that_of_its_json(server: RunningServer, connect: Connect) -> None:
    policy = connect(server.url, "recurrent")
    body: dict[str, Any] = {}
    state = policy.get_initial_state()
    for step, row in enumerate(ROWS):
        answer = policy.action(row, policy_state=state, step_type=min(step, 1))
        state = answer.policy_state
        returned = server.http.post("/v1/policies/recurrent/action", json={"observation": row.tolist(), **body}).json()
        body = {"policy_state": returned["policy_state"]}
        assert answer.action == returned["action"]
        np.testing.assert_array_equal(state, np.array(returned["policy_state"], np.float32))


def test_initial_states_are_those_of_the_policy(server: RunningServer, connect: Connect) -> None:
    assert [part.shape for part in connect(server.url, "recurrent").get_initial_state(3)] == [(3, 8), (3, 8)]
    assert [part.shape for part in connect(server.url, "recurrent").get_initial_state()] == [(8,), (8,)]
    assert connect(server.url).get_initial_state(3) == []


def test_options_and_every_field_are_honoured(server: RunningServer, connect: Connect) -> None:
    policy = connect(server.url, "continuous")
    fields = {
        "reward": np.ones(5),
        "discount": [1, 1, 0, 1, 1],
        "step_type": np.ones(5, np.int32),
        "min_train_step": 11,
    }
    first, second = (policy.action(ROWS, mode="sample", seed=7, log_prob=True, **fields) for _ in range(2))
    np.testing.assert_array_equal(first.action, second.action)
    assert first.log_prob.shape == (5,)
    greedy = policy.action(ROWS, mode="greedy")
    assert greedy.log_prob is None
    assert not np.array_equal(greedy.action, first.action)


def test_distributions_and_info(server: RunningServer, connect: Connect) -> None:
    answer = connect(server.url, "boltzmann").distribution(ROWS)
    assert answer.distribution["family"] == "categorical"
    assert answer.distribution["parameters"]["logits"].shape == (5, 2)
    assert connect(server.url, "informed").action(ROWS).info["row"].tolist() == ROWS[:, 0].tolist()


def test_the_description_is_of_the_policy_or_of_the_default_one(server: RunningServer, connect: Connect) -> None:
    assert connect(server.url, "nested").describe()["name"] == "nested"
    assert connect(server.url, None).describe()["name"] == "cartpole"


def test_refusals_are_reported_in_the_words_of_the_server(server: RunningServer, connect: Connect) -> None:
    policy = connect(server.url)
    with pytest.raises(DoesNotFit, match=r"observation: shape \[3\]; expected float32 of shape \[4\]") as raised:
        policy.action(ROWS[0, :3])
    assert raised.value.errors[0]["where"] == "observation"
    with pytest.raises(NotFound, match="no policy 'other' is served; there are: cartpole"):
        connect(server.url, "other").action(ROWS)
    with pytest.raises(Conflict, match="min_train_step is 12"):
        policy.action(ROWS, min_train_step=12, timeout_ms=50)
    with pytest.raises(Unsupported, match=r"option log_prob: .* deterministic"):
        policy.action(ROWS, log_prob=True)


def test_threads_share_a_client(server: RunningServer) -> None:
    with RemotePolicy(server.url, "cartpole", retries=Retries(limit=0)) as policy, ThreadPoolExecutor(8) as threads:
        expected = policy.action(ROWS).action.tolist()
        answers = list(threads.map(lambda _: policy.action(ROWS).action.tolist(), range(200)))
    assert answers == [expected] * 200
