"""The gRPC server of a worker, on the same event loop as its HTTP server. All workers share the port."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, Any

import grpc

from app.api.grpc_calls import InferenceCalls, WorkerParts
from app.api.grpc_health import health_handler, reflection_handlers
from app.dialects.open_inference_messages import Messages
from app.wire.limits import LARGEST_BYTES, SMALL_BYTES

if TYPE_CHECKING:
    from app.api.traced import TracedRequests


class GrpcServer:
    """Answers between `start` and `stop`.

    `grace_s`: how long what was accepted has to be answered, once it stops. `traced`: None without traces.
    """

    def __init__(self, parts: WorkerParts, grace_s: float, traced: TracedRequests | None = None) -> None:
        self._settings = settings = parts.settings
        self._grace_s = grace_s
        self._stopping = asyncio.Event()
        messages = Messages()
        calls = InferenceCalls(parts, messages, self._stopping)
        most = max(LARGEST_BYTES, settings.body_limit_bytes) + SMALL_BYTES
        interceptors = []
        if traced is not None:
            from app.api.grpc_traced import TracedCalls  # of another extra

            interceptors.append(TracedCalls(traced))
        self._server: Any = grpc.aio.server(
            interceptors=interceptors,
            options=[
                ("grpc.so_reuseport", int(settings.workers > 1)),
                ("grpc.max_receive_message_length", most),
                ("grpc.max_send_message_length", -1),
            ],
        )
        health = health_handler(parts.models.service, messages, self._stopping)
        self._server.add_generic_rpc_handlers((calls.handler(), health, *reflection_handlers(messages, self._stopping)))

    async def start(self) -> None:
        """Returns when calls are accepted.

        Raises:
          OSError: another server listens there.
        """
        host = self._settings.host
        address = f"[{host}]:{self._settings.grpc_port}" if ":" in host else f"{host}:{self._settings.grpc_port}"
        try:
            self._server.add_insecure_port(address)
        except RuntimeError:
            raise OSError(errno.EADDRINUSE, f"{address}, for gRPC, is in use") from None
        await self._server.start()

    async def stop(self) -> None:
        """Takes nothing new, and returns when what was accepted is answered."""
        self._stopping.set()
        await self._server.stop(self._grace_s)
