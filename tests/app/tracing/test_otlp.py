"""The encoding of spans beside the library's own, and what becomes of those that cannot be sent."""

import gc
import random
import socket
import weakref
from time import perf_counter
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan

from app.batching.timing import BatchTiming
from app.engine.fake import FakeEngine
from app.settings import telemetry_variables
from app.tracing import otlp
from app.tracing.context import Parent
from app.tracing.encoding import Encoder
from app.tracing.otlp import OtlpExporter, Sending, resource
from app.tracing.sampling import Sampler
from app.tracing.spans import SpanMaker
from app.tracing.tracer import Asked, RequestTrace, Tracer
from app.versions.lease import LoadedVersion, VersionInfo

PARENT = Parent(2**127 + 5, 2**63 + 9, sampled=True, state="a=1,b=2")


SAMPLER = Sampler(follows=True, rate=1.0)
Request = tuple[Parent | None, str, dict[str, Any], bool]


def traces_of(*requests: Request) -> list[RequestTrace]:
    """Those of requests that shared one batch."""
    traces: list[RequestTrace] = []
    tracer = Tracer(SAMPLER, traces.append)
    begun = [RequestTrace(parent) for parent, *_ in requests]
    loaded: Any = LoadedVersion(FakeEngine(), VersionInfo("v", "d", 2**40, "litert"))
    for trace in begun:
        trace.policy, trace.function, trace.queued_at = "p", "action", trace.started
    engine = BatchTiming(loaded, [*begun], 300, 4096)
    engine.initial_state(1)
    engine.batch_ended()
    for trace, (_, name, attributes, failed) in zip(begun, requests, strict=True):
        tracer.end(trace, asked, name, tuple(attributes.items()), failed)
    return traces


def asked(name: str, attributes: tuple[tuple[str, Any], ...], failed: bool) -> Asked:
    return Asked(name, dict(attributes), failed)


def spans_of(*traces: RequestTrace) -> list[ReadableSpan]:
    maker = SpanMaker(SAMPLER, resource())
    return [span for trace in traces for span in maker.spans(trace)]


def encoded(*traces: RequestTrace) -> ExportTraceServiceRequest:
    return ExportTraceServiceRequest.FromString(Encoder(SAMPLER, resource()).encoded(traces))


def test_the_bytes_are_those_of_the_librarys_own_encoder() -> None:
    traces = traces_of(
        (None, "POST /action", {"url.path": "/action", "http.response.status_code": 200}, False),
        (PARENT, "POST /ä/" + "long" * 100, {"url.path": "/" + "p" * 5000, "error.type": "", "rows": 0}, True),
        (PARENT._replace(state=""), "GET", {"large": 2**62, "lone": "\u2028"}, False),
    )
    ours, spans = encoded(*traces), spans_of(*traces)
    assert len(spans) == 12
    assert sum(len(span.links) for span in spans) == 6
    assert ours == encode_spans(spans)


@pytest.mark.parametrize("parent", [None, PARENT])
@pytest.mark.parametrize("station", ["no policy", "queue", "batch"])
def test_a_request_that_has_not_come_to_the_engine_has_the_spans_of_where_it_was(
    parent: Parent | None, station: str
) -> None:
    (trace,) = traces_of((parent, "GET", {}, False))
    assert trace.batch is not None
    if station == "batch":
        trace.batch.calls, trace.batch.ended_at = 0, 0.0
    else:
        trace.batch, trace.policy = None, trace.policy if station == "queue" else ""
    ours, spans = encoded(trace), spans_of(trace)
    assert len(spans) == {"no policy": 1, "queue": 2, "batch": 3}[station]
    assert ours == encode_spans(spans)


def test_a_request_is_let_go_when_it_is_sent() -> None:
    exporter = OtlpExporter({}, SAMPLER)
    exporter._client = type("Answers", (), {"export": lambda *_: type("Sent", (), {"success": True})})
    traces = traces_of((None, "GET", {}, False), (None, "GET", {}, False))
    gone = [weakref.ref(trace) for trace in traces]
    gc.disable()
    try:
        for _ in range(2):  # those of one batch may be sent one after the other
            exporter.export([traces.pop()])
        assert [one() for one in gone] == [None, None]
    finally:
        gc.enable()


def test_the_librarys_client_is_there_and_else_its_encoder() -> None:
    exporter = OtlpExporter({}, SAMPLER)
    assert callable(exporter._client.export)
    exporter._client = None
    exporter._library.export = lambda spans: ("sent", spans)
    assert exporter.export([]) == ("sent", [])


def test_a_collector_that_cannot_be_reached_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.01")
    with caplog.at_level("INFO"):
        sending = Sending(telemetry_variables())
        traces = traces_of((None, "GET", {}, False))
        for _ in range(3):
            sending._exporter.export(traces)
        sending._exporter._client = type("Answers", (), {"export": lambda *_: type("Sent", (), {"success": True})})
        sending._exporter.export(traces)
        sending.close()
    assert [record.getMessage() for record in caplog.records] == [
        f"traces cannot be sent to http://127.0.0.1:{port}: they are dropped until it takes them",
        "traces are sent again",
    ]


ODD_STATES = [
    "x" * 30_000,
    "a=\xff\xfe",
    ",".join(f"k{number}=v" for number in range(3000)),
    "a=1,a=2",
    "a= \t b",
    "A=1",
]


@pytest.mark.parametrize("state", ODD_STATES, ids=range(len(ODD_STATES)))
def test_a_callers_state_that_is_none_is_left_out_and_not_logged(state: str, caplog: pytest.LogCaptureFixture) -> None:
    Sending({}).close()
    traces = traces_of((PARENT._replace(state=state), "GET", {}, False))
    ours = encoded(*traces)
    assert ours == encode_spans(spans_of(*traces))
    assert caplog.records == []
    assert ours.ByteSize() < 4096


def test_more_than_the_queue_holds_is_dropped_and_a_stop_does_not_wait_for_long(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(otlp, "_FAREWELL_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes connections, and answers nothing
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        sending = Sending({})
        (trace,) = traces_of((None, "GET", {}, False))
        for _ in range(10_000):
            sending.tracer.end(trace, asked, "GET", (), False)
        started = perf_counter()
        sending.close()
        assert perf_counter() - started < 8  # the library's own bound for an answer is 10 s, and for a stop 30 s
    assert len(sending._processor._batch_processor._queue) <= 2048
    # Not a line for each: one, where sending has failed by now.
    assert [record.name for record in caplog.records] in ([], ["policy_server.tracing"])


def test_opentelemetrys_variables_win(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resource().attributes["service.name"] == "policy-server"
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,service.version=9")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "simulators")
    found = resource().attributes
    assert found["service.name"] == "simulators"
    assert found["service.version"] == "9"
    assert found["deployment.environment.name"] == "test"
    assert found["telemetry.sdk.language"] == "python"


def test_ids_are_random() -> None:
    random.seed(1)
    spans = spans_of(*traces_of(*[(None, "GET", {}, False)] * 50))
    assert len({span.context.span_id for span in spans if span.context}) == len(spans)
