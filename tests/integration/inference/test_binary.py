"""Msgpack bodies over a real server: the same answers, refusals and options as in JSON."""

import json
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.support.server import RunningServer

MSGPACK = {"content-type": "application/msgpack"}
ROWS = np.random.default_rng(11).normal(size=(5, 4)).astype(np.float32)
CAMERA = np.random.default_rng(12).integers(0, 200, (3, 2, 3), np.uint8)
JOINTS = np.random.default_rng(13).normal(size=(3, 3)).astype(np.float32)
GEAR = np.array([0, 9, 4], np.int32)
ROUTES = ("action", "distribution")
pack, unpack = msgspec.msgpack.encode, msgspec.msgpack.decode


def tensor(array: np.ndarray) -> dict[str, Any]:
    return {"dtype": array.dtype.name, "shape": list(array.shape), "data": np.ascontiguousarray(array).tobytes()}


def tensors(structure: Any) -> Any:
    """Arrays as msgpack has them."""
    return _mapped(structure, tensor)


def lists(structure: Any) -> Any:
    """Arrays as JSON has them."""
    return _mapped(structure, np.ndarray.tolist)


def arrays(answer: Any) -> Any:
    """The inverse of `tensors`."""
    if isinstance(answer, dict) and answer.keys() == {"dtype", "shape", "data"}:
        return np.frombuffer(answer["data"], answer["dtype"]).reshape(answer["shape"])
    if isinstance(answer, dict):
        return {key: arrays(value) for key, value in answer.items()}
    return [arrays(value) for value in answer] if isinstance(answer, list) else answer


def _mapped(structure: Any, leaf: Any) -> Any:
    if isinstance(structure, dict):
        return {key: _mapped(value, leaf) for key, value in structure.items()}
    if isinstance(structure, list):
        return [_mapped(value, leaf) for value in structure]
    return leaf(structure) if isinstance(structure, np.ndarray) else structure


def ask(server: RunningServer, policy: str, route: str, body: Any) -> Any:
    """The answer to a body with arrays in it, as arrays."""
    path = f"/v1/policies/{policy}/{route}"
    response = server.http.post(path, content=pack(tensors(body)), headers=MSGPACK)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/msgpack"
    return arrays(unpack(response.content))


def ask_json(server: RunningServer, policy: str, route: str, body: Any) -> Any:
    response = server.http.post(f"/v1/policies/{policy}/{route}", json=lists(body))
    assert response.status_code == 200, response.text
    return response.json()


def assert_same(binary: Any, plain: Any) -> None:
    """The JSON has the shortest text of each float32: read as float32 it is the same number."""
    if isinstance(binary, dict):
        assert list(binary) == list(plain)
        for key, value in binary.items():
            assert_same(value, plain[key])
    elif isinstance(binary, list):
        assert len(binary) == len(plain)
        for value, other in zip(binary, plain, strict=True):
            assert_same(value, other)
    elif isinstance(binary, np.ndarray):
        np.testing.assert_array_equal(binary, np.array(plain, binary.dtype))
    elif isinstance(binary, float):
        assert np.float32(binary) == np.float32(plain)
    else:
        assert binary == plain


NESTED = {"camera": CAMERA, "body": [JOINTS, GEAR]}
STATE = [np.full((5, 8), 0.1, np.float32), np.full((5, 8), -0.2, np.float32)]
QUESTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "one row": ("cartpole", {"observation": ROWS[0]}),
    "a batch": ("cartpole", {"observation": ROWS}),
    "every field": (
        "cartpole",
        {
            "observation": ROWS,
            "step_type": np.array([0, 1, 1, 1, 2], np.int32),
            "reward": np.ones(5, np.float32),
            "discount": [1, 0.5, 1, 1, 0],
        },
    ),
    "flattened": ("cartpole", {"0/observation": ROWS, "arg_0_reward": np.zeros(5, np.float32)}),
    "other dtypes": (
        "cartpole",
        {"observation": ROWS.astype(np.float64), "step_type": np.ones(5, np.uint8), "reward": np.arange(5)},
    ),
    "categorical": ("boltzmann", {"observation": ROWS, "options": {"min_train_step": 11}}),
    "recurrent": ("recurrent", {"observation": ROWS}),
    "with state": ("recurrent", {"observation": ROWS, "policy_state": STATE}),
    "one with state": ("recurrent", {"observation": ROWS[0], "1/0": STATE[0][0], "1/1": STATE[1][0].tolist()}),
    "fixed batch size": ("fixed", {"observation": ROWS}),
    "nested": ("nested", {"observation": NESTED}),
    "nested, flattened": (
        "nested",
        {"observation/camera": CAMERA, "0/observation/body/0": JOINTS, "0/observation/body/1": GEAR},
    ),
    "info": ("informed", {"observation": ROWS}),
    "no nest paths": ("unnested", {"observation": ROWS}),
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", QUESTIONS)
def test_answers_are_those_to_the_same_question_in_json(server: RunningServer, name: str, route: str) -> None:
    policy, body = QUESTIONS[name]
    if (policy, route) == ("boltzmann", "action"):
        body = {**body, "options": {"seed": 7}}  # it samples
    assert_same(ask(server, policy, route, body), ask_json(server, policy, route, body))


