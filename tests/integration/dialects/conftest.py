"""A server for clients of other protocols, and the clients themselves, in their own environment."""

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.support.clients import NoClients, python_of_clients
from tests.support.ports import port_below_outgoing
from tests.support.server import RunningServer, serving

# Of servers that guard their data routes.
TOKEN = "data-token"
PROGRAM = Path(__file__).with_name("foreign_client.py")
_PATIENCE_S = 300


class Clients:
    """Foreign clients of a server, by the name of each."""

    def __init__(self, python: Path, server: RunningServer) -> None:
        self._python = python
        self._server = server

    def ask(self, client: str, calls: list[dict[str, Any]]) -> list[Any]:
        """Has a client make calls one after the other; arrays in, arrays out."""
        port = grpc_port(self._server) if client.endswith("grpc") else self._server.port
        address = f"127.0.0.1:{port}"
        words = [str(self._python), str(PROGRAM), client, address]
        done = subprocess.run(
            words, input=json.dumps(_sent(calls)), capture_output=True, text=True, timeout=_PATIENCE_S
        )
        assert done.returncode == 0, done.stderr
        return _received(json.loads(done.stdout))


def grpc_port(server: RunningServer) -> int:
    """The port of a server's `--grpc-port`."""
    words = [str(word) for word in server.process.args]  # type: ignore[union-attr]
    return int(words[words.index("--grpc-port") + 1])


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[httpx.Client]:
    """Of the module's own server, with its token."""
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=server.url, timeout=600, trust_env=False, headers=bearer) as client:
        yield client


@pytest.fixture(scope="session")
def inference_server(exports: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Serves a policy of each kind that clients of other protocols ask: stateless, recurrent, nested, images, words."""
    from saver import PolicySaver
    from tests.zoo.kinds import KINDS, make

    folder = tmp_path_factory.mktemp("images")
    policies = {name: exports / name for name in ("cartpole", "recurrent", "nested", "continuous", "boltzmann")}
    for name, kind in (("image", "observation-image"), ("words", "observation-words")):
        PolicySaver(make(KINDS[kind], seed=3)).save(str(folder / name), verify=False)
        policies[name] = folder / name
    with serving(policies, "--grpc-port", str(port_below_outgoing()), "--openpi", "cartpole", prepared=True) as server:
        yield server


@pytest.fixture(scope="session")
def clients(inference_server: RunningServer) -> Clients:
    """The foreign clients of `inference_server`."""
    try:
        return Clients(python_of_clients(), inference_server)
    except NoClients as error:
        pytest.skip(f"there is no environment with the clients: {error}")


def _sent(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sent(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_sent(item) for item in value]
    if isinstance(value, np.ndarray):
        if value.dtype.kind == "O":
            return value.tolist()
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return {"dtype": value.dtype.name, "shape": list(value.shape), "data": data}
    return value


def _received(value: Any) -> Any:
    if isinstance(value, dict) and value.keys() == {"dtype", "shape", "data"} and isinstance(value["data"], str):
        return np.frombuffer(base64.b64decode(value["data"]), value["dtype"]).reshape(value["shape"])
    if isinstance(value, dict):
        return {key: _received(item) for key, item in value.items()}
    return [_received(item) for item in value] if isinstance(value, list) else value
