"""Requests that were traced → OTLP over HTTP (protobuf), in a thread of the library's.

What cannot be sent is dropped, and logged once. The library's own encoder takes 80 µs for the spans of one request,
more than the request itself, and Python's threads share a core. The one here takes an eighth; it knows the spans of
`SpanMaker` alone, which have one resource and scope.
"""

from __future__ import annotations

import functools
import logging
import os
import struct
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanContext, SpanKind, StatusCode

from app import __version__
from app.tracing.sampling import sampler_from
from app.tracing.spans import SpanMaker
from app.tracing.tracer import Tracer

log = logging.getLogger("policy_server.tracing")

# How long a stop waits for what is left to be sent.
_FAREWELL_S = 2.0
_SERVICE = "policy-server"
# Libraries that have a line for each span that is dropped, each odd answer of a collector, and each `tracestate` of a
# client that is none, with all of it.
_LOUD = ("opentelemetry.exporter", "opentelemetry.sdk._shared_internal", "opentelemetry.trace.span", "urllib3")


class OtlpExporter(SpanExporter):
    """Sends the spans of requests to where OpenTelemetry's variables say."""

    def __init__(self, variables: Mapping[str, str], maker: SpanMaker) -> None:
        self._where = variables.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or variables.get(
            "OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318"
        )
        self._maker = maker
        self._library: Any = OTLPSpanExporter()
        self._client: Any = getattr(self._library, "_client", None)
        self._fails = False

    def export(self, traces: Sequence[Any]) -> SpanExportResult:
        """See `SpanExporter`; takes requests in the place of spans, which are made here."""
        spans = [span for trace in traces for span in self._maker.spans(trace)]
        if self._client is None:  # another version of the library
            result: SpanExportResult = self._library.export(spans)
        else:
            sent = self._client.export(encoded(spans))
            result = SpanExportResult.SUCCESS if sent.success else SpanExportResult.FAILURE
        self._note(result is SpanExportResult.FAILURE)
        return result

    def _note(self, fails: bool) -> None:
        if fails and not self._fails:
            log.warning("traces cannot be sent to %s: they are dropped until it takes them", self._where)
        elif self._fails and not fails:
            log.info("traces are sent again")
        self._fails = fails

    def shutdown(self) -> None:
        """Gives up what is being sent."""
        self._library.shutdown()


class Sending:
    """A tracer, and the thread that sends the spans of its requests."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        sampler = sampler_from(variables)
        self._exporter = OtlpExporter(variables, SpanMaker(sampler, resource()))
        self._processor = BatchSpanProcessor(self._exporter)
        for name in _LOUD:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self.tracer = Tracer(sampler, self._processor.on_end)

    def close(self) -> None:
        """Sends what is left, within a bound; blocks."""
        farewell = threading.Thread(target=self._processor.shutdown, daemon=True)
        farewell.start()
        farewell.join(_FAREWELL_S)
        if farewell.is_alive():
            self._exporter.shutdown()


def resource() -> Resource:
    """Returns what this process is called in traces; OpenTelemetry's variables win."""
    given = OTELResourceDetector().detect().attributes
    own: dict[str, Any] = {"service.name": _SERVICE, "service.version": __version__, "process.pid": os.getpid()}
    return Resource.create({**own, **given})


# From here on: the encoding, as in opentelemetry/proto/trace/v1/trace.proto.

# That it is known whether the span above is another server's; and that it is.
_HAS_IS_REMOTE, _REMOTE_FLAGS = 0x100, 0x300
# Fields 1, 2, 4, 7, 8 and 16 of a span: ids of the trace, the span and the one above, times, flags; in any order.
_INNER = struct.Struct("<H16sH8sH8sBQBQHI")
_ROOT = struct.Struct("<H16sH8sBQBQHI")
_LINK_FLAGS = struct.Struct("<BI")  # field 6 of a link


def encoded(spans: Sequence[ReadableSpan]) -> bytes:
    """Returns an ExportTraceServiceRequest of spans that have one resource and one scope."""
    whole = encode_spans(spans[:1]).resource_spans[0]
    scope = whole.scope_spans[0]
    head = _field(0x0A, scope.scope.SerializeToString())
    tail = _text(0x1A, scope.schema_url)
    body = b"".join([head, *[_field(0x12, _span(span)) for span in spans], tail])
    around = _field(0x0A, whole.resource.SerializeToString()), _field(0x12, body), _text(0x1A, whole.schema_url)
    return _field(0x0A, b"".join(around))


def _span(span: ReadableSpan) -> bytes:
    context, parent, started, ended = span.context, span.parent, span.start_time or 0, span.end_time or 0
    assert context is not None
    trace_id, span_id = context.trace_id.to_bytes(16, "big"), context.span_id.to_bytes(8, "big")
    if parent is None:
        own = _ROOT.pack(0x100A, trace_id, 0x0812, span_id, 0x39, started, 0x41, ended, 0x0185, _HAS_IS_REMOTE)
    else:
        above, flags = parent.span_id.to_bytes(8, "big"), _REMOTE_FLAGS if parent.is_remote else _HAS_IS_REMOTE
        own = _INNER.pack(0x100A, trace_id, 0x0812, span_id, 0x0822, above, 0x39, started, 0x41, ended, 0x0185, flags)
    attributes = tuple((span.attributes or {}).items())
    whole = own + _same(span.name, span.kind, span.status.status_code, attributes)
    if context.trace_state:
        whole += _text(0x1A, ",".join([f"{key}={value}" for key, value in context.trace_state.items()]))
    if span.links:
        whole += b"".join([_link(link.context) for link in span.links])
    return whole


@functools.lru_cache(maxsize=1024)
def _same(name: str, kind: SpanKind, status: StatusCode, attributes: tuple[tuple[str, Any], ...]) -> bytes:
    """Returns what many spans have the same."""
    code = b"\x7a\x02\x18%c" % status.value if status.value else b"\x7a\x00"
    return b"".join((_text(0x2A, name), b"0%c" % (kind.value + 1), code, *[_attribute(*one) for one in attributes]))


def _link(context: SpanContext) -> bytes:
    flags = _REMOTE_FLAGS if context.is_remote else _HAS_IS_REMOTE
    ids = context.trace_id.to_bytes(16, "big"), b"\x12\x08", context.span_id.to_bytes(8, "big")
    return _field(0x6A, b"".join((b"\x0a\x10", *ids, _LINK_FLAGS.pack(0x35, flags))))


@functools.lru_cache(maxsize=1024)
def _attribute(key: str, value: str | int) -> bytes:
    worth = _field(0x0A, value.encode(errors="replace")) if isinstance(value, str) else b"\x18" + _varint(value % 2**64)
    return _field(0x4A, _text(0x0A, key) + _field(0x12, worth))


@functools.lru_cache(maxsize=256)
def _text(tag: int, text: str) -> bytes:
    return _field(tag, text.encode(errors="replace")) if text else b""


def _field(tag: int, data: bytes) -> bytes:
    size = len(data)
    if size < 0x80:
        return bytes((tag, size)) + data
    if size < 0x4000:  # as below, in less time
        return bytes((tag, size & 0x7F | 0x80, size >> 7)) + data
    return bytes((tag,)) + _varint(size) + data


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)
