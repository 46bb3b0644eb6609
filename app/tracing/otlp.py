"""Requests that were traced → OTLP over HTTP (protobuf), in a thread of the library's.

What cannot be sent is dropped, and logged once.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from app import __version__
from app.tracing.encoding import Encoder
from app.tracing.sampling import Sampler, sampler_from
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

    def __init__(self, variables: Mapping[str, str], sampler: Sampler) -> None:
        self._where = variables.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or variables.get(
            "OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318"
        )
        within = resource()
        self._maker, self._encoder = SpanMaker(sampler, within), Encoder(sampler, within)
        self._library: Any = OTLPSpanExporter()
        self._client: Any = getattr(self._library, "_client", None)
        self._fails = False

    def export(self, traces: Sequence[Any]) -> SpanExportResult:
        """See `SpanExporter`; takes requests in the place of spans, which are made here."""
        if self._client is None:  # another version of the library
            spans = [span for trace in traces for span in self._maker.spans(trace)]
            result: SpanExportResult = self._library.export(spans)
        else:
            sent = self._client.export(self._encoder.encoded(traces))
            result = SpanExportResult.SUCCESS if sent.success else SpanExportResult.FAILURE
        for (
            trace
        ) in traces:  # a batch and its requests refer to each other, which the garbage collector would have to find
            trace.batch = None
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
        self._exporter = OtlpExporter(variables, sampler)
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
