"""gRPC's health checks and its reflection: what is served, and whether it is ready, for tools that know no protocol."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc

from app.api.grpc_messages import reader_of
from app.dialects.open_inference_messages import HEALTH, REFLECTION, Messages
from app.errors import Refusal
from app.inference.service import Service

_SERVING, _NOT_SERVING, _SERVICE_UNKNOWN = 1, 2, 3
# How soon a change reaches those who watch.
_WATCH_S = 1.0
_NOT_FOUND = 5


async def until(stopping: asyncio.Event, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """Yields the requests of a stream until it ends, or the server stops: an open stream must not block the stop."""
    stop = asyncio.ensure_future(stopping.wait())
    try:
        while True:
            following = asyncio.ensure_future(anext(requests, None))
            await asyncio.wait({following, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                following.cancel()
                return
            request = following.result()
            if request is None:
                return
            yield request
    finally:
        stop.cancel()


def health_handler(service: Service, messages: Messages, stopping: asyncio.Event) -> Any:
    """Makes the handler of `grpc.health.v1.Health`."""
    response = messages.named("grpc.health.v1.HealthCheckResponse")

    def status(name: str) -> int:
        if name not in ("", *messages.services):
            return _SERVICE_UNKNOWN
        return _NOT_SERVING if service.failed or stopping.is_set() else _SERVING

    async def check(request: Any, context: Any) -> Any:
        found = status((await _readable(request, context)).service)
        if found == _SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {request.service[:200]!r}")
        return response(status=found)

    async def watch(request: Any, context: Any) -> AsyncIterator[Any]:
        last, name = None, (await _readable(request, context)).service
        while True:
            stops, now = stopping.is_set(), status(name)
            if now != last:
                yield response(status=now)
            if stops:  # and the client has heard of it
                return
            last = now
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), _WATCH_S)

    asks = reader_of(messages.named("grpc.health.v1.HealthCheckRequest"))
    gives = response.SerializeToString
    return grpc.method_handlers_generic_handler(
        HEALTH,
        {
            "Check": grpc.unary_unary_rpc_method_handler(check, asks, gives),
            "Watch": grpc.unary_stream_rpc_method_handler(watch, asks, gives),
        },
    )


def reflection_handlers(messages: Messages, stopping: asyncio.Event) -> list[Any]:
    """Makes the handlers of the two releases of gRPC's reflection."""
    return [_reflection(messages, service, stopping) for service in REFLECTION]


def _reflection(messages: Messages, service: str, stopping: asyncio.Event) -> Any:
    package = service.rpartition(".")[0]
    response = messages.named(f"{package}.ServerReflectionResponse")

    def found(request: Any) -> Any:
        answer = response(valid_host=request.host, original_request=request)
        asked = request.WhichOneof("choice")
        if asked == "list_services":
            for name in messages.services:
                answer.list_services_response.service.add(name=name)
            return answer
        try:
            if asked == "file_by_filename":
                file = messages.pool.FindFileByName(request.file_by_filename)
            elif asked == "file_containing_symbol":
                file = messages.pool.FindFileContainingSymbol(request.file_containing_symbol)
            else:
                raise KeyError(asked)
        except KeyError:
            answer.error_response.error_code = _NOT_FOUND
            answer.error_response.error_message = f"there is none: {asked}"
            return answer
        answer.file_descriptor_response.file_descriptor_proto.append(file.serialized_pb)
        return answer

    async def reflect(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for request in until(stopping, requests):
            yield found(await _readable(request, context))

    asks = reader_of(messages.named(f"{package}.ServerReflectionRequest"))
    handler = grpc.stream_stream_rpc_method_handler(reflect, asks, response.SerializeToString)
    return grpc.method_handlers_generic_handler(service, {"ServerReflectionInfo": handler})


async def _readable(request: Any, context: Any) -> Any:
    """Returns a message; ends the call where `reader_of` has found none."""
    if isinstance(request, Refusal):
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(request))
    return request
