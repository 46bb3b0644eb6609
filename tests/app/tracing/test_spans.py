"""The spans of a request: whose they are within, when they were, by which ids, and what they are linked to."""

from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from app.batching.timing import BatchTiming, Timing
from app.engine.fake import FakeEngine
from app.tracing.context import Parent
from app.tracing.sampling import Sampler
from app.tracing.spans import SpanMaker, batchmates, identify, request_attributes
from app.tracing.tracer import Asked, RequestTrace
from app.versions.lease import LoadedVersion, VersionInfo

CALLER = Parent(2**127 + 5, 2**63 + 9, sampled=True, state="a=1,b=2")
HALF = Sampler(follows=True, rate=0.5)
# What the clock of spans showed when that of requests was 0.
ZERO_NS = 1_700_000_000 * 10**9


def traced(parent: Parent | None = None, failed: bool = False, policy: str = "p") -> RequestTrace:
    """A request that began at 1 s, waited from 2 s on, and was over at 9 s; it has come to no batch."""
    trace = RequestTrace(parent)
    trace.policy, trace.function, trace.rows = policy, "action", 3
    trace.started, trace.queued_at, trace.ended = 1.0, 2.0, 9.0
    trace.ended_ns = ZERO_NS + 9 * 10**9
    trace.asked = lambda *arguments: Asked(*arguments), ("POST /action", {"url.path": "/action"}, failed)
    return trace


def batch_of(*timings: Timing, calls: int = 2) -> BatchTiming:
    """A batch that was taken at 3 s, ran from 4 to 6 s, and ended at 8 s."""
    loaded: Any = LoadedVersion(FakeEngine(), VersionInfo("v", "d", 700, "litert"))
    batch = BatchTiming(loaded, [*timings], len(timings) + 5, 64)
    batch.taken_at, batch.ended_at, batch.calls = 3.0, 8.0, calls
    batch.engine_started_at, batch.engine_ended_at = 4.0, 6.0
    return batch


def spans_of(trace: RequestTrace) -> dict[str, ReadableSpan]:
    return {span.name: span for span in SpanMaker(HALF, Resource({"service.name": "s"})).spans(trace)}


def seconds(span: ReadableSpan) -> tuple[float, float]:
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.start_time - ZERO_NS) / 10**9, (span.end_time - ZERO_NS) / 10**9


def test_each_station_is_within_the_one_that_waits_for_it_and_the_servers_comes_last() -> None:
    trace = traced()
    batch_of(trace)
    spans = spans_of(trace)
    assert list(spans) == ["queue", "batch", "engine", "POST /action"]
    above = {name: span.parent.span_id if span.parent else None for name, span in spans.items()}
    own, in_batch = spans["POST /action"].context.span_id, spans["batch"].context.span_id
    assert above == {"queue": own, "batch": own, "engine": in_batch, "POST /action": None}
    assert len({span.context.span_id for span in spans.values()}) == 4
    assert {span.context.trace_id for span in spans.values()} == {int.from_bytes(trace.trace_id, "big")}
    kinds = {name: span.kind for name, span in spans.items() if span.kind is not SpanKind.INTERNAL}
    assert kinds == {"POST /action": SpanKind.SERVER}
    assert {span.resource.attributes["service.name"] for span in spans.values()} == {"s"}


def test_times_are_those_of_the_stations_by_the_clock_of_spans() -> None:
    trace = traced()
    batch_of(trace)
    found = {name: seconds(span) for name, span in spans_of(trace).items()}
    assert found == {"queue": (2, 3), "batch": (3, 8), "engine": (4, 6), "POST /action": (1, 9)}


@pytest.mark.parametrize(
    ("station", "expected"),
    [
        ("refused", {"POST /action": (1, 9)}),
        ("queue", {"queue": (2, 9), "POST /action": (1, 9)}),
        ("batch", {"queue": (2, 3), "batch": (3, 9), "POST /action": (1, 9)}),
    ],
)
def test_where_a_request_ended_before_it_came_further_that_station_ended_with_it(
    station: str, expected: dict[str, tuple[float, float]]
) -> None:
    trace = traced(policy="" if station == "refused" else "p")
    if station == "batch":
        batch_of(trace, calls=0).ended_at = 0.0
    assert {name: seconds(span) for name, span in spans_of(trace).items()} == expected


