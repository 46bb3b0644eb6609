"""Messages over gRPC: what is read of them before their tensors, and how much of them there may be."""

import asyncio
import contextlib
import random
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.protobuf.message import DecodeError

from app.api.grpc_messages import InferMessage, reader_of
from app.batching.rule import Pause
from app.dialects.open_inference_messages import INFERENCE, Messages
from app.errors import BodyTooLarge, Malformed
from tests.support.ports import port_below_outgoing
from tests.support.worker_in_process import running

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]
REQUEST = Messages().named("ModelInferRequest")


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


def names(message: Any) -> tuple[str, str, str]:
    return message.model_name, message.model_version, message.id


async def test_names_are_found_whatever_stands_between_them() -> None:
    request = REQUEST(model_name="größer", model_version="7", id="one")
    request.inputs.add(name="0/observation", datatype="FP32", shape=[2**18, 4]).parameters["x"].int64_param = -1
    request.outputs.add(name="action")
    request.raw_input_contents.append(bytes(2**22))
    parts = [
        REQUEST(**{field.name: value}).SerializeToString() for field, value in request.ListFields() if field.number != 4
    ]
    for _ in range(5):
        random.Random(1).shuffle(parts)
        found = InferMessage(b"".join(parts))
        assert found.refusal is None
        assert names(found) == names(request)
    assert names(InferMessage(b"")) == ("", "", "")


async def test_they_are_those_that_protobuf_reads() -> None:
    draw, agreed = random.Random(2), 0
    whole = message_of(1) + REQUEST(model_version="7", id="one").SerializeToString() + b"\x78\x05\x81\x01" + bytes(8)
    for _ in range(20_000):
        body = bytearray(whole)
        for _ in range(draw.randrange(1, 4)):
            body[draw.randrange(len(body))] = draw.choice([draw.randrange(256), 0x0A, 0x12, 0x1A, 0x7F, 0x80])
        found = InferMessage(bytes(body[: draw.randrange(len(body) + 1)] if draw.random() < 0.3 else body))
        with contextlib.suppress(DecodeError):
            read = REQUEST.FromString(found.body)
            if found.refusal is None:
                assert names(found) == names(read)
                agreed += 1
    assert agreed > 2000


HOSTILE = {
    "2 million empty inputs": b"\x2a\x00" * 2**21,
    "2 million empty raw tensors": b"\x3a\x00" * 2**21,
    "parameters without end": REQUEST(parameters={"x" * 100: {"bool_param": True}}).SerializeToString() * 9000,
    "numbers in contents": REQUEST(inputs=[{"contents": {"uint_contents": bytes(2**20)}}]).SerializeToString(),
    "a long name": REQUEST(model_name="x" * (2**20 + 1)).SerializeToString(),
    "many numbers": b"\x78\x01" * 2**20,
}


@pytest.mark.parametrize("kind", HOSTILE)
async def test_what_protobuf_would_read_for_long_is_refused_before(kind: str) -> None:
    """One of 60 MB had all other requests wait for four seconds, and needed no token."""
    assert isinstance(InferMessage(HOSTILE[kind]).refusal, BodyTooLarge)


@pytest.mark.parametrize(
    "body", [b"\x0a", b"\x0a\x05abc", b"\x0a\x01\xff", b"\x2b", b"\xff" * 11, b"\x0d\x00", b"{}"], ids=repr
)
async def test_what_is_no_message_is_refused(body: bytes) -> None:
    assert isinstance(InferMessage(body).refusal, Malformed)


async def test_other_messages_are_small() -> None:
    read = reader_of(Messages().named("ModelReadyRequest"))
    assert read(b"\x0a\x01a").name == "a"
    assert isinstance(read(b"\x0a"), Malformed)
    assert isinstance(read(b"\x78\x01" * 2**16), BodyTooLarge)
