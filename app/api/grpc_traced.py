"""Calls over gRPC that are traced: those of one request, not streams."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from app.api.traced import TracedRequests
from app.batching.timing import timing_of_task
from app.tracing.context import parent_in
from app.tracing.tracer import Asked, RequestTrace

# By the conventions for servers, others say that the caller is to blame.
_FAILED = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}


class TracedCalls(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # it comes without types
    """Traces some of the calls of a gRPC server."""

    def __init__(self, requests: TracedRequests) -> None:
        self._requests = requests

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """See `grpc.aio.ServerInterceptor`."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        metadata = handler_call_details.invocation_metadata or ()
        parent = parent_in([(name.encode(), value.encode()) for name, value in metadata if isinstance(value, str)])
        if not self._requests.takes(parent):
            return handler
        method = handler_call_details.method.lstrip("/")

        async def answered(request: Any, context: Any) -> Any:
            trace, ended = RequestTrace(parent), False
            token = timing_of_task.set(trace)
            try:
                response = await handler.unary_unary(request, context)
                ended = True
                return response
            finally:
                timing_of_task.reset(token)
                self._requests.tracer.end(trace, _asked, method, _code(context.code(), ended))

        return grpc.unary_unary_rpc_method_handler(answered, handler.request_deserializer, handler.response_serializer)


def _asked(method: str, code: grpc.StatusCode) -> Asked:
    service, _, name = method.rpartition("/")
    number = code.value[0]
    attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name, "rpc.grpc.status_code": number}
    failed = code.name in _FAILED
    if failed:
        attributes["error.type"] = code.name
    return Asked(method, attributes, failed)


def _code(given: Any, ended: bool) -> grpc.StatusCode:
    """Returns the code of a call that has ended; `given`: what its context has, a number or a code, if anything."""
    if ended:
        return grpc.StatusCode.OK
    codes = {code.value[0]: code for code in grpc.StatusCode}
    number = given.value[0] if isinstance(given, grpc.StatusCode) else given
    return codes.get(number or 0, grpc.StatusCode.OK) if number else grpc.StatusCode.CANCELLED
