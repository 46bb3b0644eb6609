"""Who the peers are: what is installed, how each is started, and the bytes that it is asked with."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from bench.serving.payloads import Payload
from bench.serving.scenarios import Competitor, Kind

# What runs the policy in all of them; installed without what it asks for, of which one package is nowhere to be had.
ENGINE = "ai-edge-litert==2.3.0"
# The environment variable that names the compiled file: see policy.py.
MODEL = "BENCH_PEER_MODEL"


def _ours(observation: list[Any]) -> Any:
    return {"observation": observation}


def _wrapped(observation: list[Any]) -> Any:
    """BentoML: by the name of the parameter that is batched, whose first axis is the batch."""
    return {"observation": observation if isinstance(observation[0], list) else [observation]}


def _tensor(observation: list[Any]) -> Any:
    """The Open Inference Protocol, V2."""
    rows = observation if isinstance(observation[0], list) else [observation]
    data = [number for row in rows for number in row]
    return {"inputs": [{"name": "observation", "shape": [len(rows), len(rows[0])], "datatype": "FP32", "data": data}]}


@dataclass(frozen=True)
class Peer:
    """`module`.py beside this file is run with a port as its argument; it answers at `path` to `body(observation)`."""

    name: str
    packages: tuple[str, ...]
    module: str
    path: str
    body: Callable[[list[Any]], Any]

    @property
    def competitor(self) -> Competitor:
        """As it takes part."""
        return Competitor(self.name, Kind.PEER)

    def payload(self, asked: Payload) -> Payload:
        """The same question in its words."""
        return replace(asked, body=json.dumps(self.body(json.loads(asked.body)["observation"])).encode())


PEERS = {
    peer.name: peer
    for peer in (
        Peer("litserve", ("litserve==0.2.19",), "litserve_server", "/predict", _ours),
        Peer("bentoml", ("bentoml==1.4.*",), "bentoml_server", "/action", _wrapped),
        Peer("mlserver", ("mlserver==1.7.1",), "mlserver_server", "/v2/models/small/infer", _tensor),
        Peer("ray", ("ray[serve]==2.60.*",), "ray_server", "/", _ours),
        Peer("triton", ("nvidia-pytriton==0.7.*",), "triton_server", "/v2/models/small/infer", _tensor),
    )
}
