"""A request that was traced → its spans: of the server, and within it queue, batch and engine.

Spans of the library, for exporters that take these; `otlp` writes the same ones in less time.
"""

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
from app.tracing.tracer import Asked, RequestTrace

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
        identify(trace, self._bound)
        parent, batch, resource, zero = trace.parent, trace.batch, self._resource, zero_of(trace)
        state = state_of(parent.state) if parent is not None and parent.state else _NO_STATE
        own, in_queue, in_batch, in_engine = (_context(trace, number, state) for number in range(4))
        if trace.policy:
            times = _times(zero, trace.queued_at, trace.ended if batch is None else batch.taken_at)
            yield ReadableSpan("queue", in_queue, own, resource, {}, *_INNER, *times, SCOPE)
        if batch is not None:
            said, links = batch_attributes(batch.requests, batch.rows), self._links(batch, trace)
            times, kind = _times(zero, batch.taken_at, batch.ended_at or trace.ended), SpanKind.INTERNAL
            yield ReadableSpan("batch", in_batch, own, resource, said, (), links, kind, None, _UNSET, *times, SCOPE)
            if batch.calls:
                said = engine_attributes(batch.version.engine, batch.calls)
                times = _times(zero, batch.engine_started_at, batch.engine_ended_at)
                yield ReadableSpan("engine", in_engine, in_batch, resource, said, *_INNER, *times, SCOPE)
        function, arguments = trace.asked
        asked = function(*arguments)
        said = request_attributes(asked, trace.policy, trace.function, trace.rows, version_of(batch))
        status, times = _ERROR if asked.failed else _UNSET, _times(zero, trace.started, trace.ended)
        above = _caller(trace, state)
        kind = SpanKind.SERVER
        yield ReadableSpan(asked.name, own, above, resource, said, (), (), kind, None, status, *times, SCOPE)

    def _links(self, batch: BatchTiming, trace: RequestTrace) -> Sequence[Link]:
        """Returns links to the other requests that the batch was for, and that are traced."""
        return [Link(_context(other, 0, _NO_STATE)) for other in batchmates(batch, trace, self._bound)]


def identify(trace: RequestTrace, bound: int) -> None:
    """Gives a trace its ids, where it has none."""
    if not trace.span_ids:
        parent = trace.parent
        trace_id = trace_id_below(bound) if parent is None else parent.trace_id
        trace.trace_id, trace.span_ids = trace_id.to_bytes(16, "big"), random.getrandbits(256).to_bytes(32, "big")


def batchmates(batch: BatchTiming, trace: RequestTrace, bound: int) -> Sequence[RequestTrace]:
    """Returns the other requests that a batch was for, and that are traced; they have ids."""
    if len(batch.timings) == 1:
        return ()
    others = [other for other in batch.timings if other is not trace and isinstance(other, RequestTrace)]
    for other in others:
        identify(other, bound)
    return others


def zero_of(trace: RequestTrace) -> int:
    """Returns what the clock of spans showed when `perf_counter` was 0."""
    return trace.ended_ns - int(trace.ended * 1e9)


def version_of(batch: BatchTiming | None) -> tuple[str, int] | None:
    """Returns name and train step of the version on which a batch ran."""
    return None if batch is None else (batch.version.name, batch.version.train_step)


def state_of(text: str) -> TraceState:
    """Returns a caller's `tracestate`, without what is none."""
    return TraceState.from_header([text])


def request_attributes(
    asked: Asked, policy: str, function: str, rows: int, version: tuple[str, int] | None
) -> dict[str, Any]:
    """Returns the attributes of the server's span."""
    attributes = {**asked.attributes}
    if policy:
        attributes |= {"policy_server.policy": policy, "policy_server.function": function, "policy_server.rows": rows}
    if version is not None:
        attributes |= {"policy_server.version": version[0], "policy_server.train_step": version[1]}
    return attributes


def batch_attributes(requests: int, rows: int) -> dict[str, Any]:
    """Returns the attributes of a batch's span."""
    return {"policy_server.batch.requests": requests, "policy_server.batch.rows": rows}


def engine_attributes(engine: str, calls: int) -> dict[str, Any]:
    """Returns the attributes of the span of an engine's calls."""
    return {"policy_server.engine": engine, "policy_server.engine.calls": calls}


def _caller(trace: RequestTrace, state: TraceState) -> SpanContext | None:
    parent = trace.parent
    if parent is None:
        return None
    return SpanContext(parent.trace_id, parent.span_id, True, TraceFlags(int(parent.sampled)), state)


def _times(zero: int, started: float, ended: float) -> tuple[int, int]:
    """Returns times by the clock of spans."""
    return zero + int(started * 1e9), zero + int(ended * 1e9)


def _context(trace: RequestTrace, number: int, state: TraceState) -> SpanContext:
    span_id = int.from_bytes(trace.span_ids[8 * number : 8 * number + 8], "big")
    return SpanContext(int.from_bytes(trace.trace_id, "big"), span_id, False, _SAMPLED, state)
