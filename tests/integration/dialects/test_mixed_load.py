"""Clients of all protocols at once, some of whose requests are wrong, while weights are swapped."""

import itertools
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc
import httpx
import msgspec
import numpy as np
import pytest
from websockets.sync.client import connect

from app.dialects.open_inference_messages import INFERENCE, Messages
from app.memory import resident_bytes
from tests.integration.dialects.conftest import grpc_port
from tests.support.policies import NumberTrainer
from tests.support.ports import port_below_outgoing
from tests.support.server import RunningServer, serving
from tests.support.steady import until

SWAP_EVERY_S = 2.0
CLIENTS = 3  # of each protocol
WRONG = 0.05
MESSAGES = Messages()
Rows = list[list[float]]
# The actions of the rows, and the train step of the weights that gave them.
Answer = tuple[list[list[int]], int]


class Unexpected(Exception):
    """An answer that should be none, or the other way round."""


class Client(Protocol):
    """A client of one protocol, with a connection of its own."""

    def act(self, rows: Rows) -> Answer:
        """Raises Unexpected where it is refused."""

    def ask_wrongly(self, draw: random.Random) -> None:
        """Raises Unexpected where that is not refused as it should be."""


@dataclass(frozen=True)
class Dialect:
    """A protocol over HTTP. `body`: rows → a request. `answer`: a response → its answer. `wrong`: refused bodies."""

    path: str
    body: Callable[[Rows], tuple[bytes, dict[str, str]]]
    answer: Callable[[httpx.Response], Answer]
    wrong: tuple[bytes, ...]


class HttpClient:
    def __init__(self, dialect: Dialect, server: RunningServer, stack: ExitStack) -> None:
        self.dialect = dialect
        self.http = stack.enter_context(httpx.Client(base_url=server.url, timeout=60, trust_env=False))

    def act(self, rows: Rows) -> Answer:
        body, headers = self.dialect.body(rows)
        response = self.http.post(self.dialect.path, content=body, headers=headers)
        if response.status_code != 200:
            raise Unexpected(f"{response.status_code} {response.text[:200]}")
        return self.dialect.answer(response)

    def ask_wrongly(self, draw: random.Random) -> None:
        response = self.http.post(self.dialect.path, content=draw.choice(self.dialect.wrong))
        if response.status_code not in (400, 422):
            raise Unexpected(f"{response.status_code} {response.text[:200]}")


class GrpcClient:
    def __init__(self, server: RunningServer, stack: ExitStack) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]  # a connection of its own
        channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{grpc_port(server)}", options))
        self.call = channel.unary_unary(
            f"/{INFERENCE}/ModelInfer",
            request_serializer=lambda message: message if isinstance(message, bytes) else message.SerializeToString(),
            response_deserializer=MESSAGES.named("ModelInferResponse").FromString,
        )

    def act(self, rows: Rows) -> Answer:
        try:
            response = self.call(infer_request(rows), timeout=60)
        except grpc.RpcError as error:
            raise Unexpected(f"{error.code()} {error.details()}") from None
        actions = np.frombuffer(response.raw_output_contents[0], np.int64).reshape(response.outputs[0].shape)
        return actions.tolist(), response.parameters["train_step"].int64_param

    def ask_wrongly(self, draw: random.Random) -> None:
        rows = [[1.0, 0.0, 0.0, 0.0]]
        none, short, other = infer_request(rows), infer_request(rows), infer_request(rows)
        none.inputs[0].name = "x"
        short.raw_input_contents[0] = b"abc"
        other.model_name = "other"
        expected = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
        try:
            self.call(draw.choice([none, short, other]), timeout=60)
        except grpc.RpcError as error:
            if error.code() not in expected:
                raise Unexpected(f"{error.code()} {error.details()}") from None
        else:
            raise Unexpected("an answer to what is wrong")


def infer_request(rows: Rows) -> Any:
    request = MESSAGES.named("ModelInferRequest")(model_name="number")
    request.inputs.add(name="0/observation", datatype="FP32", shape=[len(rows), 4])
    request.raw_input_contents.append(np.array(rows, np.float32).tobytes())
    return request


class OpenPiClient:
    def __init__(self, server: RunningServer, stack: ExitStack) -> None:
        url = f"ws{server.url.removeprefix('http')}/v1/policies/number/openpi"
        self.socket = stack.enter_context(connect(url, compression=None, proxy=None))
        self.socket.recv(60)

    def act(self, rows: Rows) -> Answer:
        message = {"observation": numpy_map(np.array(rows, np.float32))}
        answer = self._asked(msgspec.msgpack.encode(message))
        if isinstance(answer, str):
            raise Unexpected(answer)
        found = msgspec.msgpack.decode(answer)
        parts = found["actions"]
        return np.frombuffer(parts[b"data"], parts[b"dtype"]).reshape(parts[b"shape"]).tolist(), found["train_step"]

    def ask_wrongly(self, draw: random.Random) -> None:
        short = {"observation": numpy_map(np.ones(3, np.float32))}
        unknown = {"observation": numpy_map(np.ones(4, np.float32)), "wrist": 1}
        answer = self._asked(
            draw.choice([b"\xc1", msgspec.msgpack.encode(short), msgspec.msgpack.encode(unknown), "x"])
        )
        if not isinstance(answer, str):
            raise Unexpected("an answer to what is wrong")

    def _asked(self, message: bytes | str) -> bytes | str:
        self.socket.send(message)
        return self.socket.recv(60)


