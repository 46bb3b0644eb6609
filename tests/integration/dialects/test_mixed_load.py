"""Clients of all protocols at once, some of whose requests are wrong, while weights are swapped."""

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.policies import NumberTrainer
from tests.support.server import RunningServer, serving

SWAP_EVERY_S = 2.0
CLIENTS = 3  # of each protocol
WRONG = 0.05


@dataclass(frozen=True)
class Protocol:
    """`body`: rows → a request. `actions`: a response → the actions of its rows. `wrong`: bodies that are refused."""

    path: str
    body: Callable[[list[Any]], Any]
    actions: Callable[[Any], list[list[int]]]
    train_step: Callable[[httpx.Response], int]
    wrong: tuple[bytes, ...]


def _tensor(rows: list[Any]) -> Any:
    flat = list(itertools.chain.from_iterable(rows))
    return {"inputs": [{"name": "0/observation", "shape": [len(rows), 4], "datatype": "FP32", "data": flat}]}


def _pairs(answer: Any) -> list[list[int]]:
    (output,) = answer["outputs"]
    data = output["data"]
    return data if isinstance(data[0], list) else [data[i : i + 2] for i in range(0, len(data), 2)]


PROTOCOLS = {
    "own": Protocol(
        "/v1/policies/number/action",
        lambda rows: {"observation": rows},
        lambda answer: answer["action"],
        lambda response: response.json()["train_step"],
        (b"{", b'{"observation":[1]}', b'{"x":1}', b'{"observation":[["a",1,2,3]]}'),
    ),
    "rows of TensorFlow Serving": Protocol(
        "/v1/models/number:predict",
        lambda rows: {"instances": rows},
        lambda answer: answer["predictions"],
        lambda response: int(response.headers["policy-train-step"]),
        (b"[", b'{"instances":[[1]]}', b'{"instances":[],"inputs":[]}', b'{"signature_name":"x","instances":[]}'),
    ),
    "columns of TensorFlow Serving": Protocol(
        "/v1/models/number:predict",
        lambda rows: {"signature_name": "action", "inputs": {"0/observation": rows, "0/reward": [0.0] * len(rows)}},
        lambda answer: answer["outputs"],
        lambda response: int(response.headers["policy-train-step"]),
        (b"", b'{"inputs":{"0/observation":[[1,2,3,4]],"0/reward":[1,2]}}', b'{"inputs":{"y":[1]}}'),
    ),
    "Open Inference Protocol": Protocol(
        "/v2/models/number/infer",
        _tensor,
        _pairs,
        lambda response: response.json()["parameters"]["train_step"],
        (b"{", b'{"inputs":[]}', b'{"inputs":[{"name":"0/observation","shape":[1,4],"datatype":"FP32","data":[1]}]}'),
    ),
}


@dataclass
class Seen:
    """What the clients of a load have seen."""

    answers: dict[str, int] = field(default_factory=dict)
    refused: int = 0
    steps: set[int] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> NumberTrainer:
    return NumberTrainer(tmp_path_factory.mktemp("mixed") / "number")


@pytest.fixture(scope="module")
def server(trainer: NumberTrainer) -> Iterator[RunningServer]:
    with serving({"number": trainer.folder}, "--no-watch", prepared=True) as running:
        yield running


def one_client(server: RunningServer, name: str, number: int, ends: threading.Event, seen: Seen) -> None:
    protocol, draw = PROTOCOLS[name], random.Random(f"{name} {number}")
    with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client:
        while not ends.is_set():
            if draw.random() < WRONG:
                response = client.post(protocol.path, content=draw.choice(protocol.wrong))
                seen.refused += 1
                if response.status_code not in (400, 422):
                    seen.failures.append(f"{name}: {response.status_code} {response.text[:200]}")
                continue
            rows = [[float(draw.randint(0, 99)), 0.0, 0.0, 0.0] for _ in range(draw.choice([1, 1, 1, 2, 8]))]
            response = client.post(protocol.path, json=protocol.body(rows))
            if response.status_code != 200:
                seen.failures.append(f"{name}: {response.status_code} {response.text[:200]}")
                continue
            step = protocol.train_step(response)
            seen.steps.add(step)
            seen.answers[name] = seen.answers.get(name, 0) + 1
            wanted = [[1000 * step + int(row[0])] * 2 for row in rows]
            if protocol.actions(response.json()) != wanted:
                seen.failures.append(f"{name}: {response.text[:200]} is torn, or another's: expected {wanted}")


def resident_bytes(server: RunningServer) -> int:
    """Of the worker."""
    (worker,) = server.processes("app.worker")
    return int(Path(f"/proc/{worker}/statm").read_text().split()[1]) * 4096


def test_clients_of_all_protocols_are_answered_while_weights_are_swapped(
    server: RunningServer, trainer: NumberTrainer, full: bool
) -> None:
    seen, ends, resident = Seen(), threading.Event(), []
    with ThreadPoolExecutor(CLIENTS * len(PROTOCOLS)) as pool:
        running = [
            pool.submit(one_client, server, name, number, ends, seen) for name in PROTOCOLS for number in range(CLIENTS)
        ]
        try:
            began, swaps = time.monotonic(), 300 if full else 3
            for number in range(1, swaps + 1):
                time.sleep(max(0.0, began + number * SWAP_EVERY_S - time.monotonic()))
                server.reload("number", checkpoint=trainer.publish(number)).raise_for_status()
                resident.append(resident_bytes(server))
        finally:
            ends.set()
    for client in running:
        client.result()
    assert seen.failures == []
    assert seen.answers.keys() == PROTOCOLS.keys()
    assert len(seen.steps) >= min(swaps, 3)
    assert seen.refused > 0
    if full:
        assert max(resident[-30:]) < 1.1 * max(resident[30:60])
    assert not [line for line in server.lines if "ended in a bug" in line]


def batches(server: RunningServer) -> tuple[float, float]:
    """How many batches there were, and their rows together."""
    lines = server.http.get("/metrics").text.splitlines()
    values = {line.split("{")[0]: float(line.split()[-1]) for line in lines if 'policy="number"' in line}
    return values["policy_server_batch_rows_count"], values["policy_server_batch_rows_sum"]


def together(server: RunningServer) -> float:
    """Asks in all protocols while the policy is paused, and checks the answers; returns how many batches they took."""
    server.admin.post("/admin/policies/number/pause", json={"mode": "wait"}).raise_for_status()
    before = batches(server)
    rows = [[float(row), 0.0, 0.0, 0.0] for row in range(2)]
    with ThreadPoolExecutor(len(PROTOCOLS)) as pool:
        asked = [
            pool.submit(server.http.post, protocol.path, json=protocol.body(rows)) for protocol in PROTOCOLS.values()
        ]
        time.sleep(0.2)  # one that comes later has a batch of its own
        server.admin.post("/admin/policies/number/resume").raise_for_status()
        answers = [future.result() for future in asked]
    for protocol, response in zip(PROTOCOLS.values(), answers, strict=True):
        step = protocol.train_step(response.raise_for_status())
        assert protocol.actions(response.json()) == [[1000 * step + row] * 2 for row in range(2)]
    after = batches(server)
    assert after[1] - before[1] == 2 * len(PROTOCOLS)
    return after[0] - before[0]


def test_requests_of_different_protocols_share_a_batch(server: RunningServer) -> None:
    """All of them one, on a machine that is not too busy to receive them in time."""
    assert any(together(server) == 1 for _ in range(50))
