"""A server that listens on a unix socket beside its port."""

import http.client
import json
import signal
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

import policy_client
from policy_client import RemotePolicy
from tests.support.policies import NumberTrainer
from tests.support.server import RunningServer, command, environment, serving
from tests.support.steady import until

BODY = {"observation": [3, 0, 0, 0]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unix")
    NumberTrainer(folder / "p")
    return folder


@pytest.fixture(scope="module")
def path(folder: Path) -> Path:
    """With the socket of a server that was killed."""
    path = folder / "policy.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    return path


@pytest.fixture(scope="module")
def server(folder: Path, path: Path) -> Iterator[RunningServer]:
    options = ("--uds", str(path), "--uds-mode", "0606", "--uds-owner", ":0", "--sessions-per-client", "2")
    with serving({"p": folder / "p"}, *options, prepared=True) as running:
        yield running


@pytest.fixture
def local(server: RunningServer, path: Path) -> Iterator[httpx.Client]:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://unix", timeout=600) as client:
        yield client


def test_it_answers_as_the_port_does(server: RunningServer, local: httpx.Client) -> None:
    for route, body in (("action", BODY), ("action", {"observation": "no"}), ("get_initial_state", {})):
        over_port, over_socket = server.http.post(f"/{route}", json=body), local.post(f"/{route}", json=body)
        assert (over_port.status_code, over_port.content) == (over_socket.status_code, over_socket.content)
    assert "and on the unix socket" in "\n".join(server.lines)


def test_it_belongs_to_whom_the_settings_say(server: RunningServer, path: Path) -> None:
    found = path.stat()
    assert stat.S_ISSOCK(found.st_mode)
    assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o606, 0)


def test_clients_on_it_count_as_one_and_the_audit_log_says_where_a_call_came_from(
    server: RunningServer, local: httpx.Client
) -> None:
    for _ in range(2):
        assert local.post("/v1/policies/p/sessions", json=BODY).status_code == 201
    assert local.post("/v1/policies/p/sessions", json=BODY).status_code == 429
    row = {"name": "0/observation", "datatype": "FP32", "shape": [1, 4], "data": BODY["observation"]}
    sequence = {"inputs": [row], "parameters": {"sequence_id": 7, "sequence_start": True}}
    whole = json.dumps(sequence).encode()
    for content in (whole, iter([whole])):  # the framework takes what comes in chunks
        assert local.post("/v2/models/p/infer", content=content).status_code == 429
    assert server.http.post("/v1/policies/p/sessions", json=BODY).status_code == 201
    assert local.post("/admin/policies/p/reload").status_code == 401
    until(lambda: any("/admin/policies/p/reload from unix: 401" in line for line in server.lines))


def test_what_is_no_request_is_refused_and_the_next_one_answered(path: Path, local: httpx.Client) -> None:
    for sent in (b"\x00" * 100 + b"\r\n\r\n", b"POST /action HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n"):
        with socket.socket(socket.AF_UNIX) as hostile:
            hostile.connect(str(path))
            hostile.sendall(sent)
            assert hostile.recv(100).startswith(b"HTTP/1.1 400")
    assert local.post("/action", json=BODY).status_code == 200


def test_the_client_takes_its_path_for_an_address(server: RunningServer, path: Path) -> None:
    with RemotePolicy(f"http+unix://{quote(str(path), safe='')}", "p") as policy, RemotePolicy(server.url) as other:
        assert policy.action([3, 0, 0, 0]).action.tolist() == other.action([3, 0, 0, 0]).action.tolist() == [3, 3]
        assert policy.describe()["name"] == "p"


@pytest.mark.anyio
async def test_so_does_the_client_for_asyncio(server: RunningServer, path: Path) -> None:
    async with policy_client.AsyncRemotePolicy(f"http+unix://{quote(str(path), safe='')}/") as policy:
        assert (await policy.action([3, 0, 0, 0])).action.tolist() == [3, 3]


@pytest.mark.parametrize("url", ["http+unix:///run/policy.sock", "http+unix://", "http+unix://policy.sock"])
def test_an_address_that_is_none_is_refused_by_the_client(url: str) -> None:
    with pytest.raises(ValueError, match=r"percent-encoded: http\+unix://%2Frun%2Fpolicy\.sock"):
        RemotePolicy(url)


def test_a_path_that_cannot_be_listened_on_is_one_line(server: RunningServer, folder: Path, path: Path) -> None:
    (folder / "file").write_text("no socket")
    cases = {
        ("--uds", str(path)): "another server does",
        ("--uds", str(folder / "file")): "a file that is no socket is there",
        ("--uds", str(folder / ("x" * 120))): "too long",
        ("--uds", str(folder / "none" / "x")): "No such file",
        ("--uds", str(folder / "x"), "--uds-mode", "rw"): "expected three octal digits",
        ("--uds", str(folder / "x"), "--uds-owner", "nobody-of-this-name"): "nobody-of-this-name",
    }
    for options, reason in cases.items():
        arguments = command(f"p={folder / 'p'}", "--port", "0", *options)
        ended = subprocess.run(arguments, env=environment(), capture_output=True, text=True, timeout=600)
        assert ended.returncode == 2, ended.stderr
        assert reason in ended.stderr
        assert len(ended.stderr.splitlines()) == 1
    assert (folder / "file").read_text() == "no socket"
    assert not (folder / "x").exists()


def test_the_socket_of_a_program_that_is_busy_stays(folder: Path) -> None:
    path = folder / "busy"
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as waiting:
        other.bind(str(path))
        other.listen(0)
        waiting.connect(str(path))
        arguments = command(f"p={folder / 'p'}", "--port", "0", "--uds", str(path))
        ended = subprocess.run(arguments, env=environment(), capture_output=True, text=True, timeout=600)
    assert (ended.returncode, "another program does" in ended.stderr) == (2, True), ended.stderr
    assert path.exists()


def test_a_stop_answers_what_was_sent_on_it_and_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    """Keep this last: another server, of two workers."""
    path, answered, lost, stops = tmp_path / "s", [], [], threading.Event()

    def ask(number: int) -> None:
        connection = http.client.HTTPConnection("unix")
        while True:
            connection.sock = socket.socket(socket.AF_UNIX)
            try:
                connection.sock.connect(str(path))
                connection.request("POST", "/action", json.dumps({"observation": [number, 0, 0, 0]}))
                sent_before_the_stop = not stops.is_set()
            except OSError:  # a connection on which nothing was sent is closed
                connection.close()
                return
            try:
                answered.append(json.loads(connection.getresponse().read())["action"] == [number, number])
            except (OSError, http.client.HTTPException) as error:
                if sent_before_the_stop:
                    lost.append(repr(error))
            finally:
                connection.close()

    with serving({"p": folder / "p"}, "--uds", str(path), "--workers", "2", prepared=True) as server:
        clients = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for client in clients:
            client.start()
        until(lambda: len(answered) > 200)
        stops.set()
        assert server.stop(signal.SIGTERM) == 0
        for client in clients:
            client.join()
    assert all(answered)
    assert lost == []
    assert [left.name for left in tmp_path.iterdir()] == ["s.lock"]
