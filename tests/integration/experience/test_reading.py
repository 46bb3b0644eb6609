"""Reading over HTTP, from a real server whose folder has rows already: pages, waiting, and a recorder that ends."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import numpy as np
import pytest

from app.experience.limits import RowLogLimits
from app.experience.row_log import RowLog
from app.experience.schema import columns_of
from app.wire import msgpack_body
from saver.artifact import read_policy_manifest
from tests.support.experience import Simulator, append_steps
from tests.support.saver_policies import Saved
from tests.support.server import RunningServer, serving

RECORDER = "app.experience.recorder"
TOKEN = "data-token"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
MSGPACK = {"Accept": "application/msgpack"}
ROWS = 400


@pytest.fixture(scope="module")
def folders(exports: Path, saved: Saved) -> dict[str, Path]:
    return {"cartpole": exports / "cartpole", "nested": exports / "nested", "custom": saved.folder("input_fn")}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, folders: dict[str, Path]) -> Path:
    """A folder with rows of two policies, in a closed segment and in the open one."""
    folder = tmp_path_factory.mktemp("experience")
    for name in ("cartpole", "nested"):
        spec = read_policy_manifest(folders[name]).spec
        log = RowLog(folder / name, columns_of(spec), RowLogLimits(10**9, 2**16, 1e9), spec.to_json())
        simulators = [Simulator(f"s{number}", length=5 + number, train_step=number) for number in range(4)]
        for _ in range(ROWS // 40):
            append_steps(log, simulators, 10)
            log.close_next()
        log.close()
    return folder


@pytest.fixture(scope="module")
def server(recorded: Path, folders: dict[str, Path], warm: tuple[str, str]) -> Iterator[RunningServer]:
    options = ("--workers", "2", "--experience-dir", str(recorded), "--stalled-s", "4", "--no-watch", *warm)
    with serving(folders, *options, prepared=True, POLICY_SERVER_DATA_TOKEN=TOKEN) as running:
        running.http.headers.update(BEARER)
        yield running


def read(server: RunningServer, policy: str = "cartpole", **query: Any) -> dict[str, Any]:
    answer = server.http.get(f"/v1/policies/{policy}/experience", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def rest(server: RunningServer, **query: Any) -> list[dict[str, Any]]:
    """All rows behind a cursor."""
    found: list[dict[str, Any]] = []
    while (page := read(server, **query))["rows"]:
        names = page["columns"]
        found += [dict(zip(names, values, strict=True)) for values in zip(*names.values(), strict=True)]
        query["cursor"] = page["cursor"]
    return found


@pytest.mark.parametrize("policy", ["cartpole", "nested"])
def test_pages_hold_each_row_once_in_both_forms_as_the_document_says(server: RunningServer, policy: str) -> None:
    document = server.http.get("/openapi.json").json()
    schema = {"$ref": f"#/components/schemas/{policy}.experience", "components": document["components"]}
    page = read(server, policy, max_rows=50)
    jsonschema.Draft202012Validator(schema).validate(page)
    assert set(page["columns"]) == set(
        document["components"]["schemas"][f"{policy}.experience"]["properties"]["columns"]["properties"]
    )
    answer = server.http.get(f"/v1/policies/{policy}/experience", params={"max_rows": 50}, headers=MSGPACK)
    assert answer.headers["content-type"] == "application/msgpack"
    packed = msgpack_body.decode(answer.content)
    assert (packed["rows"], packed["lost_rows"]) == (50, 0)
    for name, values in page["columns"].items():
        np.testing.assert_array_equal(np.array(packed["columns"][name]), np.array(values))
    assert len(rest(server, policy=policy, max_rows=64)) == ROWS


def test_the_default_policys_route_gives_the_same(server: RunningServer) -> None:
    answer = server.http.get("/experience", params={"max_rows": 3}).json()
    assert answer["columns"] == read(server, max_rows=3)["columns"]


def test_whole_episodes_and_new_enough_weights(server: RunningServer) -> None:
    rows = rest(server, complete_episodes=True, min_train_step=2)
    assert {row["session"] for row in rows} == {"s2", "s3"}
    ends = [row for row in rows if row["next_step_type"] == 2]
    assert len(ends) == sum(row["step_type"] == 0 for row in rows) == 100 // 8 + 100 // 9


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/experience?max_rows=none", 422, "max_rows: 'none'; expected an integer from 1 to 65536"),
        ("/experience?cursor=nothing", 422, "cursor: 'nothing'; expected the cursor of an answer as it came"),
        ("/v1/policies/custom/experience", 501, "policy custom takes no time steps"),
        ("/v1/policies/other/experience", 404, "no policy 'other' is served"),
    ],
)
def test_what_cannot_be_answered_is_refused(server: RunningServer, path: str, status: int, says: str) -> None:
    answer = server.http.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert says in answer.json()["detail"]


def test_a_cursor_of_another_policy_is_refused(server: RunningServer) -> None:
    cursor = read(server, "nested", max_rows=1)["cursor"]
    answer = server.http.get("/experience", params={"cursor": cursor})
    assert answer.status_code == 422
    assert "of another policy" in answer.json()["errors"][0]["problem"]


def test_experience_needs_the_data_token(server: RunningServer) -> None:
    assert httpx.get(server.url + "/experience", trust_env=False, timeout=600).status_code == 401
    assert httpx.post(server.url + "/experience", headers=BEARER, trust_env=False, timeout=600).status_code == 405


def test_a_reader_waits_as_long_as_it_says_and_holds_up_nobody(server: RunningServer) -> None:
    cursor = read(server, cursor="end")["cursor"]
    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(read, server, cursor=cursor, wait_ms=1500) for _ in range(8)]
        assert len(rest(server)) == ROWS
        assert server.http.get("/readyz").status_code == 200
        assert [each.result()["rows"] for each in waiting] == [0] * 8
    assert time.monotonic() - began >= 1.5


def successor(server: RunningServer, of: int) -> int:
    """The recorder that has taken the place of another one, once it answers."""
    while not (found := [pid for pid in server.processes(RECORDER) if pid != of]):
        time.sleep(0.02)
    return found[0]


def patiently(server: RunningServer, statuses: set[int], **query: Any) -> dict[str, Any]:
    """Reads until it is answered; notes what else is answered meanwhile."""
    while (answer := server.http.get("/experience", params=query)).status_code != 200:
        statuses.add(answer.status_code)
        assert answer.headers["retry-after"] == "1"
        time.sleep(0.02)
    return answer.json()


def test_a_reader_misses_and_repeats_nothing_when_the_recorder_is_killed(server: RunningServer) -> None:
    whole, found, statuses, cursor = rest(server), [], set[int](), ""
    restarts = 0
    while True:
        page = patiently(server, statuses, max_rows=80, cursor=cursor)
        if not page["rows"]:
            break
        found += list(zip(page["columns"]["session"], page["columns"]["step"], strict=True))
        cursor = page["cursor"]
        (pid,) = server.processes(RECORDER)
        os.kill(pid, signal.SIGKILL)
        successor(server, pid)
        restarts += 1
    assert found == [(row["session"], row["step"]) for row in whole]
    assert (restarts, statuses) == (5, {503})
    assert f'policy_server_restarts_total{{process="recorder"}} {restarts}.0' in server.http.get("/metrics").text


def test_a_reader_that_waits_is_refused_for_now_when_the_recorder_is_killed(server: RunningServer) -> None:
    cursor = patiently(server, set(), cursor="end")["cursor"]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(server.http.get, "/experience", params={"cursor": cursor, "wait_ms": 40_000})
        time.sleep(1.0)
        (pid,) = server.processes(RECORDER)
        os.kill(pid, signal.SIGKILL)
        answer = waiting.result()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert patiently(server, set(), cursor=cursor)["rows"] == 0


def test_a_recorder_that_hangs_is_replaced(server: RunningServer) -> None:
    (pid,) = server.processes(RECORDER)
    os.kill(pid, signal.SIGSTOP)
    assert successor(server, pid) != pid
    assert patiently(server, set())["rows"] == ROWS


def test_readers_beyond_the_bound_are_refused_and_those_that_leave_make_room(server: RunningServer) -> None:
    cursor = patiently(server, set(), cursor="end")["cursor"]
    command = f"curl -s -w %{{http_code}} -H '{': '.join(*BEARER.items())}'"
    command += f" -o /dev/null '{server.url}/experience?cursor={cursor}&wait_ms=45000'"
    readers = [subprocess.Popen(["sh", "-c", f"exec {command}"], stdout=subprocess.PIPE, text=True) for _ in range(70)]
    try:
        while len(refused := [reader for reader in readers if reader.poll() is not None]) < 6:
            time.sleep(0.05)
        assert [reader.communicate()[0] for reader in refused] == ["429"] * 6
    finally:
        for reader in readers:
            reader.kill()
            reader.wait()
            reader.stdout.close()
    query = {"cursor": cursor, "wait_ms": 500}
    with ThreadPoolExecutor(50) as pool:  # together they need the places of those that have left
        while {
            answer.status_code for answer in pool.map(lambda _: server.http.get("/experience", params=query), range(50))
        } != {200}:
            pass


def test_the_recorder_imports_neither_tensorflow_nor_fastapi_and_workers_no_pyarrow(server: RunningServer) -> None:
    patiently(server, set())
    maps = {
        module: Path(f"/proc/{server.processes(module)[0]}/maps").read_text() for module in (RECORDER, "app.worker")
    }
    assert "pyarrow" in maps[RECORDER]
    assert not any(name in maps[RECORDER] for name in ("tensorflow", "ai_edge_litert", "uvloop", "pydantic"))
    assert "pyarrow" not in maps["app.worker"]
    assert os.getpriority(os.PRIO_PROCESS, server.processes(RECORDER)[0]) > os.getpriority(os.PRIO_PROCESS, 0)


def test_a_server_that_stops_lets_its_readers_go(server: RunningServer) -> None:
    cursor = patiently(server, set(), cursor="end")["cursor"]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(server.http.get, "/experience", params={"cursor": cursor, "wait_ms": 45_000})
        time.sleep(1.0)
        began, said = time.monotonic(), len(server.lines)
        assert server.stop() == 0
        assert waiting.result().status_code == 503
    assert time.monotonic() - began < 20
    assert [line for line in server.lines[said:] if "ERROR" in line] == []
