"""Synchronous training: pause, publish, reload, resume; what is asked meanwhile waits or is refused."""

import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.policies import NumberTrainer
from tests.support.server import RunningServer, serving

ROOM = 6
DEADLINE_S = 200  # so long that nothing but a fault reaches it


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> NumberTrainer:
    return NumberTrainer(tmp_path_factory.mktemp("pause") / "policy")


@pytest.fixture(scope="module")
def running(trainer: NumberTrainer) -> Iterator[RunningServer]:
    options = ("--no-watch", "--queue-limit-requests", str(ROOM), "--deadline-ms", str(DEADLINE_S * 1000))
    with serving({"policy": trainer.folder}, *options, prepared=True) as server:
        yield server


@pytest.fixture
def server(running: RunningServer) -> Iterator[RunningServer]:
    yield running
    resume(running)


@pytest.fixture
def clients() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2 * ROOM) as pool:
        yield pool


def pause(server: RunningServer, **body: object) -> object:
    return server.admin.post("/admin/policies/policy/pause", json=body).raise_for_status().json()["paused"]


def resume(server: RunningServer) -> httpx.Response:
    return server.admin.post("/admin/policies/policy/resume").raise_for_status()


def act(server: RunningServer, **options: object) -> httpx.Response:
    return server.http.post("/action", json={"observation": [7, 0, 0, 0], "options": options})


def ask(server: RunningServer, route: str = "action", **body: object) -> httpx.Response:
    """Asks until there is room: a look of `full` may be in it just then."""
    while True:
        response = server.http.post(f"/{route}", json=body or {"observation": [7, 0, 0, 0]})
        if response.status_code != 429:
            return response
        time.sleep(0.02)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def full(server: RunningServer) -> bool:
    """Whether the queue is full; a look takes no place in it for long."""
    return act(server, timeout_ms=1).status_code == 429


def test_what_is_asked_while_paused_is_answered_by_the_weights_published_meanwhile(
    server: RunningServer, trainer: NumberTrainer, clients: ThreadPoolExecutor
) -> None:
    assert pause(server) == "wait"
    assert server.http.get("/v1/policies/policy").json()["paused"] == "wait"
    assert 'policy_server_paused{policy="policy"} 1.0' in server.http.get("/metrics").text
    held: list[Future[httpx.Response]] = [clients.submit(ask, server, "get_initial_state", batch_size=2)]
    held += [clients.submit(ask, server) for _ in range(ROOM - 1)]
    until(lambda: full(server))
    for step in (1, 2):
        assert server.reload("policy", checkpoint=trainer.publish(step)).json()["train_step"] == step
    assert not any(job.done() for job in held)
    assert resume(server).json() == {"paused": None}
    assert held[0].result().json() == {"policy_state": []}
    for job in held[1:]:
        assert job.result().json() == {"action": [2007, 2007], "version": "0000000002", "train_step": 2}
    assert server.http.get("/v1/policies/policy").json()["paused"] is None


def test_after_a_pause_has_answered_nothing_comes_from_the_old_weights(
    server: RunningServer, trainer: NumberTrainer, clients: ThreadPoolExecutor
) -> None:
    stop = threading.Event()
    came: list[tuple[float, int]] = []

    def simulate() -> None:
        while not stop.is_set():
            began = time.monotonic()
            came.append((began, act(server).raise_for_status().json()["train_step"]))

    simulators = [clients.submit(simulate) for _ in range(4)]
    for step in (101, 102, 103):
        begun = len(came)
        until(lambda begun=begun: len(came) > begun + 20 or any(s.done() for s in simulators))
        pause(server)
        paused_at = time.monotonic()
        server.reload("policy", checkpoint=trainer.publish(step)).raise_for_status()
        resume(server)
        begun = len(came)
        until(lambda begun=begun: len(came) > begun + 20 or any(s.done() for s in simulators))
        assert all(train_step >= step for began, train_step in came if began > paused_at)
    stop.set()
    for simulator in simulators:
        simulator.result()


def test_held_request_gets_504_at_its_own_deadline(server: RunningServer) -> None:
    pause(server, mode="wait")
    began = time.monotonic()
    response = act(server, timeout_ms=300)
    assert response.status_code == 504
    assert "policy policy is paused" in response.json()["detail"]
    assert 0.3 <= time.monotonic() - began < DEADLINE_S / 2