def numpy_map(array: np.ndarray) -> dict[bytes, Any]:
    return {b"__ndarray__": True, b"data": array.tobytes(), b"dtype": array.dtype.str, b"shape": array.shape}


def _json(structure: Any) -> tuple[bytes, dict[str, str]]:
    return json.dumps(structure).encode(), {}


def _tensor(rows: Rows) -> tuple[bytes, dict[str, str]]:
    flat = list(itertools.chain.from_iterable(rows))
    return _json({"inputs": [{"name": "0/observation", "shape": [len(rows), 4], "datatype": "FP32", "data": flat}]})


def _binary_tensor(rows: Rows) -> tuple[bytes, dict[str, str]]:
    blob = np.array(rows, np.float32).tobytes()
    tensor = {"name": "0/observation", "shape": [len(rows), 4], "datatype": "FP32"}
    tensor["parameters"] = {"binary_data_size": len(blob)}
    text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return text + blob, {"Inference-Header-Content-Length": str(len(text))}


def _pairs(response: httpx.Response) -> Answer:
    answer = response.json()
    data = answer["outputs"][0]["data"]
    pairs = data if isinstance(data[0], list) else [data[i : i + 2] for i in range(0, len(data), 2)]
    return pairs, answer["parameters"]["train_step"]


def _binary_pairs(response: httpx.Response) -> Answer:
    length = int(response.headers["inference-header-content-length"])
    answer = json.loads(response.content[:length])
    actions = np.frombuffer(response.content[length:], np.int64).reshape(answer["outputs"][0]["shape"])
    return actions.tolist(), answer["parameters"]["train_step"]


DIALECTS = {
    "own": Dialect(
        "/v1/policies/number/action",
        lambda rows: _json({"observation": rows}),
        lambda response: (response.json()["action"], response.json()["train_step"]),
        (b"{", b'{"observation":[1]}', b'{"x":1}', b'{"observation":[["a",1,2,3]]}'),
    ),
    "rows of TensorFlow Serving": Dialect(
        "/v1/models/number:predict",
        lambda rows: _json({"instances": rows}),
        lambda response: (response.json()["predictions"], int(response.headers["policy-train-step"])),
        (b"[", b'{"instances":[[1]]}', b'{"instances":[],"inputs":[]}', b'{"signature_name":"x","instances":[]}'),
    ),
    "columns of TensorFlow Serving": Dialect(
        "/v1/models/number:predict",
        lambda rows: _json(
            {"signature_name": "action", "inputs": {"0/observation": rows, "0/reward": [0.0] * len(rows)}}
        ),
        lambda response: (response.json()["outputs"], int(response.headers["policy-train-step"])),
        (b"", b'{"inputs":{"0/observation":[[1,2,3,4]],"0/reward":[1,2]}}', b'{"inputs":{"y":[1]}}'),
    ),
    "Open Inference Protocol": Dialect(
        "/v2/models/number/infer",
        _tensor,
        _pairs,
        (b"{", b'{"inputs":[]}', b'{"inputs":[{"name":"0/observation","shape":[1,4],"datatype":"FP32","data":[1]}]}'),
    ),
    "Open Inference Protocol, raw tensors": Dialect(
        "/v2/models/number/infer",
        _binary_tensor,
        _binary_pairs,
        (b"", b'{"inputs":[{"name":"0/observation","shape":[1,4],"datatype":"FP32"}]}', b"\x00" * 16),
    ),
}
PROTOCOLS = (*DIALECTS, "Open Inference Protocol, gRPC", "OpenPI")


def client_of(name: str, server: RunningServer, stack: ExitStack) -> Client:
    if name in DIALECTS:
        return HttpClient(DIALECTS[name], server, stack)
    return OpenPiClient(server, stack) if name == "OpenPI" else GrpcClient(server, stack)


@dataclass
class Seen:
    """What the clients of a load have seen."""

    answers: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PROTOCOLS, 0))
    refused: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PROTOCOLS, 0))
    steps: set[int] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> NumberTrainer:
    return NumberTrainer(tmp_path_factory.mktemp("mixed") / "number")


@pytest.fixture(scope="module")
def server(trainer: NumberTrainer) -> Iterator[RunningServer]:
    with serving(
        {"number": trainer.folder}, "--no-watch", "--grpc-port", str(port_below_outgoing()), prepared=True
    ) as running:
        yield running


