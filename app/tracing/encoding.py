"""Requests that were traced → the bytes of an ExportTraceServiceRequest: opentelemetry/proto/trace/v1/trace.proto.

The library's own encoder takes 80 µs for the spans of one request, more than the request itself, and Python's threads
share a core. Here they are written from the request's times and ids; what many have the same is written once.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, SpanKind, StatusCode

from app.batching.timing import BatchTiming
from app.tracing.sampling import Sampler
from app.tracing.spans import (
    SCOPE,
    batch_attributes,
    batchmates,
    engine_attributes,
    identify,
    request_attributes,
    state_of,
    version_of,
    zero_of,
)
from app.tracing.tracer import Asked, RequestTrace

# That it is known whether the span above is another server's; and that it is.
_HAS_IS_REMOTE, _REMOTE_FLAGS = 0x100, 0x300
# Fields 1, 2, 4, 7, 8 and 16 of a span: ids of the trace, the span and the one above, times, flags; in any order.
_INNER = struct.Struct("<H16sH8sH8sBQBQHI")
_ROOT = struct.Struct("<H16sH8sBQBQHI")
# Field 13 of a span, a link: ids of the trace and the span, flags.
_LINK = struct.Struct("<HH16sH8sBI")
_LINK_HEAD = 0x6A | _LINK.size - 2 << 8


class Encoder:
    """Encodes traces of this process; one thread at a time."""

    def __init__(self, sampler: Sampler, resource: Resource) -> None:
        self._bound = sampler.bound
        # What stands around spans, as the library writes it.
        example = ReadableSpan("", SpanContext(1, 1, False), resource=resource, instrumentation_scope=SCOPE)
        whole = encode_spans([example]).resource_spans[0]
        scope = whole.scope_spans[0]
        self._before, self._after = _field(0x0A, whole.resource.SerializeToString()), _text(0x1A, whole.schema_url)
        self._scope, self._scope_url = _field(0x0A, scope.scope.SerializeToString()), _text(0x1A, scope.schema_url)

    def encoded(self, traces: Sequence[RequestTrace]) -> bytes:
        """Returns the bytes that are to be sent of requests that are over."""
        parts = [self._scope]
        for trace in traces:
            self._add(trace, parts)
        parts.append(self._scope_url)
        return _field(0x0A, b"".join((self._before, _field(0x12, b"".join(parts)), self._after)))

    def _add(self, trace: RequestTrace, parts: list[bytes]) -> None:
        """Adds the spans of a trace, the server's last."""
        identify(trace, self._bound)
        parent, batch, zero = trace.parent, trace.batch, zero_of(trace)
        if parent is None and batch is not None and batch.calls and trace.policy and len(batch.timings) == 1:
            parts.append(_usual(trace, batch, zero))
            return
        trace_id, span_ids = trace.trace_id, trace.span_ids
        own, in_batch = span_ids[:8], span_ids[16:24]
        state = _state(parent.state) if parent is not None and parent.state else b""
        if trace.policy:
            queued_to = trace.ended if batch is None else batch.taken_at
            times = _times(zero, trace.queued_at, queued_to)
            parts += _span(_inner(trace_id, span_ids[8:16], own, *times), _queue(), state)
        if batch is not None:
            times, same = (
                _times(zero, batch.taken_at, batch.ended_at or trace.ended),
                _batch(batch.requests, batch.rows),
            )
            parts += _span(_inner(trace_id, in_batch, own, *times), same, state + self._links(batch, trace))
            if batch.calls:
                times, same = (
                    _times(zero, batch.engine_started_at, batch.engine_ended_at),
                    _engine(batch.version.engine, batch.calls),
                )
                parts += _span(_inner(trace_id, span_ids[24:], in_batch, *times), same, state)
        times = _times(zero, trace.started, trace.ended)
        if parent is None:
            record = _ROOT.pack(0x100A, trace_id, 0x0812, own, 0x39, times[0], 0x41, times[1], 0x0185, _HAS_IS_REMOTE)
        else:
            record = _inner(trace_id, own, parent.span_id.to_bytes(8, "big"), *times, _REMOTE_FLAGS)
        same = _server(*trace.asked, trace.policy, trace.function, trace.rows, version_of(batch))
        parts += _span(record, same, state)

    def _links(self, batch: BatchTiming, trace: RequestTrace) -> bytes:
        links = [
            _LINK.pack(_LINK_HEAD, 0x100A, other.trace_id, 0x0812, other.span_ids[:8], 0x35, _HAS_IS_REMOTE)
            for other in batchmates(batch, trace, self._bound)
        ]
        return b"".join(links)


