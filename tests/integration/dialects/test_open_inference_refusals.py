"""The Open Inference Protocol refuses what our own route refuses, over HTTP and gRPC; and survives whatever comes."""

import asyncio
import json
import random
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from app.api.grpc_calls import CODES
from app.dialects.open_inference_messages import INFERENCE, Messages
from tests.integration.dialects.conftest import TOKEN, grpc_port
from tests.support.policies import CountingPolicy, NumberTrainer
from tests.support.ports import port_below_outgoing
from tests.support.server import RunningServer, serving

MESSAGES = Messages()
ROW = np.array([[7.0, 0.0, 0.0, 0.0]], np.float32)
CODE = grpc.StatusCode
INFER = "/v2/models/policy/infer"
Answer = tuple[int | grpc.StatusCode, str]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """With little room, and a token for data."""
    trainer = NumberTrainer(tmp_path_factory.mktemp("refusals") / "policy", kind_of_policy=CountingPolicy)
    options = ("--queue-limit-requests", "1", "--body-limit-bytes", "70000", "--client-timeout-s", "1", "--no-watch")
    more = ("--grpc-port", str(port_below_outgoing()), "--sessions-limit", "1")
    with serving({"policy": trainer.folder}, *options, *more, prepared=True, POLICY_SERVER_DATA_TOKEN=TOKEN) as running:
        yield running


@pytest.fixture(scope="module")
def channel(server: RunningServer) -> Iterator[Any]:
    with grpc.insecure_channel(f"127.0.0.1:{grpc_port(server)}") as channel:
        yield channel


def by_http(
    client: httpx.Client, row: np.ndarray = ROW, model: str = "policy", token: str = "", **parameters: Any
) -> Answer:
    tensor = {"name": "0/observation", "shape": list(row.shape), "datatype": "FP32", "data": row.tolist()}
    headers = {"Authorization": token} if token else {}
    version, outputs = parameters.pop("version", ""), [{"name": name} for name in parameters.pop("outputs", ())]
    path = f"/v2/models/{model}{f'/versions/{version}' if version else ''}/infer"
    body = json.dumps({"inputs": [tensor], "outputs": outputs, "parameters": parameters})  # with Python's NaN
    response = client.post(path, content=body, headers=headers)
    return response.status_code, response.json().get("error", "")


def by_grpc(channel: Any, row: np.ndarray = ROW, model: str = "policy", token: str = "", **parameters: Any) -> Answer:
    version = parameters.pop("version", "")
    request = MESSAGES.named("ModelInferRequest")(model_name=model, model_version=version)
    request.inputs.add(name="0/observation", datatype="FP32", shape=row.shape)
    request.raw_input_contents.append(row.tobytes())
    for output in parameters.pop("outputs", ()):
        request.outputs.add(name=output)
    kinds = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    for name, value in parameters.items():
        setattr(request.parameters[name], kinds[type(value)], value)
    return called(channel, "ModelInfer", request, token)[:2]


def called(channel: Any, name: str, request: Any, token: str = "", timeout: float | None = 60) -> tuple[Any, str, Any]:
    """The status, the text of an error, and the response."""
    call = channel.unary_unary(
        f"/{INFERENCE}/{name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=MESSAGES.named(f"{name}Response").FromString,
    )
    try:
        metadata = (("authorization", token or f"Bearer {TOKEN}"),)
        return CODE.OK, "", call(request, metadata=metadata, timeout=timeout)
    except grpc.RpcError as error:
        return error.code(), error.details(), None


