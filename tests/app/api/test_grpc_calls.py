"""Calls over gRPC: which token each needs, and what of a call is refused as it is over HTTP."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import pytest

from app.dialects.open_inference_messages import INFERENCE, Messages
from tests.support.ports import port_below_outgoing
from tests.support.worker_in_process import TOKEN, Running, running

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]
DATA_TOKEN = "data"
REFUSED = grpc.StatusCode.INVALID_ARGUMENT


class Caller:
    """Calls a worker, with the token of its data routes."""

    def __init__(self, there: Running, channel: Any) -> None:
        self.there, self._channel = there, channel
        self._messages = Messages()

    async def call(self, name: str, token: str = DATA_TOKEN, timeout: float | None = None, **fields: Any) -> Any:
        """Returns the answer, or (status, details)."""
        request = self._messages.named(f"{name}Request")(**fields)
        read = self._messages.named(f"{name}Response").FromString
        call = self._channel.unary_unary(f"/{INFERENCE}/{name}", type(request).SerializeToString, read)
        try:
            return await call(request, timeout=timeout, metadata=[("authorization", f"Bearer {token}")])
        except grpc.RpcError as error:
            return error.code(), error.details()

    async def infer(self, *, timeout: float | None = None, version: str = "", **parameters: Any) -> Any:
        """Asks for one row."""
        row = {"name": "0/observation", "datatype": "FP32", "shape": [1, 4]}
        kinds = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
        given = {name: {kinds[type(value)]: value} for name, value in parameters.items()}
        more = {"model_name": "echo", "model_version": version, "parameters": given}
        return await self.call("ModelInfer", timeout=timeout, inputs=[row], raw_input_contents=[bytes(16)], **more)


@asynccontextmanager
async def calling(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Caller]:
    async with running(monkeypatch, data_token=DATA_TOKEN) as there:
        port = port_below_outgoing()
        there.worker._settings = replace(there.worker._settings, grpc_port=port)
        await there.worker._start_grpc()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Caller(there, channel)


async def test_a_load_needs_the_admin_token_and_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "policy_server.audit")
    async with calling(monkeypatch) as caller:
        code, details = await caller.call("RepositoryModelLoad", model_name="echo")
        assert (code, details) == (grpc.StatusCode.UNAUTHENTICATED, "the token is wrong")
        loaded = await caller.call("RepositoryModelLoad", token=TOKEN, model_name="echo")
        assert type(loaded).__name__ == "RepositoryModelLoadResponse"
        assert caller.there.control.calls == [("reload", "echo", None)]
        calls = caller.there.worker._pages.take_calls()
    assert [(call.call, call.status) for call in calls] == [
        ("gRPC RepositoryModelLoad 'echo'", 401),
        ("gRPC RepositoryModelLoad 'echo'", 200),
    ]
    lines = [record.getMessage() for record in caplog.records if record.name == "policy_server.audit"]
    assert [line.split(": ")[1].split(" after")[0] for line in lines] == ["401", "200"]


async def test_everything_else_needs_the_data_token(monkeypatch: pytest.MonkeyPatch) -> None:
    async with calling(monkeypatch) as caller:
        assert (await caller.call("ServerLive", token="")).live
        code, _ = await caller.call("ServerMetadata", token=TOKEN)
        assert code == grpc.StatusCode.UNAUTHENTICATED
        assert (await caller.call("ServerMetadata")).name == "policy_server"


@pytest.mark.parametrize("timeout_ms", ["abc", 700_000, 0, -5, 1.5, True])
@pytest.mark.parametrize("timeout", [None, 60.0])
async def test_an_option_that_is_wrong_is_refused_whatever_deadline_the_client_has(
    monkeypatch: pytest.MonkeyPatch, timeout: float | None, timeout_ms: Any
) -> None:
    async with calling(monkeypatch) as caller:
        code, details = await caller.infer(timeout=timeout, timeout_ms=timeout_ms)
    assert code == REFUSED
    assert "options.timeout_ms" in details


async def test_a_sequence_keeps_to_its_own_version_and_may_name_none(monkeypatch: pytest.MonkeyPatch) -> None:
    async with calling(monkeypatch) as caller:
        named = await caller.infer(version="export", sequence_id=4, sequence_start=True)
        assert named[0] == REFUSED
        assert "sequence_id: is for version export; expected a model without a version" in named[1]
        for more in ({}, {"version": "export"}):
            assert (await caller.infer(**more)).model_version == "export"
        assert (await caller.infer(sequence_id=4, sequence_start=True)).model_version == "export"
