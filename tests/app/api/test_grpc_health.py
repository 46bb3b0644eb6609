"""gRPC's health checks say what is served and whether it is ready; its reflection says what a service is made of."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2

from app.api.grpc_health import health_handler, reflection_handlers, until
from app.dialects.open_inference_messages import HEALTH, INFERENCE, REFLECTION, Messages

SERVING, NOT_SERVING, UNKNOWN = 1, 2, 3
MESSAGES = Messages()
pytestmark = pytest.mark.anyio


class Aborted(Exception):
    """A call that was ended with a status."""


class Context:
    """In the place of a call's context."""

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        raise Aborted(code, details)


class Server:
    """The handlers of a worker. `failed`: the policies that cannot be opened."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        self.stopping = asyncio.Event()
        self._handlers = [
            health_handler(self, MESSAGES, self.stopping),  # type: ignore[arg-type]
            *reflection_handlers(MESSAGES, self.stopping),
        ]

    def method(self, name: str) -> Any:
        details: Any = SimpleNamespace(method=f"/{name}", invocation_metadata=())
        (found,) = [method for handler in self._handlers if (method := handler.service(details))]
        return found

    async def check(self, service: str) -> int:
        method = self.method(f"{HEALTH}/Check")
        answer = await method.unary_unary(method.request_deserializer(asked(service)), Context())
        return int(
            MESSAGES.named("grpc.health.v1.HealthCheckResponse").FromString(method.response_serializer(answer)).status
        )

    async def watch(self, service: str) -> AsyncIterator[int]:
        method = self.method(f"{HEALTH}/Watch")
        async for answer in method.unary_stream(method.request_deserializer(asked(service)), Context()):
            yield answer.status

    async def reflect(self, release: str, requests: AsyncIterator[Any]) -> list[Any]:
        method = self.method(f"{release}/ServerReflectionInfo")
        return [answer async for answer in method.stream_stream(requests, Context())]


def asked(service: str) -> bytes:
    return bytes(MESSAGES.named("grpc.health.v1.HealthCheckRequest")(service=service).SerializeToString())


async def stream_of(requests: Iterable[Any]) -> AsyncIterator[Any]:
    for request in requests:
        yield request


@pytest.mark.parametrize("service", ["", INFERENCE, HEALTH, *REFLECTION])
async def test_each_service_is_ready_as_the_server_is(service: str) -> None:
    server = Server()
    assert await server.check(service) == SERVING
    server.failed.append("p")
    assert await server.check(service) == NOT_SERVING
    server.failed.clear()
    server.stopping.set()
    assert await server.check(service) == NOT_SERVING


async def test_a_check_of_another_service_is_refused() -> None:
    with pytest.raises(Aborted) as aborted:
        await Server().check("x" * 300)
    assert aborted.value.args == (grpc.StatusCode.NOT_FOUND, f"no service '{'x' * 200}'")


async def test_a_large_request_is_refused() -> None:
    """Whatever it is: protobuf would read it while all else waits."""
    server, refused = Server(), grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(Aborted, match="bytes, at most 65536 are read") as aborted:
        await server.check("x" * 2**17)
    assert aborted.value.args[0] is refused
    with pytest.raises(Aborted):
        await anext(server.watch("x" * 2**17))
    read = server.method(f"{REFLECTION[0]}/ServerReflectionInfo").request_deserializer
    with pytest.raises(Aborted):
        await server.reflect(REFLECTION[0], stream_of([read(b"\x0a\x80\x80\x08" + bytes(2**17))]))


async def test_a_watch_gives_the_status_at_once_and_when_the_server_stops() -> None:
    server = Server()
    seen = []
    async for status in server.watch(INFERENCE):
        seen.append(status)
        asyncio.get_running_loop().call_soon(server.stopping.set)
    assert seen == [SERVING, NOT_SERVING]


@pytest.mark.parametrize(("service", "statuses"), [("", [SERVING, NOT_SERVING]), ("none", [UNKNOWN])])
async def test_a_watch_ends_though_the_stop_comes_while_a_status_is_sent(service: str, statuses: list[int]) -> None:
    """With the status of a service that is known; another one stays unknown."""
    server = Server()
    seen = []
    async for status in server.watch(service):
        seen.append(status)
        server.stopping.set()
    assert seen == statuses


async def test_a_watch_gives_changes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.api.grpc_health._WATCH_S", 0)
    server = Server()

    async def change() -> None:
        for act in (lambda: server.failed.append("p"), server.failed.clear, server.stopping.set):
            for _ in range(20):  # turns of the event loop, in each of which the watch may look
                await asyncio.sleep(0)
            act()

    changing = asyncio.create_task(change())
    assert [status async for status in server.watch("")] == [SERVING, NOT_SERVING, SERVING, NOT_SERVING]
    await changing


@pytest.mark.parametrize("release", REFLECTION)
async def test_reflection_lists_all_services_and_has_the_files_that_say_what_they_are(release: str) -> None:
    asks = MESSAGES.named(f"{release.rpartition('.')[0]}.ServerReflectionRequest")
    requests = [asks(list_services="", host="here"), asks(file_containing_symbol=INFERENCE)]
    listed, file = await Server().reflect(release, stream_of(requests))
    names = {service.name for service in listed.list_services_response.service}
    assert {INFERENCE, HEALTH, *REFLECTION} <= names
    assert (listed.valid_host, listed.original_request) == ("here", requests[0])
    (proto,) = file.file_descriptor_response.file_descriptor_proto
    found = descriptor_pb2.FileDescriptorProto.FromString(proto)
    assert "GRPCInferenceService" in [service.name for service in found.service]
    (again,) = await Server().reflect(release, stream_of([asks(file_by_filename=found.name)]))
    assert again.file_descriptor_response == file.file_descriptor_response


async def test_what_is_not_there_is_answered_so_and_the_stream_goes_on() -> None:
    asks = MESSAGES.named("grpc.reflection.v1.ServerReflectionRequest")
    requests = [
        asks(file_by_filename="none.proto"),
        asks(file_containing_symbol="none.None"),
        asks(all_extension_numbers_of_type=INFERENCE),
        asks(),
        asks(list_services=""),
    ]
    *refused, listed = await Server().reflect(REFLECTION[0], stream_of(requests))
    assert [(answer.error_response.error_code, answer.error_response.error_message) for answer in refused] == [
        (5, "there is none: file_by_filename"),
        (5, "there is none: file_containing_symbol"),
        (5, "there is none: all_extension_numbers_of_type"),
        (5, "there is none: None"),
    ]
    assert listed.HasField("list_services_response")


async def endless(asked_for: list[bool]) -> AsyncIterator[int]:
    """Yields one request, and waits for the next one until it is given up."""
    yield 1
    try:
        await asyncio.Event().wait()
    finally:
        asked_for.append(True)


async def test_an_open_stream_ends_when_the_server_stops() -> None:
    stopping, given_up, seen = asyncio.Event(), [], []
    async for request in until(stopping, endless(given_up)):
        seen.append(request)
        asyncio.get_running_loop().call_soon(stopping.set)
    assert seen == [1]
    await asyncio.sleep(0)
    assert given_up == [True]


async def test_what_breaks_the_stream_is_raised_to_who_reads_it() -> None:
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise ValueError("no message")

    requests = until(asyncio.Event(), broken())
    assert await anext(requests) == 1
    with pytest.raises(ValueError, match="no message"):
        await anext(requests)
