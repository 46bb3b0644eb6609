"""HTTP requests that are traced: on the fast path by another kind of cycle, behind it by a layer around the framework.

Which requests are is decided before anything is made for them. All others are answered as without traces.
"""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from time import perf_counter
from typing import Any, cast

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.fast_path import FastPath, Headers
from app.api.noted_status import NotedStatus
from app.api.request_cycle import FastPathCycle, Large, Receiver, Route
from app.api.routes.data import ROUTES
from app.api.server_timing import TimedCycles
from app.api.timed import noted, timed
from app.batching.timing import timing_of_task
from app.tracing.context import Parent, parent_in
from app.tracing.otlp import Sending
from app.tracing.tracer import Asked, RequestTrace, Tracer

# What the framework calls the paths that it does not see, or has a pattern for that says little.
_ROUTES = tuple(
    (re.compile("[^/]+".join(map(re.escape, re.split(r"{\w+}", route)))), route)
    for route in (
        *(f"{root}/{function}" for root in ("", "/v1/policies/{policy}") for function in ROUTES),
        *(f"{root}/sessions/{{id}}/action" for root in ("", "/v1/policies/{policy}")),
        "/v2/models/{model}/infer",
        *(f"/v1/models/{{model}}{of}:predict" for of in ("", "/versions/{version}", "/labels/{label}")),
        *(f"/v1/models/{{model}}{of}{end}" for of in ("", "/versions/{version}") for end in ("", "/metadata")),
    )
)
_METHODS = frozenset(("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"))
# No answer was sent: the client has gone.
_NO_ANSWER = (0, 499)
_GONE = "ClientGone"
_LONGEST_PATH = 256  # a target may have 64 KiB
# From here on a status says that the server is to blame.
_OURS = 500


class TracedRequests:
    """Decides which requests are traced."""

    def __init__(self, tracer: Tracer) -> None:
        self.tracer = tracer
        self._sampler = sampler = tracer.sampler
        # Whether a trace may start with a request, and whether each request without a caller starts one.
        self.starts, self.starts_all = sampler.bound > 0, sampler.rate >= 1
        # How many requests without a caller are passed over until one starts a trace.
        self._left = sampler.passed_over() if self.starts else 0
        self.sampled_cycle = _sampled_cycle(tracer) if self.starts else FastPathCycle

    def starts_now(self) -> bool:
        """Returns whether this request, which has no caller, starts a trace; to be asked once for each."""
        if self._left:
            self._left -= 1
            return False
        self._left = self._sampler.passed_over()
        return True

    def takes(self, parent: Parent | None) -> bool:
        """Returns whether a request is traced; to be asked once for each that has no caller."""
        if parent is None:
            return self.starts and self.starts_now()
        return self._sampler.takes(parent)

    @property
    def fast_path(self) -> type[FastPath]:
        """A fast path that asks here."""
        return type("TracedFastPath", (TracedFastPath,), {"requests": self})


def open_traces(app: FastAPI, variables: Mapping[str, str], stack: AsyncExitStack) -> TracedRequests:
    """Opens what sends traces, and traces requests of the framework's application; closed with the stack.

    `variables`: OpenTelemetry's.
    """
    sending = Sending(variables)
    stack.push_async_callback(asyncio.to_thread, sending.close)
    requests = TracedRequests(sending.tracer)
    app.add_middleware(TracedApp, requests=requests)
    return requests


def asked_by_http(method: str, path: str, route: str, status: int) -> Asked:
    """Returns what HTTP says of a request.

    Args:
      method: that of the request.
      path: of its target; not long.
      route: "" where it has none.
      status: that of the answer; 0 where there was none.
    """
    known = method in _METHODS
    attributes: dict[str, Any] = {"http.request.method": method if known else "_OTHER"}
    if not known:
        attributes["http.request.method_original"] = method
    attributes |= {"url.path": path, "url.scheme": "http"}
    if route:
        attributes["http.route"] = route
    if status not in _NO_ANSWER:
        attributes["http.response.status_code"] = status
    if status in _NO_ANSWER or status >= _OURS:
        attributes["error.type"] = _GONE if status in _NO_ANSWER else str(status)
    return Asked(f"{method if known else 'HTTP'} {route}".rstrip(), attributes, status >= _OURS)


