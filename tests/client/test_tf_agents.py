"""A TF-Agents driver on a policy of the server collects what it collects on the policy itself."""

from typing import Any

import numpy as np
import pytest
from tf_agents.policies import greedy_policy, py_tf_eager_policy
from tf_agents.specs import BoundedArraySpec, tensor_spec
from tf_agents.trajectories import time_step as ts

from policy_client import RemotePolicy
from policy_client.tf_agents import RemotePyPolicy, array_spec_of
from tests.support import policies
from tests.support.driving import assert_close, collected
from tests.support.server import RunningServer


def local(name: str, rows: int | None) -> Any:
    greedy = greedy_policy.GreedyPolicy(policies.make(name))
    return py_tf_eager_policy.PyTFEagerPolicy(greedy, batch_time_steps=rows is None)


@pytest.mark.parametrize("rows", [pytest.param(None, marks=pytest.mark.only_full), 3])
@pytest.mark.parametrize("name", ["cartpole", "boltzmann", "continuous", "recurrent", "nested"])
def test_a_driver_collects_the_same_trajectories_as_on_the_local_policy(
    server: RunningServer, name: str, rows: int | None
) -> None:
    mode = "greedy" if name in ("boltzmann", "continuous") else None
    with RemotePolicy(server.url, name) as remote:
        ours = collected(RemotePyPolicy(remote, mode=mode), rows)
    theirs = collected(local(name, rows), rows)
    assert len(ours) == len(theirs) > 20
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("name", list(policies.MAKERS))
def test_specs_are_those_of_the_policy(server: RunningServer, name: str) -> None:
    with RemotePolicy(server.url, name) as remote:
        ours = RemotePyPolicy(remote)
    theirs = local(name, None)
    for spec in ("time_step_spec", "action_spec", "policy_state_spec"):
        assert_same_specs(getattr(ours, spec), getattr(theirs, spec))


def assert_same_specs(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key, child in theirs.items():
            assert_same_specs(ours[key], child)
    elif isinstance(theirs, tuple | list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same_specs(one, other)
    else:
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        if isinstance(theirs, BoundedArraySpec):
            assert_close([ours.minimum, ours.maximum], [theirs.minimum, theirs.maximum])


def test_given_specs_decide_the_nests_of_answers(server: RunningServer) -> None:
    policy = policies.make("recurrent")
    state_spec = tensor_spec.to_nest_array_spec(policy.policy_state_spec)
    with RemotePolicy(server.url, "recurrent") as remote:
        ours = RemotePyPolicy(remote, policy_state_spec=state_spec)
        assert isinstance(state_spec, list)
        state = ours.get_initial_state(2)
        observation = np.zeros((2, 4), np.float32)
        step = ours.action(ts.restart(observation, 2), state)
    assert type(state) is type(step.state) is list
    assert [part.shape for part in step.state] == [(2, 8), (2, 8)]


def test_with_all_specs_given_the_server_is_not_asked_for_any() -> None:
    policy = policies.make("cartpole")
    specs = {
        name: tensor_spec.to_nest_array_spec(getattr(policy, name))
        for name in ("time_step_spec", "action_spec", "policy_state_spec", "info_spec")
    }
    with RemotePolicy("http://127.0.0.1:1") as remote:
        assert RemotePyPolicy(remote, **specs).action_spec == specs["action_spec"]


def test_a_seed_makes_an_action_repeatable(server: RunningServer) -> None:
    with RemotePolicy(server.url, "continuous") as remote:
        policy = RemotePyPolicy(remote)
        step = ts.restart(np.zeros((3, 4), np.float32), 3)
        first, second, other = (policy.action(step, seed=seed).action for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_info_comes_by_its_spec(server: RunningServer) -> None:
    with RemotePolicy(server.url, "informed") as remote:
        step = RemotePyPolicy(remote).action(ts.restart(np.full((2, 4), 0.5, np.float32), 2))
    assert {key: value.dtype for key, value in step.info.items()} == {"row": np.float32, "batch": np.float32}
    assert step.info["row"].tolist() == [0.5, 0.5]


def test_bounds_that_are_not_finite_are_words_in_the_description() -> None:
    leaf = {"name": "x", "dtype": "float32", "shape": [2], "minimum": "-Infinity", "maximum": [1.0, "Infinity"]}
    spec = array_spec_of({"list": [leaf]})[0]
    assert (spec.minimum, spec.maximum.tolist()) == (np.finfo(np.float32).min, [1.0, np.finfo(np.float32).max])
    assert spec.check_array(np.zeros(2, np.float32))


def test_a_policy_without_time_steps_asks_for_a_spec() -> None:
    class Remote:
        def describe(self) -> Any:
            leaf = {"name": "x", "dtype": "float32", "shape": []}
            return {"specs": {"inputs": {"dict": {"x": leaf}}, "action": leaf, "state": {"list": []}, "info": leaf}}

    with pytest.raises(ValueError, match="takes no time steps: it has no step_type, reward, discount, observation"):
        RemotePyPolicy(Remote())  # type: ignore[arg-type]
