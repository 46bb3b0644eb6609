"""Unchanged clients of the Open Inference Protocol get what our own route answers, bit for bit."""

from typing import Any

import numpy as np
import pytest

from tests.integration.dialects.conftest import Clients
from tests.integration.inference.test_binary import ask
from tests.support.server import ADMIN_TOKEN, RunningServer

TRITON = ("triton-http", "triton-grpc")
CLIENTS = (*TRITON, "kserve")
_rng = np.random.default_rng(18)


def floats(*shape: int) -> np.ndarray:
    return _rng.normal(size=shape).astype(np.float32)


# Policy → the inputs of so many rows by their names in the protocol, and the same for our own route; and its options.
def inputs_of(policy: str, rows: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    if policy == "nested":
        camera, gear = _rng.integers(0, 200, (rows, 2, 3)).astype(np.uint8), np.arange(rows, dtype=np.int32)
        joints = floats(rows, 3)
        names = ("0/observation/camera", "0/observation/body/0", "0/observation/body/1")
        own = {"observation": {"camera": camera, "body": [joints, gear]}}
        return dict(zip(names, (camera, joints, gear), strict=True)), own
    if policy == "image":
        images = _rng.integers(0, 256, (rows, 8, 8, 3)).astype(np.uint8)
        return {"0/observation": images}, {"observation": images}
    observation = floats(rows, 4)
    return {"0/observation": observation}, {"observation": observation}


SEEDED = {"mode": "sample", "seed": 7}
CASES = [
    ("cartpole", {}), ("recurrent", {}), ("nested", {}), ("image", {}), ("continuous", {**SEEDED, "log_prob": True}),
    ("boltzmann", SEEDED),
]  # fmt: skip


def assert_same(outputs: dict[str, np.ndarray], answer: dict[str, Any]) -> None:
    """The outputs of an answer equal those of our own route, in every bit."""
    own = {"action": answer["action"]} | ({"log_prob": answer["log_prob"]} if "log_prob" in answer else {})
    own |= {f"state/{number}": state for number, state in enumerate(_listed(answer.get("policy_state", [])))}
    assert outputs.keys() == own.keys()
    for name, array in outputs.items():
        assert array.dtype == own[name].dtype, name
        np.testing.assert_array_equal(array, own[name])


def _listed(state: Any) -> list[np.ndarray]:
    return state if isinstance(state, list) else [state]


@pytest.mark.parametrize("client", CLIENTS)
def test_every_kind_of_policy_answers_as_our_own_route(
    client: str, clients: Clients, inference_server: RunningServer
) -> None:
    calls, wanted = [], []
    for policy, options in CASES:
        for rows in (1, 5):
            sent, own = inputs_of(policy, rows)
            answer = ask(inference_server, policy, "action", own | ({"options": options} if options else {}))
            for binary in (True, False):
                more = {"outputs": list(_names(answer))} if client != "kserve" and not binary else {}
                call = {"do": "infer", "model": policy, "inputs": sent, "binary": binary, **more}
                calls += [call | ({"parameters": options} if options else {})] * 2  # the second time it is known
                wanted += [answer] * 2
    for call, got, answer in zip(calls, clients.ask(client, calls), wanted, strict=True):
        assert "error" not in got, (call, got)
        assert got["model_name"] == call["model"]
        assert got["model_version"] == (None if client == "kserve" else "export")  # which that client drops
        assert_same(got["outputs"], answer)


def _names(answer: dict[str, Any]) -> list[str]:
    states = [f"state/{number}" for number, _ in enumerate(_listed(answer.get("policy_state", [])))]
    return ["action", *(["log_prob"] if "log_prob" in answer else []), *states]


@pytest.mark.parametrize("client", TRITON)
def test_a_sequence_is_a_session(client: str, clients: Clients, inference_server: RunningServer) -> None:
    rows = [floats(2, 4) for _ in range(4)]
    calls = [
        {
            "do": "infer",
            "model": "recurrent",
            "inputs": {"0/observation": row},
            "sequence_id": id_,
            "sequence_start": number == 0,
            "sequence_end": number == 3,
        }
        for id_ in (41, "episode-1", 41)
        for number, row in enumerate(rows)
    ]
    ended = {**calls[1], "sequence_id": 41}
    answers = clients.ask(client, [*calls, ended])
    assert "has to be started" in answers[-1]["error"]
    state: dict[str, Any] = {}
    for number, row in enumerate(rows):
        own = ask(inference_server, "recurrent", "action", {"observation": row, **state})
        state = {"policy_state": own["policy_state"]}
        for answer in (answers[number], answers[4 + number], answers[8 + number]):
            assert_same(answer["outputs"], {"action": own["action"]})


@pytest.mark.parametrize("client", TRITON)
def test_policy_state_goes_back_and_forth(client: str, clients: Clients, inference_server: RunningServer) -> None:
    row = floats(1, 4)
    (first,) = clients.ask(client, [{"do": "infer", "model": "recurrent", "inputs": {"0/observation": row}}])
    states = {f"1/{number}": first["outputs"][f"state/{number}"] for number in (0, 1)}
    call = {"do": "infer", "model": "recurrent", "inputs": {"0/observation": row, **states}, "outputs": ["state/1"]}
    (second,) = clients.ask(client, [call])
    own = {"observation": row, "policy_state": list(states.values())}
    expected = ask(inference_server, "recurrent", "action", own)["policy_state"][1]
    assert list(second["outputs"]) == ["state/1"]
    np.testing.assert_array_equal(second["outputs"]["state/1"], expected)


@pytest.mark.parametrize("client", TRITON)
def test_distribution_and_initial_state_are_models(
    client: str, clients: Clients, inference_server: RunningServer
) -> None:
    rows = floats(3, 4)
    described, one, three = clients.ask(
        client,
        [
            {"do": "infer", "model": "boltzmann:distribution", "inputs": {"0/observation": rows}},
            {"do": "infer", "model": "recurrent:get_initial_state", "inputs": {}},
            {
                "do": "infer",
                "model": "recurrent:get_initial_state",
                "inputs": {"batch_size": np.array([3], np.int64)},
            },
        ],
    )
    own = ask(inference_server, "boltzmann", "distribution", {"observation": rows})["distribution"]
    np.testing.assert_array_equal(described["outputs"]["action/logits"], own["parameters"]["logits"])
    np.testing.assert_array_equal(described["outputs"]["action/mode"], own["mode"])
    for answer, count in ((one, 1), (three, 3)):
        states = ask(inference_server, "recurrent", "get_initial_state", {"batch_size": count})["policy_state"]
        for found, state in zip(answer["outputs"].values(), states, strict=True):
            np.testing.assert_array_equal(found, state)


@pytest.mark.parametrize("client", TRITON)
def test_many_calls_at_once_strings_versions_and_ids(
    client: str, clients: Clients, inference_server: RunningServer
) -> None:
    words = np.array([["north", "east", "south"], ["west", "", "é"]], object)
    row = floats(1, 4)
    call = {"do": "infer", "model": "cartpole", "inputs": {"0/observation": row}}
    at_once, *named, old, spoken = clients.ask(
        client,
        [
            {**call, "do": "infer_async"},
            *[{**call, "version": version, "id": "one"} for version in ("export", "11")],
            {**call, "version": "7"},
            {"do": "infer", "model": "words", "inputs": {"0/observation": words}},
        ],
    )
    own = ask(inference_server, "cartpole", "action", {"observation": row})
    for answer in (*at_once, *named):
        assert_same(answer["outputs"], own)
    assert {answer["id"] for answer in named} == {"one"}
    assert "serves version export (train step 11), not '7'" in old["error"]
    own_words = inference_server.http.post("/v1/policies/words/action", json={"observation": words.tolist()}).json()
    assert spoken["outputs"]["action"].tolist() == own_words["action"]


@pytest.mark.parametrize("client", TRITON)
def test_what_clients_ask_of_server_and_models(client: str, clients: Clients) -> None:
    methods: list[tuple[str, list[Any]]] = [
        ("is_server_live", []), ("is_server_ready", []), ("is_model_ready", ["cartpole"]), ("is_model_ready", ["none"]),
        ("is_model_ready", ["cartpole", "8"]), ("get_server_metadata", []), ("get_model_metadata", ["nested"]),
        ("get_model_config", ["recurrent"]), ("get_model_repository_index", []),
        ("get_inference_statistics", ["cartpole"]),
    ]  # fmt: skip
    found = clients.ask(client, [{"do": "call", "method": name, "arguments": words} for name, words in methods])
    live, ready, model_ready, none_ready, old_ready, server, nested, config, index, statistics = found
    assert (live, ready, model_ready, none_ready, old_ready) == (True, True, True, False, False)
    assert server["name"] == "policy_server"
    assert {"binary_tensor_data", "sequence", "sequence(string_id)", "statistics"} <= set(server["extensions"])
    shapes = {tensor["name"]: (tensor["datatype"], list(map(int, tensor["shape"]))) for tensor in nested["inputs"]}
    assert shapes["0/observation/camera"] == ("UINT8", [-1, 2, 3])
    assert shapes["1/0"] == ("FP32", [-1, 5])
    assert [tensor["name"] for tensor in nested["outputs"]] == ["action", "state/0", "state/1"]
    config = config.get("config", config)
    assert {each["name"] for each in config["input"] if not each.get("optional")} == {"0/observation"}
    models = index if isinstance(index, list) else index["models"]
    assert {model["name"]: model["state"] for model in models}["image"] == "READY"
    (counts,) = statistics["model_stats"]
    assert int(counts["inference_stats"]["success"]["count"]) > 0


@pytest.mark.parametrize("client", TRITON)
def test_load_needs_the_admin_token(client: str, clients: Clients) -> None:
    call = {"do": "call", "method": "load_model", "arguments": ["cartpole"]}
    without, wrong, right = clients.ask(
        client,
        [
            call,
            {**call, "headers": {"Authorization": "Bearer wrong"}},
            {**call, "headers": {"Authorization": f"Bearer {ADMIN_TOKEN}"}},
        ],
    )
    assert "no token" in without["error"]
    assert "the token is wrong" in wrong["error"]
    assert right is None


@pytest.mark.parametrize("client", CLIENTS)
def test_refusals_say_what_is_wrong(client: str, clients: Clients) -> None:
    call = {"do": "infer", "model": "cartpole", "inputs": {"0/observation": floats(1, 4)}}
    cases = {
        "shape [1, 3]; expected shape [n, 4]": {"inputs": {"0/observation": floats(1, 3)}},
        "datatype FP64; expected datatype FP32": {"inputs": {"0/observation": floats(1, 4).astype(np.float64)}},
        "is no input of model cartpole": {"inputs": {"obs": floats(1, 4)}},
        "is missing": {"inputs": {}},
        "no policy 'none' is served": {"model": "none"},
        "is no parameter": {"parameters": {"sed": 1}},
        "options.mode: the string 'loud'": {"parameters": {"mode": "loud"}},
    }
    for text, answer in zip(cases, clients.ask(client, [call | case for case in cases.values()]), strict=True):
        assert text in answer["error"], (text, answer)
