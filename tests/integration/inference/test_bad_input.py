"""Bad input of every kind gets its status and names the field, what came and what was expected."""

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support.server import ROOT, RunningServer, command, environment

GOOD = [0.1, 0.0, 0.0, 0.0]
CAMERA = [[1, 2, 3], [4, 5, 6]]
BODY = [[0.1, 0.2, 0.3], 1]

# policy, body, where, part of what came, part of what was expected
UNFIT = [
    ("cartpole", {"observation": [1, 2, 3]}, "observation", "[3]", "shape [4]"),
    ("cartpole", {"observation": [[1, 2, 3, 4], [1, 2, 3]]}, "observation[1]", "3 items", "4 items"),
    ("cartpole", {"observation": 1}, "observation", "1", "shape [4]"),
    ("cartpole", {"observation": {"x": 1}}, "observation", "an object", "shape [4]"),
    ("cartpole", {"observation": None}, "observation", "null", "shape [4]"),
    ("cartpole", {"observation": []}, "observation", "[0]", "shape [4]"),
    ("cartpole", {"observation": [[[GOOD]]]}, "observation", "[1, 1, 1, 4]", "shape [4]"),
    ("cartpole", {"observation": [1, 2, 3, "4"]}, "observation[3]", "'4'", "float32"),
    ("cartpole", {"observation": [1, 2, 3, True]}, "observation[3]", "true", "float32"),
    ("cartpole", {"observation": [1, 2, 3, None]}, "observation[3]", "null", "float32"),
    ("cartpole", {"observation": [1, 2, 3, 1e39]}, "observation[3]", "1e+39", "finite"),
    ("cartpole", {"observation": [1, 2, 3, 10**400]}, "observation[3]", "integer", "finite"),
    ("cartpole", {"observation": GOOD, "step_type": 7}, "step_type", "7", "0 to 2"),
    ("cartpole", {"observation": GOOD, "step_type": 1.0}, "step_type", "1.0", "integer"),
    ("cartpole", {"observation": [GOOD, GOOD], "step_type": [1, 3]}, "step_type[1]", "3", "0 to 2"),
    ("cartpole", {}, "observation", "missing", "float32"),
    ("cartpole", {"observation": GOOD, "colour": 1}, "colour", "no field", "observation"),
    ("cartpole", {"observation": GOOD, "0/observation": GOOD}, "0/observation", "twice", "one of the two"),
    ("cartpole", {"observation": [GOOD, GOOD], "reward": [1]}, "reward", "1 rows", "2 rows"),
    ("cartpole", {"observation": [GOOD, GOOD], "reward": 1}, "reward", "single", "2 rows"),
    ("cartpole", {"observation": [GOOD, GOOD], "discount": 1.0}, "discount", "single", "2 rows"),
    ("cartpole", {"observation": GOOD, "options": {"sead": 1}}, "options.sead", "no option", "seed"),
    ("cartpole", {"observation": GOOD, "options": {"seed": "x"}}, "options.seed", "'x'", "integer"),
    ("cartpole", {"observation": GOOD, "options": {"timeout_ms": 0}}, "options.timeout_ms", "0", "from 1"),
    ("cartpole", {"observation": GOOD, "options": 3}, "options", "3", "object"),
    ("nested", {"observation": {"camera": CAMERA}}, "observation.body.0", "missing", "float32"),
    ("nested", {"observation": {"camera": CAMERA, "body": [[0.1, 0.2, 0.3], 10]}}, "observation.body[1]", "10", "9"),
    (
        "nested",
        {"observation": {"camera": [[1, 2, 3], [4, 5, 201]], "body": BODY}},
        "observation.camera[1][2]",
        "201",
        "200",
    ),
    (
        "nested",
        {"observation": {"camera": [[1, 2, 3], [4, 5, 300]], "body": BODY}},
        "observation.camera[1][2]",
        "300",
        "uint8",
    ),
    ("nested", {"observation": {"camera": CAMERA, "body": [[0.1, 0.2, 0.3]]}}, "observation.body", "1 items", "2"),
    ("nested", {"observation": {"camera": CAMERA, "body": BODY, "z": 1}}, "observation.z", "no field", "camera"),
    ("nested", {"observation": [1, 2]}, "observation", "a list", "object"),
    ("recurrent", {"observation": GOOD, "1/0": [0.0] * 8}, "policy_state.1", "missing", "float32"),
    ("recurrent", {"observation": GOOD, "policy_state": [[0.0] * 8]}, "policy_state", "1 items", "2"),
    ("recurrent", {"observation": GOOD, "policy_state": [[0.0] * 8, [0.0] * 7]}, "policy_state[1]", "[7]", "[8]"),
]


