"""Every protocol refuses what our own routes refuse, and counts it: a table of protocols and refusals."""

import gzip
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.integration.dialects.conftest import TOKEN
from tests.support.policies import NumberTrainer
from tests.support.server import RunningServer, serving

ROW = [7.0, 0.0, 0.0, 0.0]
Options = dict[str, Any]


@dataclass(frozen=True)
class Protocol:
    """How one asks for an action. `path` has the policy's name; `unfit`: the status where the input does not fit."""

    path: str
    body: Callable[[list[float], Options], Any]
    route: str
    unfit: int = 422
    error: str = "error"
    unknown: str = ""

    def ask(self, client: httpx.Client, row: Any = ROW, policy: str = "policy", **options: Any) -> httpx.Response:
        return client.post(self.path.format(policy), json=self.body(row, options))


def _own(row: list[float], options: Options) -> Any:
    return {"observation": row, **({"options": options} if options else {})}


def _predict(row: list[float], options: Options) -> Any:
    return {"instances": [row], **({"options": options} if options else {})}


def _predict_columns(row: list[float], options: Options) -> Any:
    columns = {"0/observation": [row], "0/reward": [0.0]}
    return {"signature_name": "action", "inputs": columns, **({"options": options} if options else {})}


PROTOCOLS = {
    "own": Protocol("/v1/policies/{}/action", _own, "action", error="detail"),
    "rows of TensorFlow Serving": Protocol("/v1/models/{}:predict", _predict, "tensorflow_serving", 400),
    "columns of TensorFlow Serving": Protocol("/v1/models/{}:predict", _predict_columns, "tensorflow_serving", 400),
    "TensorFlow Serving, by the framework": Protocol("/v1/Models/{}:predict", _predict, "tensorflow_serving", 400),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """With little room, and a token for data."""
    trainer = NumberTrainer(tmp_path_factory.mktemp("refusals") / "policy")
    options = ("--queue-limit-requests", "1", "--body-limit-bytes", "4000", "--client-timeout-s", "1", "--no-watch")
    with serving({"policy": trainer.folder}, *options, prepared=True, POLICY_SERVER_DATA_TOKEN=TOKEN) as running:
        yield running


@pytest.fixture(params=PROTOCOLS)
def protocol(request: pytest.FixtureRequest) -> Protocol:
    return PROTOCOLS[request.param]


@contextmanager
def paused(server: RunningServer, mode: str) -> Iterator[None]:
    server.admin.post("/admin/policies/policy/pause", json={"mode": mode}).raise_for_status()
    try:
        yield
    finally:
        server.admin.post("/admin/policies/policy/resume").raise_for_status()


def counted(client: httpx.Client, protocol: Protocol, status: int, policy: str = "policy") -> float:
    start = f'policy_server_answers_total{{policy="{policy}",route="{protocol.route}",status="{status}"}}'
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(start))


def check(response: httpx.Response, protocol: Protocol, status: int, message: str = "") -> None:
    assert response.status_code == status, response.text
    assert message in response.json()[protocol.error]
    assert "Traceback" not in response.text


def test_an_answer_is_counted(client: httpx.Client, protocol: Protocol) -> None:
    before = counted(client, protocol, 200)
    assert protocol.ask(client).status_code == 200
    assert counted(client, protocol, 200) == before + 1


@pytest.mark.parametrize(("header", "message"), [("", "no token"), ("Bearer wrong", "the token is wrong")])
def test_without_the_token_nothing_is_answered(
    server: RunningServer, protocol: Protocol, header: str, message: str
) -> None:
    headers = {"Authorization": header} if header else {}
    response = server.http.post(protocol.path.format("policy"), json=protocol.body(ROW, {}), headers=headers)
    check(response, protocol, 401, message)
    assert response.headers["www-authenticate"] == "Bearer"