def test_numbers_and_lists_may_stand_in_msgpack_as_they_do_in_json(server: RunningServer) -> None:
    for body in ({"observation": ROWS.tolist()}, {"observation": ROWS[0].tolist(), "reward": 1, "step_type": 1}):
        assert_same(ask(server, "cartpole", "action", body), ask_json(server, "cartpole", "action", body))


def test_options_are_honoured(server: RunningServer) -> None:
    body = {"observation": ROWS, "options": {"seed": 7, "log_prob": True}}
    answer = ask(server, "continuous", "action", body)
    assert (answer["action"].dtype, answer["action"].shape) == (np.float32, (5, 2))
    assert_same(answer, ask_json(server, "continuous", "action", body))
    for options, status in (({"mode": "best"}, 422), ({"mode": tensor(ROWS)}, 422), ({"min_train_step": 12}, 409)):
        content = pack({"observation": tensor(ROWS), "options": options | {"timeout_ms": 100}})
        assert server.http.post("/action", content=content, headers=MSGPACK).status_code == status


@pytest.mark.parametrize(("policy", "body"), [("recurrent", {"batch_size": 3}), ("recurrent", {}), ("cartpole", {})])
def test_initial_state_has_the_form_of_the_question(server: RunningServer, policy: str, body: dict) -> None:
    answer = ask(server, policy, "get_initial_state", body)
    assert_same(answer, ask_json(server, policy, "get_initial_state", body))
    if policy == "recurrent":
        assert [state.shape for state in answer["policy_state"]] == [(3, 8)] * 2 if body else [(8,)] * 2


def test_an_empty_body_is_an_empty_map(server: RunningServer) -> None:
    response = server.http.post("/v1/policies/recurrent/get_initial_state", headers=MSGPACK)
    assert arrays(unpack(response.content))["policy_state"][0].shape == (8,)


def test_an_episode_may_send_back_the_state_as_it_came(server: RunningServer) -> None:
    body: dict[str, Any] = {}
    plain: dict[str, Any] = {}
    for row in ROWS:
        path = "/v1/policies/recurrent/action"
        response = server.http.post(path, content=pack({"observation": tensor(row), **body}), headers=MSGPACK)
        answer = unpack(response.content)
        expected = ask_json(server, "recurrent", "action", {"observation": row, **plain})
        assert_same(arrays(answer), expected)
        body, plain = {"policy_state": answer["policy_state"]}, {"policy_state": expected["policy_state"]}


@pytest.mark.parametrize("media_type", ["application/x-msgpack", "application/vnd.msgpack", "Application/Msgpack; x=1"])
def test_every_name_of_msgpack_is_understood(server: RunningServer, media_type: str) -> None:
    headers = {"content-type": media_type}
    response = server.http.post("/action", content=pack({"observation": tensor(ROWS[0])}), headers=headers)
    assert response.headers["content-type"] == "application/msgpack"
    assert unpack(response.content)["action"] in (0, 1)


@pytest.mark.parametrize(
    ("content_type", "accept", "answered"),
    [
        ("msgpack", "*/*", "msgpack"),
        ("msgpack", "application/json", "json"),
        ("msgpack", "application/json, application/msgpack", "msgpack"),
        ("json", "*/*", "json"),
        ("json", "application/msgpack", "msgpack"),
        ("json", "application/json, application/msgpack", "json"),
    ],
)
def test_accept_may_ask_for_the_other_form(
    server: RunningServer, content_type: str, accept: str, answered: str
) -> None:
    content = pack({"observation": tensor(ROWS)})
    if content_type == "json":
        content = json.dumps({"observation": ROWS.tolist()}).encode()
    headers = {"content-type": f"application/{content_type}", "accept": accept}
    response = server.http.post("/action", content=content, headers=headers)
    assert response.headers["content-type"] == f"application/{answered}"
    answer = response.json() if answered == "json" else arrays(unpack(response.content))
    assert_same(answer, ask_json(server, "cartpole", "action", {"observation": ROWS}))
    assert np.shape(answer["action"]) == (5,)


