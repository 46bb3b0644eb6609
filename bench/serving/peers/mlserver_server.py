# ruff: noqa: S606
"""MLServer: adaptive batching by the server, which finds the model by two files of settings."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from policy import MOST_REQUESTS, WAIT_S, Policy


class Small(MLModel):
    """A runtime of our own, as its documentation describes."""

    async def load(self) -> bool:  # noqa: D102
        self.policy = Policy()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """One tensor in, with the rows of all requests of the batch, and one out."""
        actions = self.policy(NumpyCodec.decode_input(payload.inputs[0]))
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output("action", actions.astype(np.int64))]
        )


def main(port: int) -> None:
    """Writes the settings, and becomes the server."""
    here = Path(__file__).parent
    folder = Path(tempfile.mkdtemp(prefix="mlserver-", dir=os.environ.get("TMPDIR")))
    ports = {"http_port": port, "grpc_port": port + 1, "metrics_port": port + 2}
    # Without worker processes: for a model that takes microseconds they cost more than they bring.
    settings = {"host": "127.0.0.1", "parallel_workers": 0, "debug": False, **ports}
    (folder / "settings.json").write_text(json.dumps(settings))
    model = {
        "name": "small",
        "implementation": f"{Path(__file__).stem}.Small",
        "max_batch_size": MOST_REQUESTS,
        "max_batch_time": WAIT_S,
    }
    (folder / "model-settings.json").write_text(json.dumps(model))
    os.environ["PYTHONPATH"] = str(here)
    command = Path(sys.executable).with_name("mlserver")
    os.execv(command, [str(command), "start", str(folder)])


if __name__ == "__main__":
    main(int(sys.argv[1]))
