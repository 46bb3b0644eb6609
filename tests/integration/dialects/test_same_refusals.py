"""Every protocol refuses what our own routes refuse, and counts it: a table of protocols and refusals."""

import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import msgspec
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from app.api.grpc_calls import CODES
from app.dialects.open_inference_messages import INFERENCE, Messages
from tests.integration.dialects.conftest import TOKEN, grpc_port
from tests.support.policies import NumberTrainer
from tests.support.ports import port_below_outgoing
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
    options += ("--grpc-port", str(port_below_outgoing()))
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
    return counted_on(client, protocol.route, status, policy)


def counted_on(client: httpx.Client, route: str, status: int, policy: str = "policy") -> float:
    start = f'policy_server_answers_total{{policy="{policy}",route="{route}",status="{status}"}}'
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
            answer = httpx.get(server.url + path, trust_env=False, timeout=600)
            assert (answer.status_code == 401) == ("security" in operations["get"]), path


# Protocols whose messages are no JSON of ours: the same table, by what each of them has in a status's place.

MESSAGES = Messages()


@dataclass(frozen=True)
class Asked:
    """A request for an action. `raw`: other bytes in its place."""

    row: list[float] = field(default_factory=lambda: ROW)
    options: Options = field(default_factory=dict)
    policy: str = "policy"
    token: str = TOKEN
    raw: bytes = b""
    compressed: bool = False


# What a client sees: an HTTP status, a code of gRPC or of a WebSocket's close, None for a text message; and the text.
Outcome = tuple[Any, str]


def by_open_inference(server: RunningServer, asked: Asked) -> Outcome:
    options = {name: value for name, value in asked.options.items() if name != "timeout_ms"}
    if "timeout_ms" in asked.options:
        options["timeout"] = 1000 * asked.options["timeout_ms"]
    tensor = {"name": "0/observation", "shape": [1, len(asked.row)], "datatype": "FP32", "data": asked.row}
    body = asked.raw or json.dumps({"inputs": [tensor], "parameters": options}).encode()
    headers = {"Authorization": f"Bearer {asked.token}"} if asked.token else {}
    if asked.compressed:
        body, headers["Content-Encoding"] = gzip.compress(body), "gzip"
    response = server.http.post(f"/v2/models/{asked.policy}/infer", content=body, headers=headers)
    return response.status_code, response.json().get("error", "")


def grpc_request(asked: Asked) -> bytes:
    request = MESSAGES.named("ModelInferRequest")(model_name=asked.policy)
    request.inputs.add(name="0/observation", datatype="FP32", shape=[1, len(asked.row)])
    request.raw_input_contents.append(np.array(asked.row, np.float32).tobytes())
    for name, value in asked.options.items():
        if name == "timeout_ms":
            request.parameters["timeout"].int64_param = 1000 * value
        else:
            setattr(request.parameters[name], "bool_param" if value is True else "int64_param", value)
    return asked.raw or request.SerializeToString()


def by_grpc(server: RunningServer, asked: Asked) -> Outcome:
    with grpc.insecure_channel(f"127.0.0.1:{grpc_port(server)}") as channel:
        call = channel.unary_unary(f"/{INFERENCE}/ModelInfer", request_serializer=bytes, response_deserializer=bytes)
        metadata = (("authorization", f"Bearer {asked.token}"),) if asked.token else ()
        compression = grpc.Compression.Gzip if asked.compressed else None
        try:
            call(grpc_request(asked), metadata=metadata, timeout=60, compression=compression)
        except grpc.RpcError as error:
            return error.code(), error.details()
    return grpc.StatusCode.OK, ""


def by_openpi(server: RunningServer, asked: Asked) -> Outcome:
    url = f"ws{server.url.removeprefix('http')}/v1/policies/{asked.policy}/openpi"
    headers = {"Authorization": f"Api-Key {asked.token}"} if asked.token else {}
    row = np.array(asked.row, np.float32)
    array = {b"__ndarray__": True, b"data": row.tobytes(), b"dtype": "<f4", b"shape": row.shape}
    message = {"observation": array, **({"options": asked.options} if asked.options else {})}
    try:
        with connect(url, additional_headers=headers, compression=None, proxy=None) as there:
            there.recv(60)
            there.send(asked.raw or msgspec.msgpack.encode(message))
            answer = there.recv(60)
    except InvalidStatus as error:
        return error.response.status_code, json.loads(error.response.body or b"{}").get("detail", "")
    except ConnectionClosed as error:
        return (error.rcvd.code, error.rcvd.reason) if error.rcvd else (1006, "")
    return (200, "") if isinstance(answer, bytes) else (None, answer)


