"""Where sessions are kept, how many, how long, and with which weights."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from app.testing import ServerFailed
from tests.integration.sessions.test_sessions import OBSERVATION, Session, problem, server_of, steps_in
from tests.support.policies import CountingPolicy, NumberTrainer
from tests.support.redis_server import redis_running
from tests.support.server import serving
from tests.support.steady import until


@pytest.mark.parametrize("store", [pytest.param("memory", marks=pytest.mark.only_full), "redis"])
def test_swaps_are_followed_or_not_as_the_session_has_said(tmp_path: Path, full: bool, store: str) -> None:
    """In the midst of many sessions, three swaps: actions show the weights, and that the state goes on."""
    count = 500 if full else 20
    trainer = NumberTrainer(tmp_path / "counting", kind_of_policy=CountingPolicy)
    trainer.publish(1)
    with server_of(
        store, {"counting": trainer.folder}, "--no-watch", "--retained-versions", "2", prepared=True
    ) as server:
        followers = [Session(server, weights="latest") for _ in range(count)]
        keepers = [Session(server, weights="episode") for _ in range(count)]
        for number, step in ((1, 1), (2, 2), (3, 3), (4, 4)):
            if number > 1:
                assert server.reload("counting", checkpoint=trainer.publish(number)).status_code == 200
            for session in followers:
                answer = session.step(step=step).json()
                assert answer["action"] == [1000 * number + step + 1] * 2
                assert answer["train_step"] == number
            for session in keepers:
                answer = session.step(step=step).json()
                assert answer["action"] == [1000 + step + 1] * 2
                assert (answer["version"], answer["train_step"]) == ("0000000001", 1)
        late = Session(server, weights="episode")
        assert late.begun.json()["train_step"] == 4
        assert server.reload("counting", checkpoint=trainer.publish(5)).status_code == 200
        third = Session(server, weights="episode")
        assert "2 versions" in problem(third.begun, 429)["detail"]
        assert third.begun.headers["retry-after"]
        for session in keepers:
            assert session.end().status_code == 204
        assert Session(server, weights="episode").begun.json()["train_step"] == 5
        assert late.step().json()["train_step"] == 4
        assert problem(late.step(options={"min_train_step": 5}), 409)["title"] == "Weights too old"


@pytest.mark.parametrize("store", ["memory", pytest.param("redis", marks=pytest.mark.only_full)])
def test_sessions_are_bounded_and_given_back(exports: Path, warm: tuple[str, str], store: str) -> None:
    limits = ("--sessions-limit", "5", "--sessions-idle-s", "5", *warm)
    with server_of(store, {"recurrent": exports / "recurrent"}, *limits) as server:
        open_ones = [Session(server, "recurrent") for _ in range(5)]
        beyond = Session(server, "recurrent")
        assert "5 sessions" in problem(beyond.begun, 429)["detail"]
        assert beyond.begun.headers["retry-after"]
        assert open_ones[0].begin().status_code == 201  # in the place of the one that has its id
        open_ones[1].end()
        assert beyond.begin().status_code == 201
        problem(Session(server, "recurrent").begun, 429)
        until(lambda: Session(server, "recurrent").begun.status_code == 201, "idle sessions are given back")
        problem(open_ones[2].step(), 404)
        until(lambda: "policy_server_sessions 0.0" in server.http.get("/metrics").text, "all are given back")


@pytest.mark.parametrize("store", ["memory", "redis"])
def test_no_client_can_take_all_sessions(exports: Path, warm: tuple[str, str], store: str) -> None:
    """Nor a machine with all addresses of its IPv6 network. A vector of episodes is one session."""
    limits = ("--sessions-limit", "5", "--sessions-per-client", "2", "--trusted-proxies", "127.0.0.1", *warm)
    with server_of(store, {"recurrent": exports / "recurrent"}, *limits) as server:

        def begin(client: str, rows: int = 1) -> Any:
            body = {"observation": [OBSERVATION] * rows}
            return server.http.post("/v1/policies/recurrent/sessions", json=body, headers={"X-Forwarded-For": client})

        greedy = [begin(f"2001:db8:0:1::{number}", rows=3) for number in range(3)]
        assert [answer.status_code for answer in greedy] == [201, 201, 429]
        refused = problem(greedy[2], 429)
        assert "2 sessions that were started from 2001:db8:0:1::/64" in refused["detail"]
        assert greedy[2].headers["retry-after"]
        assert [begin("192.0.2.7").status_code for _ in range(3)] == [201, 201, 429]
        # The claim of a client that is no proxy does not count beside what the proxy says.
        assert begin("10.0.0.1, 192.0.2.7").status_code == 429
        assert begin("192.0.2.8").status_code == 201
        assert "5 sessions are open" in problem(begin("192.0.2.9"), 429)["detail"]
        server.http.delete(greedy[0].headers["location"]).raise_for_status()
        assert begin("2001:db8:0:1::9").status_code == 201


def test_the_memory_of_sessions_is_bounded(exports: Path, warm: tuple[str, str]) -> None:
    with serving(
        {"recurrent": exports / "recurrent"}, "--sessions-bytes-limit", "100000", *warm, prepared=True
    ) as server:
        large = Session(server, "recurrent", observation=[OBSERVATION] * 1000)
        assert large.begun.status_code == 201
        assert "bytes" in problem(Session(server, "recurrent", observation=[OBSERVATION] * 1000).begun, 429)["detail"]
        assert Session(server, "recurrent").begun.status_code == 201
        large.end()
        assert Session(server, "recurrent", observation=[OBSERVATION] * 1000).begun.status_code == 201


def test_workers_without_a_store_between_them_have_no_sessions(exports: Path, warm: tuple[str, str]) -> None:
    with serving({"cartpole": exports / "cartpole"}, "--workers", "2", *warm, prepared=True) as server:
        session = Session(server, "cartpole")
        assert "POLICY_SERVER_SESSION_URL" in problem(session.begun, 501)["detail"]
        problem(session.step(), 501)


def test_a_store_that_cannot_be_reached_is_a_503(exports: Path, warm: tuple[str, str]) -> None:
    with redis_running() as url:
        stack = contextlib.ExitStack()
        server = stack.enter_context(
            serving({"cartpole": exports / "cartpole"}, *warm, prepared=True, POLICY_SERVER_SESSION_URL=url)
        )
        session = Session(server, "cartpole")
        assert session.begun.status_code == 201
    with stack:
        assert "store" in problem(session.step(), 503)["detail"]
        problem(session.begin(), 503)
        assert server.http.post("/action", json={"observation": OBSERVATION}).status_code == 200


def test_sessions_in_redis_outlive_the_server(tmp_path: Path, warm: tuple[str, str]) -> None:
    trainer = NumberTrainer(tmp_path / "counting", kind_of_policy=CountingPolicy)
    with redis_running() as url:
        folders = {"counting": trainer.folder}
        with serving(folders, "--no-watch", *warm, prepared=True, POLICY_SERVER_SESSION_URL=url) as server:
            session = Session(server)
            answer = session.step(step=1)
        with serving(folders, "--no-watch", *warm, prepared=True, POLICY_SERVER_SESSION_URL=url) as server:
            session.server = server
            assert session.step(step=1).content == answer.content
            assert steps_in(session.step(step=2)) == 3


def test_a_session_of_another_policy_by_that_name_is_unknown(tmp_path: Path, exports: Path) -> None:
    trainer = NumberTrainer(tmp_path / "counting", kind_of_policy=CountingPolicy)
    with redis_running() as url:
        with serving({"same": exports / "recurrent"}, prepared=True, POLICY_SERVER_SESSION_URL=url) as server:
            session = Session(server, "same")
        with serving({"same": trainer.folder}, prepared=True, POLICY_SERVER_SESSION_URL=url) as server:
            session.server = server
            assert "another policy" in problem(session.step(), 404)["detail"]
            assert steps_in(session.begin()) == 1


def test_a_url_of_no_store_is_logged_at_the_start(exports: Path) -> None:
    with (
        pytest.raises(ServerFailed, match="POLICY_SERVER_SESSION_URL"),
        serving({"cartpole": exports / "cartpole"}, POLICY_SERVER_SESSION_URL="http://127.0.0.1:1"),
    ):
        pass


def test_records_that_others_have_changed_are_the_trouble_of_their_sessions_only(
    exports: Path, warm: tuple[str, str]
) -> None:
    """A state of another shape came into one batch with requests of others, and all of it was a 500."""
    with redis_running() as url, contextlib.closing(redis.Redis.from_url(url)) as store:
        names = {name: exports / name for name in ("recurrent", "cartpole")}
        with (
            serving(names, *warm, prepared=True, POLICY_SERVER_SESSION_URL=url) as server,
            ThreadPoolExecutor(8) as threads,
        ):
            good = Session(server, "recurrent")
            for spoil in SPOILED:
                bad = Session(server, "recurrent")
                key = f"policy-server:sessions:record:recurrent/{bad.id}"
                spoiled = spoil(msgspec.msgpack.decode(store.hget(key, "data")))
                store.hset(key, "data", msgspec.msgpack.encode(spoiled))
                stepping = threads.submit(bad.step)
                ask = {"observation": OBSERVATION}
                others = [threads.submit(server.http.post, "/action", json=ask) for _ in range(6)]
                assert [other.result().status_code for other in others] == [200] * 6
                assert "could not be read" in problem(stepping.result(), 404)["detail"]
                assert good.step().status_code == 200
                assert bad.begin().status_code == 201
                assert bad.step().status_code == 200
            counted = 'policy_server_unusable_records_total{policy="recurrent"} '
            assert f"{counted}{len(SPOILED)}.0" in server.http.get("/metrics").text
            store.flushall()
            problem(good.step(), 404)
            assert good.begin().status_code == 201
    reported = [line for line in server.lines if "cannot be used and is dropped" in line]
    assert len(reported) == len(SPOILED)


def _another_shape(plain: dict[str, Any]) -> dict[str, Any]:
    return plain | {"state": {name: ["<f4", [1, 3], bytes(12)] for name in plain["state"]}}


def _code_as_dtype(plain: dict[str, Any]) -> dict[str, Any]:
    return plain | {"state": {name: ["(", *array[1:]] for name, array in plain["state"].items()}}


def _more_rows(plain: dict[str, Any]) -> dict[str, Any]:
    state = {name: [array[0], [2, *array[1][1:]], 2 * array[2]] for name, array in plain["state"].items()}
    return plain | {"state": state}


def _not_finite(plain: dict[str, Any]) -> dict[str, Any]:
    return plain | {"state": {name: [*array[:2], b"\xff" * len(array[2])] for name, array in plain["state"].items()}}


SPOILED = (_another_shape, _code_as_dtype, _more_rows, _not_finite)
