"""A request that was traced → its spans: of the server, and within it queue, batch and engine."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from app import __version__
from app.batching.timing import BatchTiming
from app.tracing.sampling import Sampler, trace_id_below
from app.tracing.tracer import RequestTrace

SCOPE = InstrumentationScope("policy_server", __version__)
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_UNSET, _ERROR = Status(StatusCode.UNSET), Status(StatusCode.ERROR)
_NO_STATE = TraceState()
# Of a span within the server's: events, links, kind, what is obsolete, status.
_INNER: tuple[tuple[()], tuple[()], SpanKind, None, Status] = ((), (), SpanKind.INTERNAL, None, _UNSET)


class SpanMaker:
    """Makes spans of this process; one thread at a time."""

    def __init__(self, sampler: Sampler, resource: Resource) -> None:
        self._bound = sampler.bound
        self._resource = resource

    def spans(self, trace: RequestTrace) -> Iterator[ReadableSpan]:
        """Yields the spans of a request that is over; the server's comes last."""
        timing, batch, resource = trace.timing, trace.timing.batch, self._resource
        context, zero = self._own(trace), trace.ended_ns - int(trace.ended * 1e9)
        function, arguments = trace.asked
        name, attributes, failed = function(*arguments)
        if timing.policy:
            times = _times(zero, timing.queued_at, trace.ended if batch is None else batch.taken_at)
            yield ReadableSpan("queue", _child(context), context, resource, {}, *_INNER, *times, SCOPE)
            attributes["policy_server.policy"] = timing.policy
            attributes["policy_server.function"] = timing.function
            attributes["policy_server.rows"] = timing.rows
        if batch is not None:
            attributes["policy_server.version"] = batch.version.name
            attributes["policy_server.train_step"] = batch.version.train_step
            yield from self._of_batch(batch, context, zero, batch.ended_at or trace.ended)
        kind, status, times = SpanKind.SERVER, _ERROR if failed else _UNSET, _times(zero, trace.started, trace.ended)
        parent = _caller(trace, context.trace_state)
        yield ReadableSpan(name, context, parent, resource, attributes, (), (), kind, None, status, *times, SCOPE)

    def _of_batch(self, batch: BatchTiming, context: SpanContext, zero: int, ended: float) -> Iterator[ReadableSpan]:
        own, resource = _child(context), self._resource
        shared: dict[str, Any] = {
            "policy_server.batch.requests": batch.requests,
            "policy_server.batch.rows": batch.rows,
        }
        kind, links, times = SpanKind.INTERNAL, self._links(batch, context), _times(zero, batch.taken_at, ended)
        yield ReadableSpan("batch", own, context, resource, shared, (), links, kind, None, _UNSET, *times, SCOPE)
        if batch.calls:
            calls: dict[str, Any] = {
                "policy_server.engine": batch.version.engine,
                "policy_server.engine.calls": batch.calls,
            }
            times = _times(zero, batch.engine_started_at, batch.engine_ended_at)
            yield ReadableSpan("engine", _child(context), own, resource, calls, *_INNER, *times, SCOPE)

    def _links(self, batch: BatchTiming, context: SpanContext) -> Sequence[Link]:
        """Returns links to the other requests that the batch was for, and that are traced."""
        if len(batch.timings) == 1:
            return ()
        others = [self._own(timing.trace) for timing in batch.timings if timing.trace is not None]
        return [Link(other) for other in others if other is not context]

    def _own(self, trace: RequestTrace) -> SpanContext:
        """Returns what the server's span of a request is referred to by."""
        if trace.own is None:
            parent = trace.parent
            if parent is None:
                trace.own = _context(trace_id_below(self._bound), _NO_STATE)
            else:
                trace.own = _context(
                    parent.trace_id, TraceState.from_header([parent.state]) if parent.state else _NO_STATE
                )
        return trace.own


def _caller(trace: RequestTrace, state: TraceState) -> SpanContext | None:
    parent = trace.parent
    if parent is None:
        return None
    return SpanContext(parent.trace_id, parent.span_id, True, TraceFlags(int(parent.sampled)), state)


def _times(zero: int, started: float, ended: float) -> tuple[int, int]:
    """Returns times by the clock of spans; `zero`: what that showed when `perf_counter` was 0."""
    return zero + int(started * 1e9), zero + int(ended * 1e9)


def _child(context: SpanContext) -> SpanContext:
    return _context(context.trace_id, context.trace_state)


def _context(trace_id: int, state: TraceState) -> SpanContext:
    return SpanContext(trace_id, random.getrandbits(64) or 1, False, _SAMPLED, state)
