"""A policy in NumPy whose versions differ in a weight, to be asked as a shadow."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from app.artifacts.bundle import Bundle, Graph, RowSharing
from app.engine.base import InputRefused
from app.errors import SwapRefused
from app.rpc.messages import Arm
from app.versions.lease import LoadedVersion, VersionInfo
from saver.artifact import DistributionInfo, Leaf, Noise, PolicySpec, ServingInfo
from saver.artifact.policy import Signature
from tests.support.specs import policy_spec

SPEC = policy_spec(action=Leaf("action", "float32", (2,), -1.0, 3.0), state=Leaf("1/0", "float32", ()))
FAILS, REFUSES, OVERFLOWS = 7.0, 8.0, 9.0


class WeightEngine:
    """Its action is its weight times the observation's first entries, plus the state, plus the noise where it has any.

    Its state is the sum of the first entries. Some first entries make it fail.
    """

    name = "numpy"

    def __init__(self, weight: float, draws: bool = False) -> None:
        self.weight, self.draws = weight, draws
        self.calls: list[tuple[str, int]] = []

    def run(self, function: str, inputs: Any) -> Any:
        observation, state = inputs["0/observation"], inputs["1/0"]
        self.calls.append((function, len(observation)))
        first = observation[:, 0]
        if (first == FAILS).any():
            raise RuntimeError("no such place in a table")
        if (first == REFUSES).any():
            raise InputRefused("not this one")
        values = self.weight * observation[:, :2] + state[:, None]
        if function == "distribution":
            return {"action/loc": values, "action/scale": np.ones_like(values)}
        noise = inputs.get("noise/normal", 0.0) if function == "sample" else 0.0
        values = np.where(first[:, None] == OVERFLOWS, np.inf, values + noise)
        return {"action": values.astype(np.float32), "state/0": state + first}

    def initial_state(self, rows: int) -> Any:
        return {"0": np.full(rows, 0.5, np.float32)}


class WeightLoader:
    """Loads engines by the digests of their bundles, as "weight 2.0"; keeps them."""

    def __init__(self, draws: bool = False) -> None:
        self.draws = draws
        self.loaded: dict[str, WeightEngine] = {}
        self.given_back: list[Any] = []

    def load(self, graph: Graph, bundle: Bundle) -> Any:
        if not bundle.digest.startswith("weight"):
            raise SwapRefused(f"{bundle.digest} cannot be loaded")
        self.loaded[bundle.digest] = WeightEngine(float(bundle.digest.split()[1]), self.draws)
        return self.loaded[bundle.digest]

    def stand_by(self, graph: Graph, bundle: Bundle) -> None: ...

    def give_back(self, engine: Any) -> None:
        self.given_back.append(engine)


def graph(spec: PolicySpec = SPEC, distribution: bool = True) -> Graph:
    names = ("distribution", "greedy", "sample", "log_prob")
    parameters = {f"action/{name}": None for name in ("loc", "scale")}
    signatures: Any = {"distribution": Signature({}, parameters)} if distribution else {}  # type: ignore[arg-type]
    infos = {"action": DistributionInfo("normal", ("loc", "scale"), (), {})} if distribution else {}
    missing = {name: "not exported" for name in names if name not in signatures}
    return Graph(Path(), "graph", spec, ServingInfo(signatures, infos, Noise(0, 2), missing), False)


def bundle(digest: str, dependent: str = "") -> Bundle:
    return Bundle(Path(), "graph", digest, 1, "numpy", "", {}, sharing=RowSharing(dependent))


def arm(digest: str, share: float = 1.0, distribution: bool = True, dependent: str = "") -> Arm:
    return Arm(f"version {digest}", graph(distribution=distribution), bundle(digest, dependent), share)


def loaded(digest: str) -> LoadedVersion[Any]:
    """An active version, of which a copy can be loaded."""
    made = bundle(digest)
    engine = WeightEngine(float(digest.split()[1]))
    return LoadedVersion(engine, replace(VersionInfo.of(digest, made)), (graph(), made))