class _FastPathTrace(RequestTrace):
    """A request on the fast path, in the place of its route and of the metrics that count its answer."""

    gathers = None  # it is noted what becomes of this one

    def __init__(self, route: Route, tracer: Tracer, parent: Parent | None) -> None:
        self.parent = parent
        self.started = perf_counter()
        self._route, self._tracer = route, tracer
        self.writes = route.writes

    def read(self, body: bytes) -> Any:
        """See `Route`."""
        return noted(self._route.read(body), self)

    @property
    def large(self) -> Large:
        """See `Route`."""
        return timed(self._route, self).large

    @property
    def metrics(self) -> _FastPathTrace:
        """See `Route`."""
        return self

    def failed(self, kind: str) -> None:
        """See `DataMetrics`."""
        self._route.metrics.failed(kind)

    def answered(self, status: int, seconds: float) -> None:
        """See `DataMetrics`."""
        self._route.metrics.answered(status, seconds)
        self._tracer.end(self, asked_by_http, "POST", *self._route.target, status)


def _sampled_cycle(tracer: Tracer) -> type[FastPathCycle]:
    """Makes the cycle of requests without a caller, of which some are traced."""
    sampler = tracer.sampler
    left = sampler.passed_over()

    class SampledCycle(FastPathCycle):
        def __init__(self, route: Route, receiver: Receiver) -> None:
            # As `RequestCycle`, in less time: those that are not traced may hardly cost more than without traces.
            nonlocal left
            if left:
                left -= 1
            else:
                left = sampler.passed_over()
                route = cast(Route, _FastPathTrace(route, tracer, None))
            self.route = route
            self._metrics = route.metrics
            self._receiver = receiver
            self._started = perf_counter()

    return SampledCycle


class TracedFastPath(FastPath):
    """A fast path of which some requests are traced."""

    requests: TracedRequests

    def route(self, path: bytes, headers: Headers) -> Route | None:
        """See `FastPath`."""
        route = super().route(path, headers)
        if route is None:
            return None
        parent = parent_in(headers)
        if not (self.requests.starts if parent is None else self.requests.takes(parent)):
            return route
        text = path.decode("latin-1")
        return route._replace(cycle=self._cycle(route.cycle, parent), target=(text[:_LONGEST_PATH], route_of(text)))

    def _cycle(self, kind: Any, parent: Parent | None) -> Callable[[Route, Receiver], Any]:
        """Returns what makes the cycle of a request in the place of `kind`, which makes one without a trace."""
        requests = self.requests
        tracer, shows = requests.tracer, isinstance(kind, TimedCycles)
        all_are = parent is not None or requests.starts_all
        if kind is FastPathCycle and not all_are:
            return requests.sampled_cycle

        def cycle(route: Route, receiver: Receiver) -> Any:
            if not all_are and not requests.starts_now():
                return kind(route, receiver)
            trace = _FastPathTrace(route, tracer, parent)
            return kind(trace, receiver, trace) if shows else kind(trace, receiver)

        return cycle


@functools.lru_cache(maxsize=1024)
def route_of(path: str) -> str:
    """Returns the route of a path; "" where it is none of these."""
    return next((route for pattern, route in _ROUTES if pattern.fullmatch(path)), "")


class TracedApp:
    """Wraps an application, and traces some of its requests."""

    def __init__(self, app: ASGIApp, requests: TracedRequests) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        parent = parent_in(scope["headers"]) if scope["type"] == "http" else None
        if scope["type"] != "http" or not self._requests.takes(parent):
            await self._app(scope, receive, send)
            return
        trace, noted = RequestTrace(parent), NotedStatus(send)
        token = timing_of_task.set(trace)
        try:
            await self._app(scope, receive, noted)
        except Exception:
            noted.status = noted.status or _OURS
            raise
        finally:
            timing_of_task.reset(token)
            asked = scope["method"], scope["path"][:_LONGEST_PATH], _route_in(scope), noted.status
            self._requests.tracer.end(trace, asked_by_http, *asked)


def _route_in(scope: Scope) -> str:
    """Returns the route that the framework has found; "" where it has found none."""
    found = getattr(scope.get("route"), "path", "")
    if found or "endpoint" not in scope:
        return str(found)
    return route_of(scope["path"].removeprefix(scope.get("root_path", "")))
