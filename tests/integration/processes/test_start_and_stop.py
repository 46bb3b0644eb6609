"""Starting, being watched by operators, and stopping without losing what was accepted."""

import contextlib
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import httpx
import pytest

from tests.support.policies import NumberTrainer
from tests.support.server import ADMIN_TOKEN, ROOT, RunningServer, command, environment, serving

OBSERVATION = {"observation": [0.1, 0.0, 0.0, 0.0]}


def test_serve_prints_where_it_listens_and_what_it_serves(server: RunningServer) -> None:
    text = "\n".join(server.lines)
    assert f"Listening on {server.url}" in text
    assert "cartpole: version export, train step 11, engine litert" in text
    assert "deadline 10000 ms" in text


def test_health_routes_answer(server: RunningServer) -> None:
    assert server.http.get("/livez").json() == {"status": "alive"}
    assert server.http.get("/readyz").json() == {"status": "ready"}
    assert server.http.head("/livez").status_code == server.http.head("/readyz").status_code == 200


def test_metrics_count_answers_by_route_and_status(server: RunningServer) -> None:
    server.http.post("/action", json=OBSERVATION)
    server.http.post("/action", json={})
    server.http.post("/v1/policies/nobody/action", json={})
    text = server.http.get("/metrics").text
    assert 'policy_server_answers_total{policy="cartpole",route="action",status="200"}' in text
    assert 'policy_server_answers_total{policy="cartpole",route="action",status="422"}' in text
    assert 'policy_server_answers_total{policy="",route="action",status="404"}' in text
    assert 'policy_server_train_step{policy="cartpole"} 11.0' in text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopping_finishes_what_was_accepted_and_exits_with_0(
    exports: Path, warm: tuple[str, str], number: int
) -> None:
    statuses: list[int] = []
    closed: list[int] = []
    with serving({"cartpole": exports / "cartpole"}, *warm, prepared=True) as server:

        def ask() -> None:
            with httpx.Client(base_url=server.url, trust_env=False, timeout=600) as http:
                while True:
                    try:
                        statuses.append(http.post("/action", json=OBSERVATION).status_code)
                        enough.set()
                    except httpx.ConnectError:
                        return  # nobody listens any more
                    except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
                        closed.append(1)  # an idle connection was closed before the server read the next request

        enough = threading.Event()
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        enough.wait()
        assert server.stop(number) == 0
        for thread in threads:
            thread.join()
    assert set(statuses) == {200}
    assert len(closed) <= 4, "each connection is closed once at most"
    assert "Traceback" not in "\n".join(server.lines)


def test_a_client_that_never_ends_its_request_cannot_hold_the_server(exports: Path, warm: tuple[str, str]) -> None:
    with serving({"cartpole": exports / "cartpole"}, *warm, "--deadline-ms", "500", prepared=True) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), 5) as slow:
            slow.sendall(b"POST /action HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            server.http.get("/livez")
            assert server.stop() == 0


def test_without_a_token_the_admin_routes_are_closed_and_say_how_to_open_them(
    exports: Path, warm: tuple[str, str]
) -> None:
    settings = {"POLICY_SERVER_ADMIN_TOKEN": "", "POLICY_SERVER_DATA_TOKEN": "secret"}
    options = ("--cors-origins", "https://game.example", "--root-path", "/robots", "--strict-bounds")
    with serving({"nested": exports / "nested"}, *options, *warm, prepared=True, **settings) as server:
        response = server.admin.post("/admin/policies/nested/reload")
        assert response.status_code == 403
        assert "POLICY_SERVER_ADMIN_TOKEN" in response.json()["detail"]
        assert server.http.get("/readyz").status_code == 200
        assert server.http.get("/v1/policies").status_code == 401
        assert server.http.post("/action", json={}).status_code == 401
        bearer = {"Authorization": "Bearer secret", "Origin": "https://game.example"}
        allowed = server.http.get("/v1/policies", headers=bearer)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == "https://game.example"
        assert "/robots/openapi.json" in server.http.get("/docs").text
        # The proxy strips the prefix: these are the paths that arrive.
        assert server.http.get("/static-offline-docs/swagger-ui.css").status_code == 200
        assert server.http.get("/openapi.json").status_code == 200


@contextlib.contextmanager
def unread(folder: Path) -> Iterator[tuple[httpx.Client, subprocess.Popen[str]]]:
    """A server whose output goes to a pipe that is read up to where it listens, and a client of it."""
    words = command(f"p={folder}", "--port", "0", "--no-watch")
    with subprocess.Popen(
        words, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            lines = list(takewhile(lambda line: not line.startswith("Limits:"), process.stdout or ()))
            (url,) = (line.split()[2] for line in lines if line.startswith("Listening on "))
            with httpx.Client(base_url=url, timeout=600, trust_env=False) as http:
                yield http, process
        finally:
            process.kill()


def test_a_log_that_nobody_reads_stops_nothing(tmp_path: Path) -> None:
    """Its pipe is full, and a megabyte waits: answers, swaps and the stop go on; the log says how much is missing."""
    trainer = NumberTrainer(tmp_path / "p")
    long, bearer = "x" * 6000, {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    ask = {"observation": [7, 0, 0, 0]}
    with unread(trainer.folder) as (http, process):
        for _ in range(250):
            assert http.post(f"/admin/policies/{long}/reload").status_code == 401
        for step in range(1, 4):
            reloaded = http.post("/admin/policies/p/reload", headers=bearer, json={"checkpoint": trainer.publish(step)})
            assert reloaded.status_code == 200
            assert http.post("/action", json=ask).json()["train_step"] == step
        process.terminate()
        assert process.wait(30) == 0
        assert process.stdout is not None
        assert long in process.stdout.read()
    with unread(trainer.folder) as (http, process):
        for _ in range(250):
            http.post(f"/admin/policies/{long}/reload")
        assert process.stdout is not None
        assert any(" lines before this one were dropped" in line for line in process.stdout)
        assert http.post("/action", json=ask).status_code == 200