@pytest.mark.parametrize(("policy", "body", "where", "came", "expected"), UNFIT)
@pytest.mark.parametrize("route", ["action", "distribution"])
def test_input_that_does_not_fit_is_explained(
    server: RunningServer, policy: str, body: dict, where: str, came: str, expected: str, route: str
) -> None:
    response = server.http.post(f"/v1/policies/{policy}/{route}", content=json.dumps(body).encode())
    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem.keys() == {"type", "title", "status", "detail", "errors"}
    found = [error for error in problem["errors"] if error["where"] == where]
    assert found, problem
    assert came in found[0]["problem"]
    assert expected in found[0]["expected"]


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_are_not_finite_are_refused_by_name(server: RunningServer, word: str) -> None:
    response = server.http.post("/action", content=f'{{"observation": [1, {word}, 3, 4]}}'.encode())
    assert response.status_code == 422
    assert response.json()["errors"][0]["where"] == "observation[1]"
    assert response.json()["errors"][0]["problem"] == word


def test_too_many_rows_are_refused_before_they_are_read(server: RunningServer) -> None:
    body = b'{"observation": [' + b"[1,2,3,4]," * 300_000 + b'["x"]]}'
    response = server.http.post("/action", content=body)
    assert response.status_code == 422
    assert response.json()["errors"][0]["problem"] == "300001 rows"


def test_no_answer_lists_more_than_twenty_problems(server: RunningServer) -> None:
    body = {"observation": GOOD, **{f"unknown-{i}": 1 for i in range(1000)}}
    assert len(server.http.post("/action", json=body).json()["errors"]) == 20


def test_zero_rows_are_refused(server: RunningServer) -> None:
    response = server.http.post("/v1/policies/nested/action", json={"observation": {"camera": [], "body": [[], []]}})
    assert response.status_code == 422


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"[1, 2", b"{'observation': 1}", b"nul", b"\x00"])
def test_what_is_not_json_is_400(server: RunningServer, body: bytes) -> None:
    response = server.http.post("/action", content=body)
    assert response.status_code == 400
    assert "not JSON" in response.json()["detail"]


@pytest.mark.parametrize(("body", "kind"), [(b"[1]", "array"), (b'"x"', "string"), (b"3", "number"), (b"null", "null")])
def test_json_that_is_no_object_is_400(server: RunningServer, body: bytes, kind: str) -> None:
    response = server.http.post("/action", content=body)
    assert response.status_code == 400
    assert kind in response.json()["detail"]


def test_json_nested_without_end_is_400(server: RunningServer) -> None:
    response = server.http.post("/action", content=b'{"observation": ' + b"[" * 100_000)
    assert response.status_code == 400


def test_an_unknown_policy_is_404_and_the_known_ones_are_named(server: RunningServer) -> None:
    for method, path in (
        ("POST", "action"),
        ("POST", "distribution"),
        ("POST", "get_initial_state"),
        ("GET", "train_step"),
        ("GET", "metadata"),
    ):
        response = server.http.request(method, f"/v1/policies/nobody/{path}", json={"observation": GOOD})
        assert response.status_code == 404
        assert "cartpole" in response.json()["detail"]
    assert server.http.get("/v1/policies/nobody").status_code == 404
    assert server.reload("nobody").status_code == 404