def _usual(trace: RequestTrace, batch: BatchTiming, zero: int) -> bytes:
    """The four spans of a request without a caller and without links, in less time."""
    trace_id, ids = trace.trace_id, trace.span_ids
    own, in_batch = ids[:8], ids[16:24]
    taken_at, ended_at = zero + int(batch.taken_at * 1e9), zero + int((batch.ended_at or trace.ended) * 1e9)
    same = *trace.asked, trace.policy, trace.function, trace.rows, version_of(batch)
    form, (first, second, third, fourth, last) = _form(
        same, batch.requests, batch.rows, batch.version.engine, batch.calls
    )
    return form.pack(
        first, trace_id, 0x0812, ids[8:16], 0x0822, own, 0x39, zero + int(trace.queued_at * 1e9), 0x41, taken_at,
        second, trace_id, 0x0812, in_batch, 0x0822, own, 0x39, taken_at, 0x41, ended_at,
        third, trace_id, 0x0812, ids[24:], 0x0822, in_batch, 0x39, zero + int(batch.engine_started_at * 1e9), 0x41,
        zero + int(batch.engine_ended_at * 1e9),
        fourth, trace_id, 0x0812, own, 0x39, zero + int(trace.started * 1e9), 0x41, zero + int(trace.ended * 1e9),
        last,
    )  # fmt: skip


@functools.lru_cache(maxsize=1024)
def _form(same: Any, requests: int, rows: int, engine: str, calls: int) -> tuple[struct.Struct, tuple[bytes, ...]]:
    """The form of four spans as in `_usual`, and the bytes between what changes from request to request."""
    sames = _queue(), _batch(requests, rows), _engine(engine, calls), _server(*same)
    heads = [
        _head(0x12, form.size + len(one)) + b"\x0a\x10"
        for form, one in zip((_INNER, _INNER, _INNER, _ROOT), sames, strict=True)
    ]
    tails = [struct.pack("<HI", 0x0185, _HAS_IS_REMOTE) + one for one in sames]
    between = tuple(tail + head for tail, head in zip([b"", *tails], [*heads, b""], strict=True))
    first, second, third, fourth, last = (f"{len(one)}s" for one in between)
    inner = "16sH8sH8sBQBQ"
    return struct.Struct(f"<{first}{inner}{second}{inner}{third}{inner}{fourth}16sH8sBQBQ{last}"), between


def _times(zero: int, started: float, ended: float) -> tuple[int, int]:
    return zero + int(started * 1e9), zero + int(ended * 1e9)


def _inner(
    trace_id: bytes, span_id: bytes, above: bytes, started: int, ended: int, flags: int = _HAS_IS_REMOTE
) -> bytes:
    return _INNER.pack(0x100A, trace_id, 0x0812, span_id, 0x0822, above, 0x39, started, 0x41, ended, 0x0185, flags)


def _span(record: bytes, same: bytes, more: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    return _head(0x12, len(record) + len(same) + len(more)), record, same, more


# What many spans have the same.


@functools.lru_cache(maxsize=1)
def _queue() -> bytes:
    return _same("queue", SpanKind.INTERNAL, False, {})


@functools.lru_cache(maxsize=1024)
def _batch(requests: int, rows: int) -> bytes:
    return _same("batch", SpanKind.INTERNAL, False, batch_attributes(requests, rows))


@functools.lru_cache(maxsize=256)
def _engine(engine: str, calls: int) -> bytes:
    return _same("engine", SpanKind.INTERNAL, False, engine_attributes(engine, calls))


@functools.lru_cache(maxsize=1024)
def _server(
    function: Callable[..., Asked], arguments: tuple[Any, ...], policy: str, name: str, rows: int, version: Any
) -> bytes:
    asked = function(*arguments)
    return _same(asked.name, SpanKind.SERVER, asked.failed, request_attributes(asked, policy, name, rows, version))


def _same(name: str, kind: SpanKind, failed: bool, attributes: dict[str, Any]) -> bytes:
    status = b"\x7a\x02\x18%c" % StatusCode.ERROR.value if failed else b"\x7a\x00"
    said = [_field(0x4A, _text(0x0A, key) + _field(0x12, _worth(value))) for key, value in attributes.items()]
    return b"".join((_text(0x2A, name), b"0%c" % (kind.value + 1), status, *said))


def _worth(value: str | int) -> bytes:
    return _field(0x0A, value.encode(errors="replace")) if isinstance(value, str) else b"\x18" + _varint(value % 2**64)


def _state(text: str) -> bytes:
    return _text(0x1A, ",".join([f"{key}={value}" for key, value in state_of(text).items()]))


def _text(tag: int, text: str) -> bytes:
    return _field(tag, text.encode(errors="replace")) if text else b""


def _field(tag: int, data: bytes) -> bytes:
    return _head(tag, len(data)) + data


@functools.lru_cache(maxsize=1024)
def _head(tag: int, size: int) -> bytes:
    return bytes((tag,)) + _varint(size)


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)
