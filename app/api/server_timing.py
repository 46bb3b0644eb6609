"""`Server-Timing` (W3C) in answers to requests that ask for it by the header `Server-Timing: ?1`."""

from __future__ import annotations

from collections.abc import Iterable
from time import perf_counter
from typing import Any

from fastapi import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.request_cycle import Receiver, Route
from app.api.timed import timed
from app.batching.timing import Timing, timing_of_task

NAME = b"server-timing"
_ASKS = b"?1"  # true, as a structured field has it


def is_asked(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Returns whether a request asks for its times. Names of the headers are in lower case."""
    return any(name == NAME and value.strip() == _ASKS for name, value in headers)


def value_of(timing: Timing, started: float) -> bytes:
    """Returns the value of the header, in milliseconds; `started`: when the request's head was read."""
    parts = []
    batch = timing.batch
    if batch is not None:
        ended = batch.ended_at or perf_counter()
        size = f"{batch.requests} request{'s' * (batch.requests > 1)}, {batch.rows} row{'s' * (batch.rows > 1)}"
        parts = [
            f"queue;dur={(batch.taken_at - timing.queued_at) * 1000:.3f}",
            f'batch;dur={(ended - batch.taken_at) * 1000:.3f};desc="{size}"',
            f"engine;dur={batch.engine_s * 1000:.3f}",
        ]
    elif timing.queued_at:
        parts = [f"queue;dur={(perf_counter() - timing.queued_at) * 1000:.3f}"]
    return ", ".join([*parts, f"total;dur={(perf_counter() - started) * 1000:.3f}"]).encode()


class _TimedReceiver:
    """Adds the header to the answer that it passes on."""

    def __init__(self, receiver: Any, timing: Timing, started: float) -> None:
        self._receiver = receiver
        self._timing, self._started = timing, started
        self.client = getattr(receiver, "client", None)

    def write_answer(self, media_type: bytes, body: bytes) -> None:
        """See `Receiver`."""
        self._receiver.write_answer(media_type + b"\r\nserver-timing: " + value_of(self._timing, self._started), body)

    def write_response(self, response: Response) -> None:
        """See `Receiver`."""
        response.raw_headers.append((NAME, value_of(self._timing, self._started)))
        self._receiver.write_response(response)


class TimedCycles:
    """Makes cycles whose answers have the header. `kind`: what makes them without."""

    def __init__(self, kind: Any) -> None:
        self._kind = kind

    def __call__(self, route: Route, receiver: Receiver, timing: Timing | None = None) -> Any:
        """Makes the cycle of a request on the fast path; `timing`: where its times are noted, if they are already."""
        started = perf_counter()
        if timing is None:
            timing = Timing()
            route = timed(route, timing)
        return self._kind(route, _TimedReceiver(receiver, timing, started))


def with_header(route: Route) -> Route:
    """Returns the route with answers that have the header."""
    return route._replace(cycle=TimedCycles(route.cycle))


class ServerTiming:
    """Wraps an application, and adds the header to answers that it is asked for in."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or not is_asked(scope["headers"]):
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        timing = timing_of_task.get() or Timing()
        token = timing_of_task.set(timing)

        async def adding(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), (NAME, value_of(timing, started))]}
            await send(message)

        try:
            await self._app(scope, receive, adding)
        finally:
            timing_of_task.reset(token)
