"""Records of sessions, and limits of a store, that are easy to reach."""

import numpy as np

from app.sessions.record import Answer, Record, Run
from app.sessions.store import Limits

LIMITS = Limits(sessions=3, size_bytes=100_000, idle_s=60, retained_versions=2, per_client=2)


def record(
    incarnation: str = "b", step: int = 0, retained: str | None = None, run_id: str = "r", size: int = 2
) -> Record:
    run = Run("identity", incarnation, run_id, 2, True, "greedy", 2**63 - 1, True, retained)
    state = {"1/0": np.arange(size, dtype=np.float32)[:, None], "1/1": np.array([True, False]), "1/2": np.arange(2)}
    return Record(run, step, state, np.array([False, True]), "v", 7, Answer("application/json", b"{}"))