Case = tuple[Callable[[httpx.Client, Protocol], httpx.Response], int, str]
NUMBER = 10**6
CASES: dict[str, Case] = {
    "too large": (lambda client, p: p.ask(client, [0.1] * 2000), 413, "at most 4000 are read"),
    "no JSON": (lambda client, p: client.post(p.path.format("policy"), content=b"{"), 400, "not JSON"),
    "no object": (lambda client, p: client.post(p.path.format("policy"), content=b"[]"), 400, "expected an object"),
    "does not fit": (lambda client, p: p.ask(client, [0.1]), 0, "float32 of shape [4]"),
    "an unknown option": (lambda client, p: p.ask(client, sead=1), 0, "options.sead: is no option"),
    "an option that it cannot honour": (lambda client, p: p.ask(client, log_prob=True), 501, "log_prob"),
    "too old": (lambda client, p: p.ask(client, min_train_step=NUMBER, timeout_ms=1), 409, "min_train_step is"),
    "an unknown coding": (
        lambda client, p: client.post(p.path.format("policy"), content=b"{}", headers={"content-encoding": "br"}),
        415,
        "br",
    ),
    "no gzip": (
        lambda client, p: client.post(p.path.format("policy"), content=b"{}", headers={"content-encoding": "gzip"}),
        400,
        "gzip",
    ),
    "too large when decoded": (
        lambda client, p: client.post(
            p.path.format("policy"),
            content=gzip.compress(json.dumps(p.body([0.1] * 2000, {})).encode()),
            headers={"content-encoding": "gzip"},
        ),
        413,
        "decoded",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_same_is_refused_with_the_same_status_and_counted(
    client: httpx.Client, protocol: Protocol, case: str
) -> None:
    ask, status, message = CASES[case]
    status = status or protocol.unfit
    before = counted(client, protocol, status)
    check(ask(client, protocol), protocol, status, message)
    assert counted(client, protocol, status) == before + 1


def test_an_unknown_policy_is_404_and_counted_under_no_name(client: httpx.Client, protocol: Protocol) -> None:
    before = counted(client, protocol, 404, "")
    check(protocol.ask(client, policy="half"), protocol, 404, "half")
    assert counted(client, protocol, 404, "") == before + 1


def test_no_answer_before_the_deadline_is_504(server: RunningServer, client: httpx.Client, protocol: Protocol) -> None:
    before = counted(client, protocol, 504)
    with paused(server, "wait"):
        check(protocol.ask(client, timeout_ms=1), protocol, 504)
    assert counted(client, protocol, 504) == before + 1


def test_a_paused_policy_is_503(server: RunningServer, client: httpx.Client, protocol: Protocol) -> None:
    with paused(server, "reject"):
        check(protocol.ask(client), protocol, 503, "policy policy is paused")


def test_where_there_is_no_room_it_is_429(server: RunningServer, client: httpx.Client, protocol: Protocol) -> None:
    """One waits, whom the end of the pause answers; the next has no room."""
    answers: list[httpx.Response] = []

    def wait() -> None:
        while not answers or answers[-1].status_code == 429:  # the place of one below, for as long as that waits
            answers.append(PROTOCOLS["own"].ask(client))

    with paused(server, "wait"):
        waiting = threading.Thread(target=wait)
        waiting.start()
        while (response := protocol.ask(client, timeout_ms=5)).status_code == 504:
            pass  # it is not there yet
        check(response, protocol, 429)
        assert int(response.headers["retry-after"]) >= 1
    waiting.join()
    assert answers[-1].status_code == 200


def test_a_request_that_stops_coming_is_408(server: RunningServer, protocol: Protocol) -> None:
    url = httpx.URL(server.url)
    body = json.dumps(protocol.body(ROW, {})).encode()
    head = f"POST {protocol.path.format('policy')} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
    with socket.create_connection((url.host, url.port), timeout=60) as connection:
        connection.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body[:-1])
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"the body of the request has stopped coming" in answer


def test_a_client_that_goes_away_is_counted_as_gone(
    server: RunningServer, client: httpx.Client, protocol: Protocol
) -> None:
    url = httpx.URL(server.url)
    body = json.dumps(protocol.body(ROW, {})).encode()
    head = f"POST {protocol.path.format('policy')} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
    before = counted(client, protocol, 499)
    with paused(server, "wait"):
        while counted(client, protocol, 499) == before:  # one that is gone before it was read counts for nothing
            with socket.create_connection((url.host, url.port), timeout=60) as connection:
                connection.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)


def test_what_the_document_says_of_tokens_is_so(client: httpx.Client, server: RunningServer) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    for path, operations in paths.items():
        if "get" in operations and "{" not in path:
            answer = httpx.get(server.url + path, trust_env=False)
            assert (answer.status_code == 401) == ("security" in operations["get"]), path