def test_an_unknown_media_type_is_415(server: RunningServer) -> None:
    response = server.http.post("/action", content=b"x", headers={"content-type": "text/csv"})
    assert response.status_code == 415


def test_a_body_over_the_limit_is_413(server: RunningServer) -> None:
    response = server.http.post("/action", content=(b" " * 2**20 for _ in range(65)))
    assert response.status_code == 413


@pytest.mark.parametrize(
    ("body", "where"),
    [({"batch_size": 0}, "batch_size"), ({"batch_size": "2"}, "batch_size"), ({"size": 2}, "size")],
)
def test_a_bad_batch_size_is_explained(server: RunningServer, body: dict, where: str) -> None:
    response = server.http.post("/get_initial_state", json=body)
    assert response.status_code == 422
    assert response.json()["errors"][0]["where"] == where


def test_admin_calls_need_the_token(server: RunningServer) -> None:
    path = "/admin/policies/cartpole/reload"
    assert server.http.post(path, json={}).status_code == 401
    wrong = server.http.post(path, json={}, headers={"Authorization": "Bearer nonsense"})
    assert wrong.status_code == 401
    assert wrong.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"checkpoint": 3}, 422),
        ({"chekpoint": "a"}, 422),
        ({"checkpoint": "none-such"}, 404),
        ({"checkpoint": "../escape"}, 404),
        ({"export": True, "checkpoint": "a"}, 422),
    ],
)
def test_a_bad_reload_changes_nothing(server: RunningServer, body: dict, status: int) -> None:
    assert server.reload("cartpole", **body).status_code == status
    assert server.http.get("/v1/policies/cartpole").json()["version"] == "export"


def test_unknown_paths_and_methods_are_problems_too(server: RunningServer) -> None:
    for response, status in ((server.http.get("/nothing"), 404), (server.http.get("/action"), 405)):
        assert response.status_code == status
        assert response.headers["content-type"] == "application/problem+json"


def test_a_client_that_goes_away_in_the_middle_of_its_body_is_no_fault_of_the_server(server: RunningServer) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 5) as connection:
        connection.sendall(b"POST /get_initial_state HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
    gone = 'policy_server_answers_total{policy="cartpole",route="get_initial_state",status="400"}'
    while gone not in server.http.get("/metrics").text:  # ended by the test's time limit at the latest
        pass
    assert 'status="500"' not in server.http.get("/metrics").text


def test_garbage_on_the_socket_does_not_stop_the_server(server: RunningServer) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    for garbage in (os.urandom(4096), b"GET\r\n\r\n", b"POST /action HTTP/1.1\r\nContent-Length: 9\r\n\r\n{"):
        with socket.create_connection((host, int(port)), 5) as connection:
            connection.sendall(garbage)
    assert server.http.get("/readyz").status_code == 200


@pytest.mark.parametrize("kind", ["missing", "empty", "foreign", "file"])
def test_a_folder_that_is_no_policy_ends_the_start_with_one_line(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "policy"
    if kind == "file":
        folder.write_text("no folder")
    elif kind != "missing":
        folder.mkdir()
    if kind == "foreign":
        (folder / "saved_model.pb").write_bytes(b"not a graph")
    ended = subprocess.run(
        command(f"p={folder}", "--port", "0"), cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert ended.stdout == ""
    # After what the start is at: one line for each step.
    (line,) = [line for line in ended.stderr.splitlines() if " INFO policy_server.start: " not in line]
    assert str(folder) in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no policy"),
        (["a=/x", "a=/y"], "two policies"),
        (["/x", "--port", "http"], "integer"),
        (["/x", "--port", "70000"], "65535"),
        (["/x", "--engine", "none"], "tensorflow"),
        (["sp ace=/x"], "name a policy"),
    ],
)
def test_a_bad_command_line_ends_with_one_line(arguments: list[str], said: str) -> None:
    ended = subprocess.run(command(*arguments), cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_port_in_use_is_reported_before_anything_is_loaded(exports: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = subprocess.run(
            command(str(exports / "cartpole"), "--port", port),
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert ended.returncode != 0
    assert port in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