def test_a_callers_trace_goes_on_with_its_state() -> None:
    trace = traced(CALLER)
    batch_of(trace)
    spans = spans_of(trace)
    above = spans["POST /action"].parent
    assert above is not None
    assert (above.trace_id, above.span_id, above.is_remote) == (CALLER.trace_id, CALLER.span_id, True)
    assert above.trace_flags.sampled
    assert {span.context.trace_id for span in spans.values()} == {CALLER.trace_id}
    assert all(span.context.trace_state.to_header() == "a=1,b=2" for span in spans.values())
    assert not any(span.context.is_remote for span in spans.values())


def test_a_caller_that_is_not_sampled_is_named_as_such() -> None:
    above = spans_of(traced(CALLER._replace(sampled=False)))["POST /action"].parent
    assert above is not None
    assert not above.trace_flags.sampled


def test_a_batch_is_linked_to_the_other_requests_that_are_traced() -> None:
    one, other, alone = traced(), traced(CALLER), traced()
    batch_of(one, Timing(), other)
    batch_of(alone)
    (link,) = spans_of(one)["batch"].links
    root = spans_of(other)["POST /action"]
    assert (link.context.trace_id, link.context.span_id) == (CALLER.trace_id, root.context.span_id)
    assert [len(spans_of(each)["batch"].links) for each in (other, alone)] == [1, 0]


def test_ids_are_given_once_whoever_asks_first() -> None:
    one, other = traced(), traced()
    batch = batch_of(one, other)
    assert [*batchmates(batch, one, 2**64)] == [other]
    given = other.trace_id, other.span_ids
    identify(other, 2**64)
    assert (other.trace_id, other.span_ids) == given
    assert (len(other.trace_id), len(other.span_ids), one.span_ids) == (16, 32, b"")


def test_a_trace_that_begins_here_has_an_id_that_others_sample_too() -> None:
    traces = [traced() for _ in range(64)]
    for trace in traces:
        identify(trace, HALF.bound)
    assert all(HALF._replace(follows=False).takes(Parent(int.from_bytes(t.trace_id, "big"), 1, False)) for t in traces)


@pytest.mark.parametrize(("failed", "status"), [(False, StatusCode.UNSET), (True, StatusCode.ERROR)])
def test_the_servers_span_says_whether_it_failed_and_no_other_one_does(failed: bool, status: StatusCode) -> None:
    trace = traced(failed=failed)
    batch_of(trace)
    spans = spans_of(trace)
    assert spans.pop("POST /action").status.status_code is status
    assert {span.status.status_code for span in spans.values()} == {StatusCode.UNSET}


def test_what_is_said_of_a_request_is_what_is_known_of_it() -> None:
    asked = Asked("GET", {"url.path": "/"}, False)
    of_policy = {"policy_server.policy": "p", "policy_server.function": "action", "policy_server.rows": 3}
    of_version = {"policy_server.version": "v", "policy_server.train_step": 700}
    assert request_attributes(asked, "", "action", 3, None) == {"url.path": "/"}
    assert request_attributes(asked, "p", "action", 3, None) == {"url.path": "/"} | of_policy
    assert request_attributes(asked, "p", "action", 3, ("v", 700)) == {"url.path": "/"} | of_policy | of_version
    assert asked.attributes == {"url.path": "/"}
    trace = traced()
    batch_of(trace)
    spans = spans_of(trace)
    assert dict(spans["POST /action"].attributes or {}) == {"url.path": "/action"} | of_policy | of_version
    assert dict(spans["batch"].attributes or {}) == {"policy_server.batch.requests": 6, "policy_server.batch.rows": 64}
