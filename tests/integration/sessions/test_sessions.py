"""Sessions over HTTP: begun, stepped, asked again, taken over, ended; in memory, and in Redis behind two workers."""

import contextlib
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from app.wire import msgpack_body
from tests.support.policies import CountingPolicy, NumberTrainer
from tests.support.redis_server import redis_running
from tests.support.saver_policies import Saved
from tests.support.server import RunningServer, serving

OBSERVATION = [0.1, -0.2, 0.3, -0.4]
IDS = (f"test-{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> NumberTrainer:
    """Of a policy whose actions show its weights and the step of the episode."""
    return NumberTrainer(tmp_path_factory.mktemp("counting") / "counting", kind_of_policy=CountingPolicy)


@contextlib.contextmanager
def server_of(store: str, folders: dict[str, Path], *options: str, prepared: bool = False) -> Iterator[RunningServer]:
    if store == "memory":
        with serving(folders, *options, prepared=prepared) as running:
            yield running
        return
    with redis_running() as url:
        options = ("--workers", "2", *options)
        with serving(folders, *options, prepared=prepared, POLICY_SERVER_SESSION_URL=url) as running:
            yield running


@pytest.fixture(scope="module", params=["memory", "redis"])
def sessions(
    request: pytest.FixtureRequest, trainer: NumberTrainer, exports: Path, saved: Saved, warm: tuple[str, str]
) -> Iterator[RunningServer]:
    names = ("cartpole", "boltzmann", "recurrent", "fixed", "nested")
    folders = {"counting": trainer.folder} | {name: exports / name for name in names}
    folders["custom"] = saved.folder("input_fn")
    with server_of(request.param, folders, "--no-watch", *warm, prepared=True) as running:
        yield running


class Session:
    """One session; every request is a plain one, so that tests may send what no client would."""

    def __init__(self, server: RunningServer, policy: str = "counting", id_: str | None = None, **begin: Any) -> None:
        self.server, self.policy = server, policy
        self.id = id_ or next(IDS)
        self.root = f"/v1/policies/{policy}/sessions"
        self.begun = self.begin(**begin)

    def begin(self, **fields: Any) -> httpx.Response:
        body = {"id": self.id, "observation": OBSERVATION} | fields
        return self.server.http.post(self.root, json=body)

    def step(self, **fields: Any) -> httpx.Response:
        return self.server.http.post(f"{self.root}/{self.id}/action", json={"observation": OBSERVATION} | fields)

    def describe(self) -> dict:
        return self.server.http.get(f"{self.root}/{self.id}").raise_for_status().json()

    def end(self, **query: str) -> httpx.Response:
        return self.server.http.delete(f"{self.root}/{self.id}", params=query)


def steps_in(answer: httpx.Response) -> Any:
    """The steps of their episodes that the actions show."""
    return (np.array(answer.raise_for_status().json()["action"])[..., 0] % 1000).tolist()


def problem(answer: httpx.Response, status: int) -> dict:
    assert answer.status_code == status, answer.text
    return answer.json()


def test_a_session_carries_the_policy_state(sessions: RunningServer) -> None:
    session = Session(sessions, run_id="a run")
    assert session.begun.status_code == 201
    assert session.begun.headers["location"] == f"/v1/policies/counting/sessions/{session.id}"
    begun = session.begun.json()
    assert begun == {
        "id": session.id,
        "run_id": "a run",
        "step": 0,
        "action": [1, 1],
        "version": "export",
        "train_step": 0,
    }
    for step in range(1, 5):
        answer = session.step(step=step)
        assert answer.json() == {"step": step, "action": [step + 1] * 2, "version": "export", "train_step": 0}
    assert session.describe() == {
        "id": session.id,
        "run_id": "a run",
        "step": 4,
        "rows": None,
        "weights": "latest",
        "version": "export",
        "train_step": 0,
    }


def test_the_default_policy_and_the_server_may_choose(sessions: RunningServer) -> None:
    answer = sessions.http.post("/sessions", json={"observation": OBSERVATION}).raise_for_status().json()
    other = sessions.http.post("/sessions", json={"observation": OBSERVATION}).raise_for_status().json()
    assert len({answer["id"], other["id"]}) == len({answer["run_id"], other["run_id"]}) == 2
    path = f"/sessions/{answer['id']}"
    assert steps_in(sessions.http.post(f"{path}/action", json={"observation": OBSERVATION})) == 2
    assert sessions.http.get(path).json()["step"] == 1
    assert sessions.http.delete(path).status_code == 204


def test_the_same_step_again_gets_the_same_bytes_and_moves_nothing(sessions: RunningServer) -> None:
    session = Session(sessions, "boltzmann", run_id="r")
    assert session.begin(run_id="r").content == session.begun.content
    for step in range(1, 30):
        answers = {session.step(step=step).content for _ in range(3)}
        assert len(answers) == 1
    assert session.describe()["step"] == 29


def test_the_same_step_in_another_form_is_the_same_answer(sessions: RunningServer) -> None:
    session = Session(sessions, "recurrent")
    answer = session.step(step=1).json()
    body = msgpack_body.encode({"observation": np.array(OBSERVATION, np.float32), "step": 1})
    headers = {"Content-Type": "application/msgpack"}
    again = sessions.http.post(f"{session.root}/{session.id}/action", content=body, headers=headers)
    assert again.headers["content-type"] == "application/msgpack"
    assert msgpack_body.decode(again.content) == answer
    assert msgpack_body.decode(sessions.http.post(again.url.path, content=body, headers=headers).content) == answer


def test_a_gap_is_a_conflict_that_names_the_last_step(sessions: RunningServer) -> None:
    session = Session(sessions)
    session.step(step=1)
    for step in (0, 3, 10**18):
        assert problem(session.step(step=step), 409)["step"] == 1
    assert steps_in(session.step(step=2)) == 3


def test_steps_without_a_number_just_follow(sessions: RunningServer) -> None:
    session = Session(sessions)
    assert [steps_in(session.step()) for _ in range(3)] == [2, 3, 4]


def test_a_new_run_starts_fresh_and_the_old_one_is_fenced(sessions: RunningServer) -> None:
    session = Session(sessions, run_id="old")
    session.step(step=1, run_id="old")
    assert steps_in(session.begin(run_id="new")) == 1
    for fields in ({"step": 2}, {"step": 1}, {}):
        assert problem(session.step(run_id="old", **fields), 409)["step"] == 0
    assert problem(session.end(run_id="old"), 409)["step"] == 0
    assert steps_in(session.step(run_id="new", step=1)) == 2
    problem(session.begin(run_id="new"), 409)  # is further already
    assert problem(session.end(run_id=""), 422)["errors"][0]["where"] == "run_id"
    assert session.end(run_id="new").status_code == 204


def test_what_has_ended_is_unknown_and_its_id_is_free(sessions: RunningServer) -> None:
    session = Session(sessions, run_id="r")
    session.step()
    assert session.end().status_code == 204
    assert "no session" in problem(session.step(), 404)["detail"]
    assert session.end().status_code == 404
    problem(sessions.http.get(f"{session.root}/{session.id}"), 404)
    problem(sessions.http.get(f"{session.root}/%20"), 404)
    assert steps_in(session.begin(run_id="r")) == 1


def test_rows_begin_anew_where_they_are_first_or_were_last(sessions: RunningServer) -> None:
    session = Session(sessions, observation=[OBSERVATION] * 3)

    def step(**fields: Any) -> Any:
        return steps_in(session.step(observation=[OBSERVATION] * 3, **fields))

    assert step() == [2, 2, 2]
    assert step(first=[False, True, False]) == [3, 1, 3]
    assert step(step_type=[1, 1, 2]) == [4, 2, 4]
    assert step() == [5, 3, 1]
    assert step(step_type=[0, 1, 1]) == [1, 4, 2]
    assert step(step_type=[2, 2, 1]) == [2, 5, 3]
    assert step(first=[False, False, True]) == [1, 1, 1]
    assert step(step_type=[2, 2, 2]) == [2, 2, 2]
    assert step(first=True) == [1, 1, 1]
    assert step(first=False) == [2, 2, 2]
    contradiction = session.step(observation=[OBSERVATION] * 3, first=[True, False, False], step_type=[1, 1, 1])
    assert problem(contradiction, 422)["errors"][0]["where"] == "step_type"
    assert step(first=[True, False, False], step_type=[0, 0, 1]) == [1, 1, 3]


def test_a_new_run_takes_over_whatever_the_old_one_does_meanwhile(sessions: RunningServer) -> None:
    session, fenced = Session(sessions, run_id="old"), threading.Event()
    statuses = set()

    def go_on() -> None:
        with httpx.Client(base_url=sessions.url, trust_env=False, timeout=600) as http:
            while not fenced.is_set():
                body = {"observation": OBSERVATION, "run_id": "old"}
                statuses.add(http.post(f"{session.root}/{session.id}/action", json=body).status_code)

    old = threading.Thread(target=go_on)
    old.start()
    try:
        for number in range(20):
            assert session.begin(run_id=f"new-{number}").status_code == 201
            assert session.begin(run_id=f"new-{number}", id=session.id).status_code == 201
            session.begin(run_id="old")  # for another turn
        assert steps_in(session.begin(run_id="newest")) == 1
    finally:
        fenced.set()
        old.join()
    assert statuses <= {200, 409}
    assert steps_in(session.step(run_id="newest", step=1)) == 2


@pytest.mark.parametrize("name", ["recurrent", "fixed", "nested"])
def test_rows_are_answered_as_the_policy_says_when_its_state_is_sent_along(sessions: RunningServer, name: str) -> None:
    """The same steps without a session: what the server keeps is what it would have answered."""
    draw = np.random.default_rng(3)
    rows, session, states = 4, None, None
    for step in range(8):
        first = np.array([step == 0 or (step + row) % 3 == 0 for row in range(rows)])
        if name == "nested":
            observation: Any = {
                "camera": draw.integers(0, 200, (rows, 2, 3)).tolist(),
                "body": [draw.normal(0, 1, (rows, 3)).tolist(), draw.integers(0, 9, rows).tolist()],
            }
        else:
            observation = draw.normal(0, 1, (rows, 4)).tolist()
        initial = sessions.http.post(f"/v1/policies/{name}/get_initial_state", json={"batch_size": rows}).json()
        states = initial["policy_state"] if states is None else _where(first, initial["policy_state"], states)
        body = {"observation": observation, "policy_state": states, "step_type": np.where(first, 0, 1).tolist()}
        expected = sessions.http.post(f"/v1/policies/{name}/action", json=body).raise_for_status().json()
        states = expected.pop("policy_state")
        if session is None:
            session = Session(sessions, name, observation=observation)
            answer = session.begun.json()
        else:
            answer = session.step(observation=observation, first=first.tolist(), step=step).json()
        np.testing.assert_allclose(answer["action"], expected["action"], 1e-5, 1e-6)
        assert "policy_state" not in answer


def _where(mask: np.ndarray, yes: Any, no: Any) -> Any:
    if isinstance(yes, dict):
        return {key: _where(mask, yes[key], no[key]) for key in yes}
    yes, no = np.array(yes), np.array(no)  # the parts of an LSTM's state are alike
    rows = mask[None, :, None] if yes.ndim == 3 else mask.reshape(-1, *[1] * (yes.ndim - 1))
    return np.where(rows, yes, no).tolist()


def test_a_state_that_is_not_finite_is_never_stored(sessions: RunningServer) -> None:
    session = Session(sessions)
    session.step(step=1)
    answer = problem(session.step(step=2, observation=[3e38, 0, 0, 0]), 422)
    assert "not finite" in answer["detail"]
    assert steps_in(session.step(step=2)) == 3
    problem(Session(sessions, observation=[3e38, 0, 0, 0]).begun, 422)


def test_what_does_not_fit_is_reported_and_changes_nothing(sessions: RunningServer) -> None:
    session = Session(sessions)
    unfit = {
        "observation": [1, 2, 3],
        "policy_state": {"steps": 3, "last": [0.0]},
        "0/reward": "x",
        "step": -1,
        "run_id": "",
        "first": [True],
        "options": {"seed": -1},
        "colour": 1,
        "id": "other",
        "weights": "latest",
    }
    for name, value in unfit.items():
        where = problem(session.step(**{name: value}), 422)["errors"][0]["where"]
        assert where.startswith(name.partition("/")[0]) or name == "options", where
    for fields in ({"id": "a b"}, {"id": "x" * 129}, {"id": ".."}, {"run_id": 3}, {"weights": "newest"}, {"step": 0}):
        (name,) = fields
        assert problem(session.begin(**fields), 422)["errors"][0]["where"] == name
    assert problem(session.step(observation=[OBSERVATION]), 422)["detail"].startswith("observation: a batch of 1 rows")
    problem(sessions.http.post(f"{session.root}/{session.id}/action", content=b"{"), 400)
    problem(sessions.http.post(session.root, content=b"[]"), 400)
    headers = {"Content-Type": "text/html"}
    problem(sessions.http.post(session.root, content=b"{}", headers=headers), 415)
    problem(sessions.http.post(f"{session.root}/{session.id}/action", content=b"{}", headers=headers), 415)
    assert steps_in(session.step(step=1)) == 2


def test_options_hold_for_the_session_and_may_be_given_on_each_step(sessions: RunningServer) -> None:
    seeded = Session(sessions, "boltzmann", options={"seed": 5, "log_prob": True})
    assert "log_prob" in seeded.begun.json()
    alike = Session(sessions, "boltzmann", options={"seed": 5, "log_prob": True})
    reported = [[s.step().json()["action"] for _ in range(40)] for s in (seeded, alike)]
    assert reported[0] == reported[1]
    assert len(set(reported[0])) == 2  # each step has noise of its own
    other = Session(sessions, "boltzmann", options={"seed": 6})
    assert [other.step().json()["action"] for _ in range(40)] != reported[0]
    assert "log_prob" not in other.step().json()
    assert "log_prob" in other.step(options={"log_prob": True}).json()
    greedy = Session(sessions, "boltzmann", options={"mode": "greedy"})
    assert len({greedy.step().json()["action"] for _ in range(20)}) == 1
    assert len({greedy.step(options={"mode": "sample"}).json()["action"] for _ in range(40)}) == 2
    old = problem(greedy.step(options={"min_train_step": 99, "timeout_ms": 20}), 409)
    assert old["title"] == "Weights too old"
    problem(Session(sessions, "counting", options={"log_prob": True}).begun, 501)


def test_the_first_seeded_step_is_that_of_a_request_without_a_session(sessions: RunningServer) -> None:
    body = {"observation": [OBSERVATION] * 64, "options": {"seed": 9}}
    stateless = sessions.http.post("/v1/policies/boltzmann/action", json=body).json()
    assert Session(sessions, "boltzmann", **body).begun.json()["action"] == stateless["action"]


def test_two_that_send_the_same_step_at_once_get_the_same_answer(sessions: RunningServer) -> None:
    session = Session(sessions, "boltzmann")
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(httpx.Client(base_url=sessions.url, trust_env=False, timeout=600)) for _ in range(4)
        ]
        for step in range(1, 25):
            answers: list[bytes] = []

            def send(client: httpx.Client, step: int = step, answers: list[bytes] = answers) -> None:
                body = {"observation": OBSERVATION, "step": step}
                answer = client.post(f"{session.root}/{session.id}/action", json=body)
                answers.append(answer.raise_for_status().content)

            threads = [threading.Thread(target=send, args=(client,)) for client in clients]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(answers) == 4
            assert len(set(answers)) == 1
    assert session.describe()["step"] == 24


def test_policies_without_time_steps_have_no_sessions(sessions: RunningServer) -> None:
    assert "input_fn_and_spec" in problem(Session(sessions, "custom").begun, 501)["detail"]