@dataclass(frozen=True)
class Other:
    """`sees`: a status → what the client gets in its place."""

    ask: Callable[[RunningServer, Asked], Outcome]
    route: str
    sees: Callable[[int], Any]


OTHERS = {
    "Open Inference Protocol": Other(by_open_inference, "v2/action", lambda status: status),
    "Open Inference Protocol, gRPC": Other(
        by_grpc, "grpc/action", lambda status: grpc.StatusCode.OK if status == 200 else CODES[status]
    ),
    "OpenPI": Other(by_openpi, "openpi", lambda status: 200 if status == 200 else None),
}
OIP, GRPC, OPENPI = OTHERS
REFUSED: dict[str, tuple[Asked, int, str]] = {
    "no token": (Asked(token=""), 401, "no token"),
    "a wrong token": (Asked(token="wrong"), 401, "wrong"),
    "an unknown policy": (Asked(policy="half"), 404, "half"),
    "too large": (Asked(row=[0.1] * 30_000), 413, "are read"),
    "too large when decoded": (Asked(row=[0.1] * 30_000, compressed=True), 413, ""),
    "unreadable": (Asked(raw=b"\xc1"), 400, "is no"),
    "does not fit": (Asked(row=[0.1]), 422, "expected"),
    "not finite": (Asked(row=[float("nan"), 0, 0, 0]), 422, "finite"),
    "an unknown option": (Asked(options={"sead": 1}), 422, "sead"),
    "an option that it cannot honour": (Asked(options={"log_prob": True}), 501, "log_prob"),
    "too old": (Asked(options={"min_train_step": NUMBER, "timeout_ms": 1}), 409, "min_train_step is"),
    "no answer before the deadline": (Asked(options={"timeout_ms": 1}), 504, ""),
    "paused": (Asked(), 503, "policy policy is paused"),
    "no room": (Asked(options={"timeout_ms": 5}), 429, "requests wait already"),
}
WHILE_PAUSED = {"no answer before the deadline": "wait", "paused": "reject"}
# Where a client sees something else: the status or code, and the text.
SEEN: dict[tuple[str, str], Outcome] = {
    (OIP, "unreadable"): (400, "not JSON"),
    (OPENPI, "unreadable"): (None, "not msgpack"),
    (OPENPI, "no token"): (401, "no token"),
    (OPENPI, "a wrong token"): (401, "wrong"),
    (OPENPI, "an unknown policy"): (404, "half"),
    (OPENPI, "too large"): (1009, ""),
}
# Refused before there is a request, as on our own route; in OpenPI's protocol a handshake, or a frame, is none.
UNCOUNTED = {
    *((name, refusal) for name in OTHERS for refusal in ("no token", "a wrong token")),
    (OPENPI, "an unknown policy"), (OPENPI, "too large"),
}  # fmt: skip
# What there is none of in a protocol, and why; and what is tested where a client can be that slow, or that odd.
NONE: dict[tuple[str, str], str] = {
    (OPENPI, "too large when decoded"): "no extension is agreed to, so that no message is compressed",
    (OPENPI, "an unknown coding"): "no extension is agreed to, so that no message is compressed",
    (GRPC, "an unknown coding"): "the library answers UNIMPLEMENTED itself, before anything of ours is asked",
    (GRPC, "stops coming"): "the library hands over whole messages, and waits for them as long as the connection lives",
}
ELSEWHERE: dict[tuple[str, str], tuple[str, str]] = {
    (OIP, "an unknown coding"): (__file__, "test_the_rest_is_refused_before_the_protocol_is_known"),
    (OIP, "stops coming"): (__file__, "test_the_rest_is_refused_before_the_protocol_is_known"),
    (OPENPI, "stops coming"): ("tests/app/api/test_websocket.py", "test_a_client_that_stops_in_a_message_is_closed"),
    (OIP, "goes away"): (__file__, "test_a_client_that_goes_away_is_counted_in_every_protocol"),
    (GRPC, "goes away"): (__file__, "test_a_client_that_goes_away_is_counted_in_every_protocol"),
    (OPENPI, "goes away"): ("tests/app/api/test_websocket.py", "test_a_dropped_connection_gives_up_its_message"),
}
CELLS = [(name, refusal) for name in OTHERS for refusal in REFUSED if (name, refusal) not in NONE]