def test_rejecting_refuses_at_once_and_says_why(server: RunningServer) -> None:
    assert pause(server, mode="reject") == "reject"
    for route, body in (
        ("action", {"observation": [7, 0, 0, 0]}),
        ("action", {"observation": [7, 0, 0, 0], "options": {"min_train_step": 10**9}}),
        ("get_initial_state", {}),
    ):
        response = server.http.post(f"/{route}", json=body)
        assert response.status_code == 503
        assert response.json()["detail"] == "policy policy is paused"
    assert server.http.get("/v1/policies/policy").json()["paused"] == "reject"
    resume(server)
    assert act(server).status_code == 200


def test_going_over_to_reject_refuses_what_waits(server: RunningServer, clients: ThreadPoolExecutor) -> None:
    pause(server)
    held = [clients.submit(ask, server) for _ in range(ROOM)]
    until(lambda: full(server))
    assert pause(server, mode="reject") == "reject"
    assert {job.result().status_code for job in held} == {503}
    assert pause(server) == "wait"


def test_queue_has_its_bound(server: RunningServer, clients: ThreadPoolExecutor) -> None:
    pause(server)
    held = [clients.submit(ask, server) for _ in range(ROOM)]
    until(lambda: full(server))
    response = act(server)
    assert response.status_code == 429
    assert int(response.headers["Retry-After"]) >= 1
    resume(server)
    assert {job.result().status_code for job in held} == {200}


def asking(server: RunningServer) -> socket.socket:
    """A connection on which a request has been sent."""
    host, port = server.url.removeprefix("http://").split(":")
    body = b'{"observation": [7, 0, 0, 0]}'
    connection = socket.create_connection((host, int(port)), 5)
    connection.sendall(b"POST /action HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    return connection


def test_clients_that_go_away_leave_the_queue(server: RunningServer) -> None:
    pause(server)
    connections = [asking(server) for _ in range(ROOM)]
    while not full(server):  # where a look was in the queue, one of them was refused
        connections.append(asking(server))
    began = time.monotonic()
    for connection in connections:
        connection.close()
    until(lambda: not full(server))
    assert time.monotonic() - began < DEADLINE_S / 2, "they left at their deadline, not when they went away"

    def gone() -> float:
        text = server.http.get("/metrics").text
        return sum(
            map(float, re.findall(r'^policy_server_answers_total\{.*="action",status="499"\} (.*)$', text, re.M))
        )

    until(lambda: gone() >= ROOM)


def test_request_for_newer_weights_waits_for_them_and_then_for_the_resume(
    server: RunningServer, trainer: NumberTrainer, clients: ThreadPoolExecutor
) -> None:
    server.reload("policy").raise_for_status()
    pause(server)
    job = clients.submit(act, server, min_train_step=500)
    trainer.publish(500)
    server.reload("policy").raise_for_status()
    time.sleep(0.1)
    assert not job.done()
    resume(server)
    assert job.result().json()["train_step"] == 500


@pytest.mark.parametrize("body", [{"mode": "stop"}, {"mode": None}, {"how": "wait"}])
def test_pause_that_fits_nothing_is_refused(server: RunningServer, body: dict[str, object]) -> None:
    assert server.admin.post("/admin/policies/policy/pause", json=body).status_code == 422
    assert server.http.get("/v1/policies/policy").json()["paused"] is None


def test_pause_needs_no_body_and_resume_no_pause(server: RunningServer) -> None:
    assert server.admin.post("/admin/policies/policy/pause").json() == {"paused": "wait"}
    for _ in range(2):
        response = resume(server)
        assert (response.status_code, response.json()) == (200, {"paused": None})


def test_pause_needs_the_token_and_a_policy(server: RunningServer) -> None:
    for verb in ("pause", "resume"):
        assert server.http.post(f"/admin/policies/policy/{verb}").status_code == 401
        assert server.admin.post(f"/admin/policies/nobody/{verb}").status_code == 404


def test_stopping_while_paused_refuses_what_is_held_and_the_next_server_is_not_paused(
    trainer: NumberTrainer, clients: ThreadPoolExecutor, tmp_path: Path
) -> None:
    options = (
        "--no-watch",
        "--queue-limit-requests",
        "2",
        "--deadline-ms",
        str(DEADLINE_S * 1000),
        "--state-dir",
        str(tmp_path),
    )
    with serving({"policy": trainer.folder}, *options, prepared=True) as server:
        pause(server)
        held = [clients.submit(ask, server) for _ in range(2)]
        until(lambda: full(server))
        began = time.monotonic()
        assert server.stop(signal.SIGTERM) == 0
        assert time.monotonic() - began < DEADLINE_S / 2
        assert [job.result().status_code for job in held] == [503, 503]
        assert held[0].result().json()["detail"] == "the server is stopping"
        assert "Traceback" not in "\n".join(server.lines)
    with serving({"policy": trainer.folder}, *options, prepared=True) as server:
        assert act(server).status_code == 200