def one_client(server: RunningServer, name: str, number: int, ends: threading.Event, seen: Seen) -> None:
    draw = random.Random(f"{name} {number}")
    with ExitStack() as stack:
        client = client_of(name, server, stack)
        while not ends.is_set():
            rows = [[float(draw.randint(0, 99)), 0.0, 0.0, 0.0] for _ in range(draw.choice([1, 1, 1, 2, 8]))]
            try:
                if draw.random() < WRONG:
                    client.ask_wrongly(draw)
                    seen.refused[name] += 1
                    continue
                actions, step = client.act(rows)
            except Unexpected as error:
                seen.failures.append(f"{name}: {error}")
                continue
            seen.steps.add(step)
            seen.answers[name] += 1
            wanted = [[1000 * step + int(row[0])] * 2 for row in rows]
            if actions != wanted:
                seen.failures.append(f"{name}: {actions} is torn, or another's: expected {wanted}")


def memory_of(server: RunningServer) -> dict[int, int]:
    """Of each process of the server: the control process, its worker, and what builds."""
    pids = [server.process.pid, *server.processes()]
    return {pid: resident_bytes(pid) for pid in pids}


def test_clients_of_all_protocols_are_answered_while_weights_are_swapped(
    server: RunningServer, trainer: NumberTrainer, full: bool
) -> None:
    seen, ends, resident = Seen(), threading.Event(), []
    before, began_s = batches(server), time.monotonic()
    with ThreadPoolExecutor(CLIENTS * len(PROTOCOLS)) as pool:
        running = [
            pool.submit(one_client, server, name, number, ends, seen) for name in PROTOCOLS for number in range(CLIENTS)
        ]
        try:
            began, swaps = time.monotonic(), 300 if full else 3
            for number in range(1, swaps + 1):
                time.sleep(max(0.0, began + number * SWAP_EVERY_S - time.monotonic()))
                server.reload("number", checkpoint=trainer.publish(number)).raise_for_status()
                until(lambda number=number: number in seen.steps or seen.failures, "an answer after the swap")
                resident.append(memory_of(server))
        finally:
            ends.set()
    for client in running:
        client.result()
    after = batches(server)
    took = time.monotonic() - began_s
    print(f"{took:.0f} s, {len(seen.steps)} train steps, {after[0] - before[0]:.0f} batches of", end=" ")
    print(f"{after[1] - before[1]:.0f} rows; answers {seen.answers}, refused {seen.refused}")
    print(f"resident MB at the start and the end: {_megabytes(resident[0])}, {_megabytes(resident[-1])}")
    assert seen.failures == []
    assert min(seen.answers.values()) > 0
    assert seen.steps >= set(range(1, swaps + 1))
    assert sum(seen.refused.values()) > 0
    if full:
        assert min(seen.refused.values()) > 0
        assert resident[-1].keys() == resident[30].keys()
        for pid in resident[-1]:
            early, late = ([each[pid] for each in part] for part in (resident[30:60], resident[-30:]))
            assert max(late) < 1.1 * max(early), _megabytes(resident[-1])
    assert not [line for line in server.lines if "ended in a bug" in line]


def _megabytes(resident: dict[int, int]) -> list[int]:
    return [size >> 20 for size in resident.values()]


def batches(server: RunningServer) -> tuple[float, float]:
    """How many batches there were, and their rows together."""
    lines = server.http.get("/metrics").text.splitlines()
    values = {line.split("{")[0]: float(line.split()[-1]) for line in lines if 'policy="number"' in line}
    return values["policy_server_batch_rows_count"], values["policy_server_batch_rows_sum"]


def together(server: RunningServer, clients: list[Client]) -> float:
    """Asks in all protocols while the policy is paused, and checks the answers; returns how many batches they took."""
    server.admin.post("/admin/policies/number/pause", json={"mode": "wait"}).raise_for_status()
    before = batches(server)
    rows = [[float(row), 0.0, 0.0, 0.0] for row in range(2)]
    with ThreadPoolExecutor(len(clients)) as pool:
        asked = [pool.submit(client.act, rows) for client in clients]
        time.sleep(0.2)  # one that comes later has a batch of its own
        server.admin.post("/admin/policies/number/resume").raise_for_status()
        answers = [future.result() for future in asked]
    for actions, step in answers:
        assert actions == [[1000 * step + row] * 2 for row in range(2)]
    after = batches(server)
    assert after[1] - before[1] == 2 * len(clients)
    return after[0] - before[0]


def test_requests_of_different_protocols_share_a_batch(server: RunningServer) -> None:
    """All of them one, on a machine that is not too busy to receive them in time."""
    with ExitStack() as stack:
        clients = [client_of(name, server, stack) for name in PROTOCOLS]
        assert any(together(server, clients) == 1 for _ in range(50))