def test_every_cell_of_the_table_is_tested_or_has_a_reason() -> None:
    known = {*CELLS, *NONE, *ELSEWHERE}
    assert {(name, refusal) for name in OTHERS for refusal in (*REFUSED, *MORE)} == known
    for path, name in ELSEWHERE.values():
        assert f"def {name}(" in (Path(__file__).parents[3] / path).read_text()


MORE = ("an unknown coding", "stops coming", "goes away")


@pytest.mark.parametrize("name", OTHERS)
def test_an_answer_in_other_protocols_is_counted(server: RunningServer, client: httpx.Client, name: str) -> None:
    other = OTHERS[name]
    before = counted_on(client, other.route, 200)
    assert other.ask(server, Asked()) == (other.sees(200), "")
    assert counted_on(client, other.route, 200) == before + 1


@pytest.mark.parametrize(("name", "refusal"), CELLS)
def test_other_protocols_refuse_the_same(server: RunningServer, client: httpx.Client, name: str, refusal: str) -> None:
    other, (asked, status, text) = OTHERS[name], REFUSED[refusal]
    seen, text = SEEN.get((name, refusal), (other.sees(status), text))
    policy = "" if status == 404 or (name, refusal) == (GRPC, "unreadable") else "policy"
    before = counted_on(client, other.route, status, policy)
    got = no_room(server, client, other, asked) if refusal == "no room" else refused(server, other, asked, refusal)
    assert got[0] == seen, got
    assert text in got[1]
    assert "Traceback" not in got[1]
    more = counted_on(client, other.route, status, policy) - before
    assert more == ((name, refusal) not in UNCOUNTED)


def refused(server: RunningServer, other: Other, asked: Asked, refusal: str) -> Outcome:
    if refusal not in WHILE_PAUSED:
        return other.ask(server, asked)
    with paused(server, WHILE_PAUSED[refusal]):
        return other.ask(server, asked)


def no_room(server: RunningServer, client: httpx.Client, other: Other, asked: Asked) -> Outcome:
    """As `test_where_there_is_no_room_it_is_429`: one waits, and has the only place."""
    late = other.sees(504)
    with paused(server, "wait"), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(waits_for_a_place, client)
        while (got := other.ask(server, asked))[0] == late and "wait already" not in got[1]:
            pass  # it is not there yet
        server.admin.post("/admin/policies/policy/resume").raise_for_status()
        assert waiting.result() == 200
    return got


def waits_for_a_place(client: httpx.Client) -> int:
    while (response := PROTOCOLS["own"].ask(client)).status_code == 429:  # taken by one below, as long as that waits
        pass
    return response.status_code


def test_the_rest_is_refused_before_the_protocol_is_known(server: RunningServer, client: httpx.Client) -> None:
    """What the connection refuses, whatever path is asked."""
    response = client.post("/v2/models/policy/infer", content=b"{}", headers={"content-encoding": "br"})
    assert response.status_code == 415
    url = httpx.URL(server.url)
    head = f"POST /v2/models/policy/infer HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 9"
    with socket.create_connection((url.host, url.port), timeout=60) as connection:
        connection.sendall(head.encode() + b"\r\n\r\n{")
        assert connection.recv(65536).startswith(b"HTTP/1.1 408 ")


def test_a_client_that_goes_away_is_counted_in_every_protocol(server: RunningServer, client: httpx.Client) -> None:
    before = {route: counted_on(client, route, 499) for route in ("v2/action", "grpc/action")}
    url = httpx.URL(server.url)
    tensor = {"name": "0/observation", "shape": [1, 4], "datatype": "FP32", "data": ROW}
    body = json.dumps({"inputs": [tensor]}).encode()
    head = f"POST /v2/models/policy/infer HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
    with paused(server, "wait"):
        while counted_on(client, "v2/action", 499) == before["v2/action"]:  # gone before it was read: it counts nothing
            with socket.create_connection((url.host, url.port), timeout=60) as connection:
                connection.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        with grpc.insecure_channel(f"127.0.0.1:{grpc_port(server)}") as channel:
            call = channel.unary_unary(
                f"/{INFERENCE}/ModelInfer", request_serializer=bytes, response_deserializer=bytes
            )
            while counted_on(client, "grpc/action", 499) == before["grpc/action"]:
                future = call.future(grpc_request(Asked()), metadata=(("authorization", f"Bearer {TOKEN}"),))
                time.sleep(0.02)
                future.cancel()
