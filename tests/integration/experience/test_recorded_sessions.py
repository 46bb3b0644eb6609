"""Sessions that go from one server to another, and OpenPI's connections, are recorded once."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.sync.client import connect

from app.dialects.openpi_arrays import encode
from tests.support.policies import CountingPolicy, NumberTrainer
from tests.support.redis_server import redis_running
from tests.support.server import RunningServer, serving

COUNT = 12


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RunningServer]]:
    """Two servers with one Redis, each with a folder of its own for experience: as on two machines."""
    folder = tmp_path_factory.mktemp("two")
    trainer = NumberTrainer(folder / "counting", kind_of_policy=CountingPolicy)

    def options(number: int) -> list[str]:
        return ["--no-watch", "--experience-dir", str(folder / f"experience-{number}"), "--experience-share", "0"]

    with redis_running() as url:
        env = {"POLICY_SERVER_SESSION_URL": url}
        policies = {"counting": trainer.folder}
        with (
            serving(policies, *options(0), prepared=True, **env) as one,
            serving(policies, *options(1), prepared=True, **env) as other,
        ):
            yield [one, other]


def rows_of(server: RunningServer, session: str, count: int) -> list[dict[str, Any]]:
    """The rows of a session, when there are so many, or none come any more."""
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        query = {"cursor": cursor, "wait_ms": 1000 if len(found) >= count else 20_000}
        page = server.http.get("/experience", params=query).raise_for_status().json()
        cursor, names = page["cursor"], page["columns"]
        rows = [dict(zip(names, values, strict=True)) for values in zip(*names.values(), strict=True)]
        found += [row for row in rows if row["session"] == session]
        if not rows:
            return found


@pytest.mark.parametrize("turns", ["in turn", "two each", "once over", "sent again to the other"])
def test_session_that_changes_servers_is_recorded_once_by_them_together(two: list[RunningServer], turns: str) -> None:
    session, root = turns.replace(" ", "-"), "/v1/policies/counting/sessions"
    order = {"in turn": lambda n: n % 2, "two each": lambda n: n // 2 % 2, "once over": lambda n: n >= 5}
    places = [int(order.get(turns, order["in turn"])(step)) for step in range(COUNT)]
    answers = []
    for step, place in enumerate(places):
        body: dict[str, Any] = {"observation": [step, 0, 0, 0], "reward": step, "run_id": "r"}
        if step == 0:
            path, body = root, body | {"id": session, "record": True}
        else:
            path, body = f"{root}/{session}/action", body | {"step": step}
        answer = two[place].http.post(path, json=body).raise_for_status()
        if turns.startswith("sent"):
            assert two[1 - place].http.post(path, json=body).content == answer.content
        answers.append(answer.json())
    # The server that answered the later step of a pair has the row.
    expected = [[step for step in range(COUNT - 1) if places[step + 1] == place] for place in (0, 1)]
    rows = [rows_of(server, session, len(steps)) for server, steps in zip(two, expected, strict=True)]
    assert [[row["step"] for row in each] for each in rows] == expected
    for row in rows[0] + rows[1]:
        assert row["action"] == answers[row["step"]]["action"]
        assert row["observation"] == [row["step"], 0, 0, 0]
        assert row["reward"] == row["step"] + 1


def test_connection_of_openpi_is_a_session(tmp_path: Path) -> None:
    folder = tmp_path / "counting"
    NumberTrainer(folder, kind_of_policy=CountingPolicy)
    with serving({"counting": folder}, "--no-watch", "--experience-dir", str(tmp_path / "e"), prepared=True) as server:
        url = server.url.replace("http", "ws") + "/v1/policies/counting/openpi"
        with connect(url, proxy=None) as socket:
            socket.recv()
            for step in range(5):
                socket.send(encode({"observation": np.full(4, step, np.float32)}))
                assert isinstance(socket.recv(), bytes)
        page: dict[str, Any] = {"rows": 0}
        while page["rows"] < 4:
            page = server.http.get("/experience", params={"wait_ms": 10_000}).raise_for_status().json()
        columns = page["columns"]
        assert columns["step"] == [0, 1, 2, 3]
        assert columns["step_type"] == [0, 1, 1, 1]
        assert columns["observation"] == [[float(step)] * 4 for step in range(4)]
        assert columns["action"] == [[step + 1] * 2 for step in range(4)]
        assert len({*columns["session"]}) == 1
