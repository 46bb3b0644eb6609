# ruff: noqa: S606
"""BentoML: adaptive batching by the library. `bentoml serve` is what its documentation starts services with."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import bentoml
import numpy as np
from policy import MOST_REQUESTS, Policy

# The default refuses requests whose batch it expects to take longer than a minute; so does this, later.
_MOST_LATENCY_MS = 60_000


@bentoml.service(workers=1, traffic={"timeout": 60, "concurrency": 512})
class Small:
    """The one route."""

    def __init__(self) -> None:
        self.policy = Policy()

    @bentoml.api(batchable=True, max_batch_size=64 * MOST_REQUESTS, max_latency_ms=_MOST_LATENCY_MS)
    def action(self, observation: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        """Rows in, actions out."""
        return self.policy(observation)


if __name__ == "__main__":
    command = Path(sys.executable).with_name("bentoml")
    os.chdir(Path(__file__).parent)
    options = ["--host", "127.0.0.1", "--port", sys.argv[1]]
    os.execv(command, [str(command), "serve", f"{Path(__file__).stem}:Small", *options])
