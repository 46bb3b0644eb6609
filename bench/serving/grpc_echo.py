"""A gRPC message is read, a constant is answered: `grpc.aio` around an answer, and nothing else.

`python -m bench.serving.grpc_echo PORT`: the server library, the messages and the event loop that the server runs on.
"""

from __future__ import annotations

import sys
from typing import Any

import grpc
import numpy as np
import uvloop

from app.dialects.open_inference_messages import INFERENCE, Messages


async def serve(port: int) -> None:
    """Answers `ModelInfer` until the process is ended."""
    messages = Messages()
    response = messages.named("ModelInferResponse")(model_name="echo", model_version="0000000700")
    response.outputs.add(name="action", datatype="INT64", shape=[1])
    response.raw_output_contents.append(np.ones(1, np.int64).tobytes())

    async def answer(_: Any, __: Any) -> Any:
        return response

    asks, answers = messages.named("ModelInferRequest").FromString, messages.named("ModelInferResponse")
    calls = {"ModelInfer": grpc.unary_unary_rpc_method_handler(answer, asks, answers.SerializeToString)}
    server: Any = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(INFERENCE, calls),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
