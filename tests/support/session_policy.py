"""A policy with sessions, served inside a test: its state counts what it has observed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from app.batching.batcher import Batcher
from app.batching.job_queue import BatcherParts
from app.experience.writing import StepWriters
from app.inference.policy import Policy
from app.inference.service import Service
from app.inputs.defaults import Defaults
from app.metrics import Metrics
from app.sessions.episode import Episodes
from app.sessions.memory import MemoryStore
from app.sessions.sessions import Sessions
from app.sessions.store import Limits, SessionStore
from app.versions.lease import LoadedVersion, VersionInfo
from saver.artifact import Leaf, Noise, PolicySpec, ServingInfo, Signature, TensorInfo
from tests.support.served_policy import policy_of
from tests.support.specs import policy_spec

ROW = TensorInfo("float32", (None, 1))
SPEC = policy_spec(
    Leaf("0/observation", "float32", (1,)),
    (Leaf("1/0", "float32", (1,)),),
    action=Leaf("action", "float32", (1,)),
    signatures={"action": Signature({}, {"action": ROW, "state/0": ROW})},
)
LIMITS = Limits(sessions=9, size_bytes=2**24, idle_s=60, retained_versions=2)


class CountingEngine:
    """Action and next state are the state plus the observation."""

    name = "counting"

    def run(self, function: str, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """See `Engine.run`."""
        after = inputs["1/0"] + inputs["0/observation"]
        return {"action": after, "state/0": after}

    def initial_state(self, rows: int) -> dict[str, np.ndarray[Any, Any]]:
        """See `Engine.initial_state`."""
        return {"0": np.zeros((rows, 1), np.float32)}


@dataclass(frozen=True)
class ServedPolicy:
    """A policy on one version, with all that its sessions need."""

    policy: Policy
    service: Service
    sessions: Sessions
    episodes: Episodes
    loaded: LoadedVersion[Any]

    @staticmethod
    @asynccontextmanager
    async def open(
        rows_limit: int = 4,
        writers: StepWriters | None = None,
        spec: PolicySpec = SPEC,
        store: SessionStore | None = None,
    ) -> AsyncIterator[ServedPolicy]:
        """Serves it until the end of the block. `store`: one that other policies use too."""
        loaded: LoadedVersion[Any] = LoadedVersion(CountingEngine(), VersionInfo("v0", "d0", 0))
        versions: Any = SimpleNamespace(active=loaded, find=lambda digest: loaded if digest == "d0" else None)
        serving = ServingInfo({}, {}, Noise(0, 0), {})
        metrics = Metrics().policy("p")
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher(BatcherParts("p", versions, Defaults(spec).complete, executor, metrics, 100))
            policy = policy_of(
                spec, serving, rows_limit=rows_limit, versions=versions, batcher=batcher, metrics=metrics
            )
            service = Service(["p"], deadline_ms=10_000, rows_limit=rows_limit)
            service.add(policy)
            store = store or MemoryStore(LIMITS, time.monotonic)
            sessions = Sessions(service, store, rows_limit=rows_limit, writers=writers)
            episodes = Episodes(policy, service.parser, rows_limit=rows_limit)
            try:
                yield ServedPolicy(policy, service, sessions, episodes, loaded)
            finally:
                await batcher.close()
