"""OpenPI's unchanged client gets what our own route answers, bit for bit; a connection is an episode."""

from typing import Any

import numpy as np
import pytest

from tests.integration.dialects.conftest import Clients
from tests.integration.dialects.test_open_inference import floats, inputs_of
from tests.integration.inference.test_binary import ask
from tests.support.server import RunningServer

SEEDED = {"mode": "sample", "seed": 7}
CASES = [
    ("cartpole", {}), ("recurrent", {}), ("nested", {}), ("image", {}), ("continuous", {**SEEDED, "log_prob": True}),
    ("boltzmann", SEEDED),
]  # fmt: skip


def path_of(policy: str) -> str:
    return f"/v1/policies/{policy}/openpi"


def call(policy: str, observation: Any, number: int = 0, **more: Any) -> dict[str, Any]:
    """`number`: of the connection, which is another one for each."""
    message = observation if not more else {**_message(observation), **more}
    return {"do": "infer", "path": path_of(policy) + (f"?{number}" if number else ""), "observation": message}


def _message(observation: Any) -> dict[str, Any]:
    return observation if isinstance(observation, dict) else {"observation": observation}


def assert_same(result: dict[str, Any], answer: dict[str, Any]) -> None:
    assert "error" not in result, result
    assert result["server_timing"]["infer_ms"] > 0
    assert result["version"] == answer["version"]
    assert result["train_step"] == answer["train_step"]
    assert "policy_state" not in result
    for name, own in (("action", "action"), ("actions", "action"), ("log_prob", "log_prob")):
        assert (name in result) == (own in answer)
        if name in result:
            wanted = answer[own]
            if not isinstance(wanted, np.ndarray):  # msgpack has a number for what has no dimension
                assert result[name].shape == ()
                wanted = result[name].dtype.type(wanted)
            assert result[name].dtype == wanted.dtype
            np.testing.assert_array_equal(result[name], wanted)


def unbatched(observation: Any) -> Any:
    """The first row of a nest of arrays."""
    if isinstance(observation, dict):
        return {key: unbatched(item) for key, item in observation.items()}
    return [unbatched(item) for item in observation] if isinstance(observation, list) else observation[0, ...]


def test_every_kind_of_policy_answers_as_our_own_route(clients: Clients, inference_server: RunningServer) -> None:
    calls, wanted = [], []
    for policy, options in CASES:
        for number, rows in enumerate((1, 5, 0)):
            _, own = inputs_of(policy, rows or 1)
            own = own if rows else {"observation": unbatched(own["observation"])}
            answer = ask(inference_server, policy, "action", own | ({"options": options} if options else {}))
            calls.append(call(policy, own["observation"], number, **({"options": options} if options else {})))
            wanted.append(answer)
    for sent, got, answer in zip(calls, clients.ask("openpi", calls), wanted, strict=True):
        assert "error" not in got, (sent["path"], got)
        assert_same(got, answer)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_connection_is_an_episode_until_it_is_reset_or_dropped(
    rows: int, clients: Clients, inference_server: RunningServer
) -> None:
    steps = [floats(rows, 4) for _ in range(4)]
    again = [call("recurrent", step) for step in steps]
    reset = {"do": "infer", "path": path_of("recurrent"), "observation": {"endpoint": "reset"}}
    drop = {"do": "drop", "path": path_of("recurrent")}
    other = [call("recurrent", step, session_id="two") for step in steps]
    found = clients.ask("openpi", [*again, reset, *again, drop, *again, *other])
    assert found[4]["reset"] is True
    wanted, state = [], {}
    for step in steps:
        answer = ask(inference_server, "recurrent", "action", {"observation": step, **state})
        state = {"policy_state": answer["policy_state"]}
        wanted.append(answer)
    for start in (0, 5, 10, 14):
        for got, answer in zip(found[start : start + 4], wanted, strict=True):
            assert_same(got, answer)


def test_the_server_says_what_it_is_and_what_it_expects(clients: Clients, inference_server: RunningServer) -> None:
    ask_of = [{"do": "metadata", "path": path} for path in ("/", path_of("nested"))]
    root, nested = clients.ask("openpi", ask_of)
    assert root["policy"] == "cartpole"
    assert root["inputs"] == {"observation": {"dtype": "float32", "shape": [4]}}
    assert nested["inputs"] == {
        "camera": {"dtype": "uint8", "shape": [2, 3]},
        "body/0": {"dtype": "float32", "shape": [3]},
        "body/1": {"dtype": "int32", "shape": []},
    }
    assert {"version", "train_step"} < nested.keys()
