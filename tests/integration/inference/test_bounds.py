"""One cheap request may not hurt its neighbours: the worst of `make attack` in small, by the work it causes."""

import json
import os
import struct
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest

from app.memory import resident_bytes
from tests.support.server import RunningServer, serving

ROW = b"[0.1,-0.25,3.5,0.125]"
PACKED = {"content-type": "application/msgpack"}
# On any machine: what was measured before was 20 to 180 s.
MOST_CPU_S = 4.0
MOST_MB = 200


def packed_list(item: bytes, count: int) -> bytes:
    return b"\x81\xabobservation\xdd" + struct.pack(">I", count) + item * count


def many(item: bytes, count: int) -> bytes:
    return b'{"observation":[' + (item + b",") * (count - 1) + item + b"]}"


WORST = {
    "empty arrays": (packed_list(b"\x90", 5_000_000), PACKED, 422),
    "empty maps": (packed_list(b"\x80", 5_000_000), PACKED, 422),
    "empty objects": (many(b"{}", 3_000_000), {}, 422),
    "one NaN": (many(ROW, 60_000)[:-2] + b",[1,2,3,NaN]]}", {}, 422),
    "last row bad": (many(ROW, 65_535)[:-2] + b',[1,2,3,"x"]]}', {}, 422),
    "nested state": (b'{"observation":' + ROW + b',"policy_state":[' + b"[[]]," * 1_500_000 + b"[]]}", {}, 422),
    "one field again and again": (b"{" + b'"observation":[1,2,3,4],' * 300_000 + b'"reward":1}', {}, 422),
    "a string of escapes": (b'{"observation":"' + b'\\"' * 4_000_000 + b'"}', {}, 422),
}


def worker_of(server: RunningServer) -> int:
    return server.processes("app.worker")[0]


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    return resident_bytes(pid) / 1e6


@pytest.mark.parametrize("kind", WORST)
@pytest.mark.parametrize("suffix", ["", "?"])
def test_what_cannot_fit_costs_little(server: RunningServer, kind: str, suffix: str) -> None:
    body, headers, status = WORST[kind]
    pid = worker_of(server)
    cpu, memory = cpu_s(pid), resident_mb(pid)
    response = server.http.post(f"/v1/policies/recurrent/action{suffix}", content=body, headers=headers)
    assert response.status_code == status, response.text
    assert cpu_s(pid) - cpu < MOST_CPU_S
    assert resident_mb(pid) - memory < MOST_MB


def test_a_largest_batch_is_answered_as_its_rows_are(server: RunningServer) -> None:
    rows = np.random.default_rng(3).standard_normal((65_536, 4)).astype(np.float32)
    tensor = {"dtype": "float32", "shape": rows.shape, "data": rows.tobytes()}
    bodies = [
        (json.dumps({"observation": rows.astype(float).tolist()}).encode(), {}),
        (msgspec.msgpack.encode({"observation": tensor}), PACKED | {"accept": "application/json"}),
        (msgspec.msgpack.encode({"observation": rows.astype(float).tolist()}), PACKED | {"accept": "application/json"}),
    ]
    answers = [server.http.post("/action", content=body, headers=headers) for body, headers in bodies]
    actions = [response.raise_for_status().json()["action"] for response in answers]
    assert actions[0] == actions[1] == actions[2]
    for start in (0, 40_000, 65_500):
        few = server.http.post("/action", json={"observation": rows[start : start + 30].astype(float).tolist()})
        assert few.json()["action"] == actions[0][start : start + 30]


def test_a_large_session_is_begun_and_stepped(server: RunningServer) -> None:
    rows = [[0.1, 0.2, 0.3, 0.4]] * 6000
    begun = server.http.post("/v1/policies/recurrent/sessions", json={"observation": rows})
    assert begun.status_code == 201, begun.text
    path = f"/v1/policies/recurrent/sessions/{begun.json()['id']}/action"
    first = [False, True] * 3000
    for suffix in ("", "?"):
        stepped = server.http.post(path + suffix, json={"observation": rows, "first": first}).raise_for_status()
        action = stepped.json()["action"]
        assert len(action) == 6000
        assert action[1::2] == begun.json()["action"][1::2]  # those begin anew
    server.http.delete(path.removesuffix("/action")).raise_for_status()


def test_an_initial_state_is_as_large_as_an_answer_may_be(server: RunningServer) -> None:
    path = "/v1/policies/recurrent/get_initial_state"
    state = server.http.post(path, json={"batch_size": 60_000}).raise_for_status().json()["policy_state"]
    assert [len(part) for part in state] == [60_000, 60_000]
    assert server.http.post(path, json={"batch_size": 10**9}).status_code == 422
    assert server.http.post(path, content=b" " * 100_000).status_code == 413


def test_the_limit_follows_from_the_spec_and_is_logged_at_the_start(server: RunningServer) -> None:
    line = next(line for line in server.lines if line.startswith("Limits:"))
    assert "cartpole 17.8 MiB (5.56 MiB as msgpack)" in line
    for headers, size in (({}, 19 * 2**20), (PACKED, 6 * 2**20)):
        for suffix in ("", "?"):
            response = server.http.post(f"/action{suffix}", content=b" " * size, headers=headers)
            assert response.status_code == 413, response.text


def test_a_limit_that_is_given_holds_for_every_policy_and_non_finite_numbers_pass_where_set(
    exports: Path, warm: tuple[str, str]
) -> None:
    options = ("--body-limit-bytes", "100000", "--non-finite", "accept", *warm)
    with serving({"cartpole": exports / "cartpole"}, *options, prepared=True) as server:
        assert any("body 0.0954 MiB" in line for line in server.lines)
        assert _status(server.http, b" " * 100_001) == 413
        assert _status(server.http, b" " * 100_000) == 400
        for value in (b'"Infinity"', b"NaN", b'"-Infinity"'):
            assert _status(server.http, b'{"observation": [0, 1, 2, ' + value + b"]}") == 200
        assert _status(server.http, b'{"observation": [0, 1, 2, "inf"]}') == 422


def _status(http: httpx.Client, body: bytes) -> int:
    found = {http.post(f"/action{suffix}", content=body).status_code for suffix in ("", "?")}
    assert len(found) == 1
    return found.pop()


@pytest.mark.parametrize("body", [b"[0.1, 0.2, 0.3, 0.4]", b'{"instances": [[1, 2, 3, 4]]}', b'{"obs": [1, 2, 3, 4]}'])
def test_other_forms_are_shown_this_one_on_both_ways(server: RunningServer, body: bytes) -> None:
    answers = [server.http.post(f"/action{suffix}", content=body) for suffix in ("", "?")]
    assert answers[0].content == answers[1].content
    assert '{"observation": [0.1, 0.1, 0.1, 0.1]}' in answers[0].json()["detail"]


def test_an_admin_s_many_fields_are_one_finding(server: RunningServer) -> None:
    answer = server.admin.post("/admin/policies/cartpole/reload", json={f"k{i}": 1 for i in range(4000)})
    assert answer.status_code == 422
    assert [error["problem"] for error in answer.json()["errors"]] == ["4000 fields"]


@pytest.mark.parametrize("levels", [10, 500, 950, 30_000])
def test_an_admin_s_nested_body_is_the_admin_s_fault(server: RunningServer, levels: int) -> None:
    body = b'{"checkpoint": ' + b"[" * levels + b"]" * levels + b"}"
    assert server.admin.post("/admin/policies/cartpole/reload", content=body).status_code in (400, 422)