ROW = ROWS[0]
# policy, body, where, part of what came, part of what was expected
UNFIT: list[tuple[str, Any, str, str, str]] = [
    ("cartpole", {"observation": tensor(ROW[:3])}, "observation", "shape [3]", "shape [4]"),
    ("cartpole", {"observation": tensor(ROWS[None])}, "observation", "shape [1, 5, 4]", "shape [4]"),
    ("cartpole", {"observation": tensor(ROWS[:0])}, "observation", "zero rows", "at least one"),
    ("cartpole", {"observation": tensor(np.array([1, np.nan, 3, 4], np.float32))}, "observation[1]", "NaN", "finite"),
    ("cartpole", {"observation": tensor(np.array([1, 2, 1e39, 4]))}, "observation[2]", "1e+39", "fits float32"),
    ("cartpole", {"observation": tensor(np.ones(4, bool))}, "observation", "a tensor of bool", "float32"),
    ("cartpole", {"observation": ROW.tobytes()}, "observation", "16 raw bytes", "shape [4]"),
    ("cartpole", {"observation": [1.0, 2.0, 3.0, b""]}, "observation[3]", "0 raw bytes", "finite number"),
    ("cartpole", {"observation": [tensor(ROW)]}, "observation", "1 items", "4 items"),
    ("cartpole", {"observation": tensor(ROW) | {"shape": [2, 4]}}, "observation.data", "16 bytes", "32 bytes"),
    ("cartpole", {"observation": tensor(ROW) | {"dtype": "f4"}}, "observation.dtype", "'f4'", "float32"),
    ("cartpole", {"observation": tensor(ROW) | {"order": "C"}}, "observation", "an object", "shape [4]"),
    ("cartpole", {"observation": tensor(ROWS), "reward": tensor(np.ones(4))}, "reward", "4 rows", "5 rows"),
    ("cartpole", {"observation": tensor(ROWS), "discount": tensor(np.array(1.0))}, "discount", "single", "5 rows"),
    ("cartpole", {"observation": tensor(ROW), "step_type": tensor(np.array(3))}, "step_type", "3", "0 to 2"),
    ("cartpole", {"observation": tensor(ROW), "step_type": tensor(np.array(1.0))}, "step_type", "float64", "int32"),
    ("cartpole", {"observation": tensor(ROW), "step_type": 2**40}, "step_type", "1099511627776", "int32"),
    (
        "cartpole",
        {"observation": tensor(ROW), "0/observation": tensor(ROW)},
        "0/observation",
        "twice",
        "one of the two",
    ),
    ("cartpole", {"observation": tensor(ROW), "colour": tensor(ROW)}, "colour", "no field", "observation"),
    ("cartpole", {}, "observation", "missing", "float32"),
    ("cartpole", {"observation": tensor(np.zeros((2**40, 0)))}, "observation", "shape [1099511627776, 0]", "shape [4]"),
    (
        "cartpole",
        {"observation": tensor(np.zeros((65_537, 4), np.uint8))},
        "observation",
        "65537 rows",
        "at most 65536 rows",
    ),
    ("cartpole", {"observation": tensor(ROW), "options": tensor(ROW)}, "options", "a tensor", "mode"),
    ("nested", {"observation": tensors(NESTED | {"camera": CAMERA + np.uint8(50)})}, "observation.camera", "2", "200"),
    ("nested", {"observation": tensors(NESTED | {"body": JOINTS})}, "observation.body", "a tensor", "a list of 2"),
    (
        "nested",
        {"observation": tensors(NESTED | {"body": [JOINTS, np.array([1, 10, 3])]})},
        "observation.body[1][1]",
        "10",
        "9",
    ),
    (
        "recurrent",
        {"observation": tensor(ROW), "policy_state": tensor(np.zeros((2, 8)))},
        "policy_state",
        "a tensor",
        "2",
    ),
]


@pytest.mark.parametrize(("policy", "body", "where", "came", "expected"), UNFIT)
@pytest.mark.parametrize("route", ROUTES)
def test_input_that_does_not_fit_is_explained(
    server: RunningServer, policy: str, body: dict, where: str, came: str, expected: str, route: str
) -> None:
    response = server.http.post(f"/v1/policies/{policy}/{route}", content=pack(body), headers=MSGPACK)
    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/problem+json"
    found = [error for error in response.json()["errors"] if error["where"].startswith(where)]
    assert found, response.text
    assert came in found[0]["problem"]
    assert expected in found[0]["expected"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"observation": [0.1, 0, 0, 0]}', "begins with 0x7b"),
        (b"\x91\x01", "an array, expected a map"),
        (b"\x81\xabobservation", "ends within a value, after 13 bytes"),
        (b"\x81\xabobservation\xc1", "byte 13"),
        (b"\x81\xabobservation" + b"\x91" * 100_000 + b"\x01", "nested too deep"),
        (b"\x81\xabobservation" + b"\x81\xa1a" * 100_000 + b"\x01", "nested too deep"),
        (b"\x81\xabobservation\xa1\xff", "in the value of 'observation': a string that is not UTF-8"),
    ],
)
def test_what_is_no_msgpack_map_is_400_and_says_where(server: RunningServer, body: bytes, says: str) -> None:
    response = server.http.post("/action", content=body, headers=MSGPACK)
    assert response.status_code == 400, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["type"] == "urn:policy-server:problem:not-msgpack"
    assert says in response.json()["detail"]


def test_an_unknown_media_type_is_answered_with_both_that_are_known(server: RunningServer) -> None:
    response = server.http.post("/action", content=b"x", headers={"content-type": "application/cbor"})
    assert response.status_code == 415
    assert "application/json or application/msgpack" in response.json()["detail"]
