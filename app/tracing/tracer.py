"""A request that is traced → its spans: of the server, and within it queue, batch and engine. Made when it is over."""

from __future__ import annotations

import random
from collections.abc import Mapping
from time import perf_counter, time_ns
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from app import __version__
from app.batching.timing import BatchTiming, Timing
from app.tracing.context import Parent
from app.tracing.sampling import Sampler

SCOPE = InstrumentationScope("policy_server", __version__)
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_UNSET, _ERROR = Status(StatusCode.UNSET), Status(StatusCode.ERROR)
_NO_STATE = TraceState()


class RequestTrace:
    """The server's span of one request, as long as that is under way. `started`: by `perf_counter`."""

    __slots__ = ("context", "parent", "started", "timing")

    def __init__(self, context: SpanContext, parent: SpanContext | None, timing: Timing) -> None:
        self.context, self.parent, self.timing = context, parent, timing
        self.started = perf_counter()
        timing.trace = context


class Tracer:
    """Makes spans, and passes them on. `sampler` is for those who ask whether to."""

    def __init__(self, sampler: Sampler, processor: SpanProcessor, resource: Resource) -> None:
        self.sampler = sampler
        self._processor = processor
        self._resource = resource

    def begin(self, parent: Parent | None, timing: Timing) -> RequestTrace:
        """Starts the trace of a request, or its part of the caller's; its times are noted in `timing`."""
        if parent is None:
            return RequestTrace(_context(self.sampler.trace_id(), _NO_STATE), None, timing)
        state = TraceState.from_header([parent.state]) if parent.state else _NO_STATE
        caller = SpanContext(parent.trace_id, parent.span_id, True, TraceFlags(int(parent.sampled)), state)
        return RequestTrace(_context(parent.trace_id, state), caller, timing)

    def end(self, trace: RequestTrace, name: str, attributes: Mapping[str, Any], failed: bool) -> None:
        """Passes on the spans of a request that is over.

        Args:
          trace: of the request.
          name: of the server's span.
          attributes: those of the protocol; the rest is taken from the request's times.
          failed: whether the server is to blame.
        """
        timing, now = trace.timing, perf_counter()
        zero = time_ns() - int(now * 1e9)  # the clock of the spans, where that of `perf_counter` is 0
        spans = _Spans(self._resource, trace.context, zero)
        batch = timing.batch
        if timing.queued_at:
            spans.add("queue", timing.queued_at, now if batch is None else batch.taken_at, {})
        if batch is not None:
            spans.add_batch(batch, now)
        spans.add_server(trace, now, name, {**attributes, **_own(timing)}, failed)
        for span in spans.made:
            self._processor.on_end(span)


class _Spans:
    """The spans of one request. `zero`: the time in nanoseconds at which `perf_counter` was 0."""

    def __init__(self, resource: Resource, context: SpanContext, zero: int) -> None:
        self.made: list[ReadableSpan] = []
        self._resource = resource
        self._context = context
        self._zero = zero

    def add(
        self, name: str, started: float, ended: float, attributes: Mapping[str, Any], parent: SpanContext | None = None
    ) -> ReadableSpan:
        """Adds a span beneath that of the server, or beneath `parent`."""
        span = ReadableSpan(
            name,
            _context(self._context.trace_id, self._context.trace_state),
            parent or self._context,
            self._resource,
            attributes,
            status=_UNSET,
            start_time=self._zero + int(started * 1e9),
            end_time=self._zero + int(ended * 1e9),
            instrumentation_scope=SCOPE,
        )
        self.made.append(span)
        return span

    def add_batch(self, batch: BatchTiming, now: float) -> None:
        """Adds the spans of a batch and of its engine. It is linked with the requests that it has in common."""
        attributes = {"policy_server.batch.requests": batch.requests, "policy_server.batch.rows": batch.rows}
        span = self.add("batch", batch.taken_at, batch.ended_at or now, attributes)
        others = [timing.trace for timing in batch.timings if timing.trace not in (None, self._context)]
        span._links = [Link(other) for other in others]
        if batch.calls:
            engine = {"policy_server.engine": batch.engine, "policy_server.engine.calls": batch.calls}
            self.add("engine", batch.engine_started_at, batch.engine_ended_at, engine, span.context)

    def add_server(
        self, trace: RequestTrace, now: float, name: str, attributes: Mapping[str, Any], failed: bool
    ) -> None:
        """Adds the server's span."""
        self.made.append(
            ReadableSpan(
                name,
                trace.context,
                trace.parent,
                self._resource,
                attributes,
                kind=SpanKind.SERVER,
                status=_ERROR if failed else _UNSET,
                start_time=self._zero + int(trace.started * 1e9),
                end_time=self._zero + int(now * 1e9),
                instrumentation_scope=SCOPE,
            )
        )


def _own(timing: Timing) -> dict[str, Any]:
    """Returns the attributes that say what was asked of which policy, and which version has answered."""
    if not timing.policy:
        return {}
    found = {
        "policy_server.policy": timing.policy,
        "policy_server.function": timing.function,
        "policy_server.rows": timing.rows,
    }
    if timing.batch is not None:
        version = timing.batch.version
        found |= {"policy_server.version": version.name, "policy_server.train_step": version.train_step}
    return found


def _context(trace_id: int, state: TraceState) -> SpanContext:
    return SpanContext(trace_id, random.getrandbits(64) or 1, False, _SAMPLED, state)
