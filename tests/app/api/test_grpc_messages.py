"""Unfinished messages over gRPC are bounded together, with all other unfinished requests of the worker."""

import asyncio
from dataclasses import replace
from typing import Any

import grpc
import pytest

from app.batching.rule import Pause
from app.dialects.open_inference_messages import INFERENCE, Messages
from tests.support.ports import port_below_outgoing
from tests.support.worker_in_process import running

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


def message_of(rows: int) -> bytes:
    request = Messages().named("ModelInferRequest")(model_name="echo")
    request.inputs.add(name="0/observation", datatype="FP32", shape=[rows, 4])
    request.raw_input_contents.append(bytes(16 * rows))
    return request.SerializeToString()


async def test_the_largest_is_given_up_and_the_others_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask(rows: int) -> Any:
        try:
            return len(await call(message_of(rows)))
        except grpc.RpcError as error:
            return error.code(), error.details()

    async with running(monkeypatch, buffered_limit_bytes=2**20, body_limit_bytes=600_000) as there:
        port, batcher = port_below_outgoing(), there.worker._service.policy("echo").batcher
        there.worker._settings = replace(there.worker._settings, grpc_port=port)
        await there.worker._start_grpc()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary(f"/{INFERENCE}/ModelInfer")
            await batcher.pause(Pause("wait"))
            asked = [asyncio.create_task(ask(rows)) for rows in (33_000, 34_000, 30_000)]
            done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            assert there.unfinished_bytes <= 2**20
            batcher.resume()
            first, largest, last = [await each for each in asked]
            assert done == {asked[1]}
            assert largest[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "take too much memory together" in largest[1]
            assert min(first, last) > 4 * 30_000
            assert there.unfinished_bytes == 0
            assert await ask(34_000) > 4 * 34_000
