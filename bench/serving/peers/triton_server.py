"""Triton by PyTriton: its Python back end, dynamic batching without a delay."""

from __future__ import annotations

import os
import sys
import sysconfig
from typing import Any

import numpy as np
from policy import MOST_REQUESTS, Policy
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


def main(port: int) -> None:
    """Serves until it is asked to stop."""
    # Its back end takes the first libpython that the system finds, which may be another than this Python's.
    os.environ["LD_LIBRARY_PATH"] = str(sysconfig.get_config_var("LIBDIR"))
    policy = Policy()

    @batch
    def action(observation: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        return [policy(observation).astype(np.int64)[:, None]]

    config = TritonConfig(
        http_address="127.0.0.1", http_port=port, grpc_port=port + 1, metrics_port=port + 2, log_verbose=0
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="small",
            infer_func=action,
            inputs=[Tensor(name="observation", dtype=np.float32, shape=(4,))],
            outputs=[Tensor(name="action", dtype=np.int64, shape=(1,))],
            config=ModelConfig(
                max_batch_size=64 * MOST_REQUESTS, batcher=DynamicBatcher(max_queue_delay_microseconds=0)
            ),
            strict=False,
        )
        triton.serve()


if __name__ == "__main__":
    main(int(sys.argv[1]))