Case = tuple[dict[str, Any], int, str]
CASES: dict[str, Case] = {
    "a wrong token": ({"token": "Bearer wrong"}, 401, "the token is wrong"),
    "an unknown model": ({"model": "none"}, 404, "no policy 'none'"),
    "an unknown function": ({"model": "policy:act"}, 404, "no model 'policy:act'"),
    "another version": ({"version": "7"}, 404, "not '7'"),
    "too few numbers": ({"row": ROW[:, :3].copy()}, 422, "shape [1, 3]; expected shape [n, 4]"),
    "no batch": ({"row": ROW[0]}, 422, "shape [4]; expected shape [n, 4]"),
    "no rows": ({"row": ROW[:0]}, 422, "a batch of zero rows"),
    "not finite": ({"row": ROW * np.float32("nan")}, 422, "a finite number that fits float32"),
    "too large": ({"row": np.zeros((9000, 4), np.float32)}, 413, "are read"),
    "an unknown parameter": ({"sed": 1}, 422, "parameters.sed: is no parameter"),
    "a parameter of another kind": ({"seed": "one"}, 422, "options.seed: the string 'one'"),
    "an option that it cannot honour": ({"log_prob": True}, 501, "log_prob"),
    "too old": ({"min_train_step": 10**6, "timeout": 1000}, 409, "min_train_step is 1000000"),
    "a timeout that is none": ({"timeout": -1}, 422, "microseconds"),
    "a sequence that was not started": ({"sequence_id": 5}, 400, "has to be started"),
    "a sequence of no name": ({"sequence_start": True}, 422, "parameters.sequence_id"),
    "a sequence of distributions": (
        {"model": "policy:distribution", "sequence_id": 5, "sequence_start": True},
        422,
        "",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_refused_over_http_and_grpc(case: str, client: httpx.Client, channel: Any) -> None:
    asked, status, text = CASES[case]
    for got, expected in ((by_http(client, **asked), status), (by_grpc(channel, **asked), CODES[status])):
        assert got[0] == expected, got
        assert text in got[1]


def test_a_refused_step_of_a_sequence_has_not_been_taken(client: httpx.Client, channel: Any) -> None:
    """The metadata list the state among the outputs: a sequence keeps it on the server."""
    for ask, refused in ((partial(by_http, client), 422), (partial(by_grpc, channel), CODE.INVALID_ARGUMENT)):
        assert ask(sequence_id=6, sequence_start=True)[1] == ""
        began = client.get("/v1/policies/policy/sessions/6").raise_for_status().json()
        for more in ({}, {"sequence_end": True}, {"sequence_start": True}):
            status, error = ask(sequence_id=6, outputs=("action", "state/steps"), **more)
            assert status == refused
            assert "outputs.state/steps: is no output of this request; expected one of action" in error
            assert client.get("/v1/policies/policy/sessions/6").json() == began
        assert ask(sequence_id=6, sequence_end=True, outputs=("action",))[1] == ""


@contextmanager
def paused(server: RunningServer, mode: str) -> Iterator[None]:
    server.admin.post("/admin/policies/policy/pause", json={"mode": mode}).raise_for_status()
    try:
        yield
    finally:
        server.admin.post("/admin/policies/policy/resume").raise_for_status()


def test_a_paused_policy_is_unavailable_or_late(server: RunningServer, client: httpx.Client, channel: Any) -> None:
    with paused(server, "reject"):
        assert by_http(client)[0] == 503
        assert by_grpc(channel)[0] is CODE.UNAVAILABLE
    with paused(server, "wait"):
        assert by_http(client, timeout=1000) == (504, by_http(client, timeout=1000)[1])
        assert by_grpc(channel, timeout=1000)[0] is CODE.DEADLINE_EXCEEDED
        request = MESSAGES.named("ModelInferRequest")(model_name="policy")
        request.inputs.add(name="0/observation", datatype="FP32", shape=ROW.shape)
        request.raw_input_contents.append(ROW.tobytes())
        assert called(channel, "ModelInfer", request, timeout=0.05)[0] is CODE.DEADLINE_EXCEEDED
    assert by_http(client) == (200, "")
    assert by_grpc(channel) == (CODE.OK, "")


def test_a_full_queue_is_429(server: RunningServer, client: httpx.Client, channel: Any) -> None:
    async def ask() -> list[int]:
        tensor = {"name": "0/observation", "shape": [1, 4], "datatype": "FP32", "data": ROW.tolist()}
        async with httpx.AsyncClient(base_url=server.url, headers=client.headers, timeout=60) as many:
            posts = [
                many.post(INFER, json={"inputs": [tensor], "parameters": {"timeout": 5_000_000}}) for _ in range(3)
            ]
            return sorted(response.status_code for response in await asyncio.gather(*posts))

    with paused(server, "wait"):
        assert asyncio.run(ask()) == [429, 429, 504]


def test_sessions_of_sequences_have_the_same_limit(client: httpx.Client, channel: Any) -> None:
    assert by_http(client, sequence_id=1, sequence_start=True) == (200, "")
    assert by_http(client, sequence_id=2, sequence_start=True)[0] == 429
    assert by_grpc(channel, sequence_id="three", sequence_start=True)[0] is CODE.RESOURCE_EXHAUSTED
    assert by_grpc(channel, sequence_id=1, sequence_end=True) == (CODE.OK, "")
    assert by_http(client, sequence_id=1)[0] == 400


def test_calls_that_are_not_there_are_unimplemented(channel: Any) -> None:
    call = channel.unary_unary(f"/{INFERENCE}/TraceSetting", request_serializer=bytes, response_deserializer=bytes)
    with pytest.raises(grpc.RpcError) as refused:
        call(b"", timeout=60)
    assert refused.value.code() is CODE.UNIMPLEMENTED


def test_a_stream_goes_on_after_a_refusal(channel: Any) -> None:
    def requests() -> Iterator[Any]:
        for id_, row in (("a", ROW), ("b", ROW[:, :3].copy()), ("c", ROW)):
            request = MESSAGES.named("ModelInferRequest")(model_name="policy", id=id_)
            request.inputs.add(name="0/observation", datatype="FP32", shape=row.shape)
            request.raw_input_contents.append(row.tobytes())
            yield request

    call = channel.stream_stream(
        f"/{INFERENCE}/ModelStreamInfer",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=MESSAGES.named("ModelStreamInferResponse").FromString,
    )
    answers = list(call(requests(), metadata=(("authorization", f"Bearer {TOKEN}"),), timeout=60))
    assert [answer.infer_response.id for answer in answers] == ["a", "b", "c"]
    assert [bool(answer.error_message) for answer in answers] == [False, True, False]
    assert answers[0].infer_response.raw_output_contents == answers[2].infer_response.raw_output_contents
    with pytest.raises(grpc.RpcError) as refused:
        list(call(requests(), timeout=60))
    assert refused.value.code() is CODE.UNAUTHENTICATED


def test_health_and_reflection(channel: Any) -> None:
    health = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=MESSAGES.named("grpc.health.v1.HealthCheckResponse").FromString,
    )
    request = MESSAGES.named("grpc.health.v1.HealthCheckRequest")
    assert health(request(service=INFERENCE), timeout=60).status == 1
    with pytest.raises(grpc.RpcError) as refused:
        health(request(service="none"), timeout=60)
    assert refused.value.code() is CODE.NOT_FOUND
    package = "grpc.reflection.v1alpha"
    reflect = channel.stream_stream(
        f"/{package}.ServerReflection/ServerReflectionInfo",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=MESSAGES.named(f"{package}.ServerReflectionResponse").FromString,
    )
    asks = MESSAGES.named(f"{package}.ServerReflectionRequest")
    listed, file, none = reflect(
        iter([asks(list_services="*"), asks(file_containing_symbol=INFERENCE), asks(file_by_filename="none")]),
        timeout=60,
    )
    assert INFERENCE in [each.name for each in listed.list_services_response.service]
    assert b"ModelInferRequest" in file.file_descriptor_response.file_descriptor_proto[0]
    assert none.error_response.error_code == 5


WORDS: list[Any] = [
    None, True, -1, 0, 1, 2**40, 2**70, 1.5, "", "0/observation", "FP32", "BYTES", "FP64", [], [4], [1, 4], [-1, 4],
    [2**62, 4],
    {}, {"binary_data_size": 16}, {"binary_data_size": -1}, {"binary_data_size": 2**50}, [[1, 2, 3, 4]], [1, 2, 3, 4],
    [[1, 2], [3]], [[["x"]]], "NaN",
    {"sequence_id": {}}, {"binary_data": "yes"}, [{"name": "action"}], [None],
    {"shared_memory_region": "r"}, {"classification": 3},
]  # fmt: skip


def _mutated(value: Any, rng: random.Random) -> Any:
    """The request with some of its parts replaced by other things."""
    if rng.random() < 0.12:
        return rng.choice(WORDS)
    if isinstance(value, dict):
        found = {key: _mutated(item, rng) for key, item in value.items() if rng.random() > 0.05}
        return found | ({str(rng.choice(WORDS)): rng.choice(WORDS)} if rng.random() < 0.05 else {})
    return [_mutated(item, rng) for item in value] if isinstance(value, list) else value


def _bodies(count: int) -> Iterator[tuple[bytes, dict[str, str]]]:
    rng = random.Random(18)
    blob = ROW.tobytes()
    for _ in range(count):
        is_raw = rng.random() < 0.5
        tensor: dict[str, Any] = {"name": "0/observation", "shape": [1, 4], "datatype": "FP32"}
        tensor |= {"parameters": {"binary_data_size": 16}} if is_raw else {"data": [[1.0, 2.0, 3.0, 4.0]]}
        request = {"id": "a", "inputs": [tensor], "parameters": {"timeout": 10**8, "binary_data_output": is_raw}}
        text = json.dumps(_mutated(request, rng)).encode()
        length = rng.choice([len(text)] * 8 + [0, 1, len(text) - 1, len(text) + 1, len(text) + 16, 10**11])
        headers = {"Inference-Header-Content-Length": str(length)} if is_raw else {}
        if rng.random() < 0.03:
            headers["Inference-Header-Content-Length"] = rng.choice(["-1", "x", "1e3", "٣", "1" * 30])
        body = text + blob if is_raw else text
        if rng.random() < 0.1:
            at = rng.randrange(len(body) + 1)
            body = body[:at] + rng.randbytes(rng.randrange(4)) + body[at + rng.randrange(3) :]
        if rng.random() < 0.03:
            headers["Content-Encoding"] = rng.choice(["gzip", "deflate", "br"])
        yield body, headers


def _asks_for_little_time(body: bytes) -> bool:
    """Whether the request itself sets a deadline of less than 100 s; it is in microseconds."""
    found = re.search(rb'"timeout": (\d+)', body)
    return found is not None and int(found[1]) < 10**8


def test_whatever_comes_is_answered_or_refused(client: httpx.Client, full: bool) -> None:
    statuses = set()
    for body, headers in _bodies(20_000 if full else 700):
        fields = {name: value.encode() for name, value in headers.items()}
        response = client.post(INFER, content=body, headers=fields)
        allowed = {501, 504} if _asks_for_little_time(body) else {501}
        assert response.status_code < 500 or response.status_code in allowed, (body, headers, response.text)
        assert response.status_code == 200 or response.json().keys() == {"error"}, response.text
        statuses.add(response.status_code)
    assert {200, 400, 422} <= statuses
    assert by_http(client) == (200, "")


def test_whatever_comes_over_grpc_is_answered_or_refused(channel: Any, full: bool) -> None:
    rng = random.Random(19)
    codes = set()
    for _ in range(5000 if full else 300):
        request = MESSAGES.named("ModelInferRequest")(model_name=rng.choice(["policy"] * 9 + ["", "x"]))
        for _ in range(rng.choice([1, 1, 1, 0, 2])):
            tensor = request.inputs.add(name=rng.choice(["0/observation"] * 5 + ["", "0/reward"]))
            tensor.datatype = rng.choice(["FP32"] * 6 + ["", "BYTES", "FP16"])
            tensor.shape.extend(rng.choice([[1, 4]] * 6 + [[], [4], [-1, 4], [2**62, 4], [0, 4], [3, 4]]))
            if rng.random() < 0.5:
                tensor.contents.fp32_contents.extend([1.0] * rng.choice([4, 4, 4, 0, 5]))
            elif rng.random() < 0.9:
                request.raw_input_contents.append(rng.choice([ROW.tobytes()] * 4 + [b"", b"x", bytes(48)]))
        if rng.random() < 0.2:
            request.parameters[rng.choice(["seed", "mode", "sequence_id", "x", "timeout"])].string_param = "y"
        codes.add(called(channel, "ModelInfer", request)[0])
    assert codes <= {CODE.OK, CODE.INVALID_ARGUMENT, CODE.NOT_FOUND, CODE.UNIMPLEMENTED}, codes
    assert CODE.OK in codes
    call = channel.unary_unary(f"/{INFERENCE}/ModelInfer", request_serializer=bytes, response_deserializer=bytes)
    for garbage in (b"\xff" * 9, struct.pack("<Q", 2**63), b"\x0a\xff\xff\xff\xff\x0f"):
        with pytest.raises(grpc.RpcError) as refused:
            call(garbage, metadata=(("authorization", f"Bearer {TOKEN}"),), timeout=60)
        assert refused.value.code() is CODE.INVALID_ARGUMENT
        assert refused.value.details() == "this is no ModelInferRequest"
    assert by_grpc(channel) == (CODE.OK, "")
