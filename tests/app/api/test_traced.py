"""Traces of a worker's requests, by an exporter that keeps them in memory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from app.api import traced as traced_module
from app.api.fast_path import FastPath
from app.dialects.open_inference_messages import INFERENCE, Messages
from app.tracing.sampling import Sampler
from app.tracing.spans import SpanMaker
from app.tracing.tracer import Tracer
from app.wire.limits import SMALL_BYTES
from tests.support.ports import port_below_outgoing
from tests.support.worker_in_process import Running, running

pytestmark = pytest.mark.anyio

BODY = b'{"observation":[1,2,3,4]}'
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{CALLER}-01", f"00-{TRACE}-{CALLER}-00"
# Takes the framework rather than the fast path.
SLOWLY = "Expect: 100-continue"


class Traced:
    """A worker whose spans are kept."""

    def __init__(self, there: Running, exporter: InMemorySpanExporter) -> None:
        self.there, self._exporter = there, exporter

    async def ask(self, target: str, *headers: str, **more: Any) -> int:
        """Sends a request on a connection of its own; returns the status."""
        return int((await self.answer(target, *headers, **more)).split()[1])

    async def answer(self, target: str, *headers: str, body: bytes = BODY, method: str = "POST") -> bytes:
        """Sends a request on a connection of its own; returns the bytes of its answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.there.port)
        lines = [
            f"{method} {target} HTTP/1.1",
            "Host: h",
            f"Content-Length: {len(body)}",
            "Connection: close",
            *headers,
        ]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        answer = await reader.read()
        writer.close()
        return answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")

    def spans(self) -> list[ReadableSpan]:
        """Those since the last time."""
        found = list(self._exporter.get_finished_spans())
        self._exporter.clear()
        return found

    async def spans_of(self, target: str, *headers: str, **more: Any) -> dict[str, ReadableSpan]:
        """Asks, and returns the spans of that by their names; the server's as "server"."""
        await self.ask(target, *headers, **more)
        return {"server" if span.kind is SpanKind.SERVER else span.name: span for span in self.spans()}


@asynccontextmanager
async def traced(
    monkeypatch: pytest.MonkeyPatch, follows: bool = True, rate: float = 1.0, **settings: Any
) -> AsyncIterator[Traced]:
    exporter, sampler = InMemorySpanExporter(), Sampler(follows, rate)
    maker = SpanMaker(sampler, Resource({}))

    class Kept:
        def __init__(self, _: object) -> None:
            self.tracer = Tracer(sampler, lambda trace: exporter.export(tuple(maker.spans(trace))))

        def close(self) -> None: ...

    monkeypatch.setattr(traced_module, "Sending", Kept)
    async with running(monkeypatch, traces=True, **settings) as there:
        yield Traced(there, exporter)


@pytest.mark.parametrize("way", [(), (SLOWLY,)])
async def test_a_request_has_spans_for_queue_batch_and_engine(monkeypatch: pytest.MonkeyPatch, way: Any) -> None:
    async with traced(monkeypatch) as worker:
        spans = await worker.spans_of("/v1/policies/echo/action", *way)
    server, queue, batch, engine = (spans[name] for name in ("server", "queue", "batch", "engine"))
    assert server.name == "POST /v1/policies/{policy}/action"
    assert server.kind is SpanKind.SERVER
    assert server.parent is None
    assert server.status.status_code is StatusCode.UNSET
    assert dict(server.attributes or {}) == {
        "http.request.method": "POST",
        "url.path": "/v1/policies/echo/action",
        "url.scheme": "http",
        "http.route": "/v1/policies/{policy}/action",
        "http.response.status_code": 200,
        "policy_server.policy": "echo",
        "policy_server.function": "action",
        "policy_server.rows": 1,
        "policy_server.version": "export",
        "policy_server.train_step": 7,
    }
    assert (queue.parent, batch.parent, engine.parent) == (server.context, server.context, batch.context)
    assert dict(batch.attributes or {}) == {"policy_server.batch.requests": 1, "policy_server.batch.rows": 1}
    assert dict(engine.attributes or {}) == {"policy_server.engine": "echo", "policy_server.engine.calls": 1}
    assert len({span.context.trace_id for span in spans.values() if span.context}) == 1
    times: Any = (
        server.start_time, queue.start_time, queue.end_time, batch.start_time, engine.start_time, engine.end_time,
        batch.end_time, server.end_time,
    )  # fmt: skip
    # The queue ends where the batch starts, and nothing lies outside of what it belongs to.
    assert list(times) == sorted(times)
    assert queue.end_time == batch.start_time


async def test_a_batch_is_linked_with_the_other_traced_requests_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with traced(monkeypatch) as worker:
        batcher = worker.there.worker._service.policies[0].batcher
        await batcher.hold(60)
        asked = [asyncio.create_task(worker.ask("/action")) for _ in range(3)]
        asked.append(asyncio.create_task(worker.ask("/action", f"traceparent: {UNSAMPLED}")))
        while len(batcher._waiting) < 4:
            await asyncio.sleep(0)
        batcher.release()
        assert await asyncio.gather(*asked) == [200] * 4
        spans = worker.spans()
    servers = {span.context.span_id for span in spans if span.kind is SpanKind.SERVER and span.context}
    batches = [span for span in spans if span.name == "batch"]
    assert (len(servers), len(batches)) == (3, 3)
    for batch in batches:
        assert batch.parent is not None
        assert {link.context.span_id for link in batch.links} == servers - {batch.parent.span_id}
        assert batch.attributes == {"policy_server.batch.requests": 4, "policy_server.batch.rows": 4}


@pytest.mark.parametrize("way", [(), (SLOWLY,)])
async def test_a_callers_trace_goes_on(monkeypatch: pytest.MonkeyPatch, way: Any) -> None:
    async with traced(monkeypatch, rate=0.0) as worker:
        headers = (f"traceparent: {SAMPLED}", "tracestate: a=1", "tracestate: b=2", *way)
        for _ in range(2):  # the second time on a head that is known
            spans = await worker.spans_of("/action", *headers)
            server = spans["server"]
            assert len(spans) == 4
            assert server.parent is not None
            assert (f"{server.parent.trace_id:032x}", f"{server.parent.span_id:016x}") == (TRACE, CALLER)
            assert server.parent.is_remote
            assert {f"{span.context.trace_id:032x}" for span in spans.values() if span.context} == {TRACE}
            assert server.context is not None
            assert server.context.trace_state.to_header() == "a=1,b=2"


@pytest.mark.parametrize("way", [(), (SLOWLY,)])
async def test_a_caller_that_is_not_traced_is_followed(monkeypatch: pytest.MonkeyPatch, way: Any) -> None:
    async with traced(monkeypatch) as worker:
        assert await worker.ask("/action", f"traceparent: {UNSAMPLED}", *way) == 200
        assert worker.spans() == []


async def test_without_parents_the_traces_id_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    async with traced(monkeypatch, follows=False, rate=0.5) as worker:
        low, high = f"{TRACE[:16]}{'1' * 16}", f"{TRACE[:16]}{'f' * 16}"
        for trace, count in ((low, 4), (high, 0)):
            await worker.ask("/action", f"traceparent: 00-{trace}-{CALLER}-00")
            assert len(worker.spans()) == count


@pytest.mark.parametrize("way", [(), (SLOWLY,)])
async def test_a_header_that_is_wrong_is_as_none(monkeypatch: pytest.MonkeyPatch, way: Any) -> None:
    async with traced(monkeypatch) as worker:
        for wrong in ("", "junk", SAMPLED.upper(), f"ff{SAMPLED[2:]}", f"{SAMPLED}\r\ntraceparent: {SAMPLED}"):
            spans = await worker.spans_of("/action", f"traceparent: {wrong}", "tracestate: a=1", *way)
            assert spans["server"].parent is None
            assert spans["server"].context is not None
            assert not spans["server"].context.trace_state


async def test_a_share_of_the_requests_is_traced_on_connections_that_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    async with traced(monkeypatch, rate=0.2) as worker:
        reader, writer = await asyncio.open_connection("127.0.0.1", worker.there.port)
        request = b"POST /action HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
        for _ in range(1000):
            writer.write(request)
            await reader.readuntil(b'"train_step":7}')
        writer.close()
        servers = [span for span in worker.spans() if span.kind is SpanKind.SERVER]
    assert 120 < len(servers) < 290  # six standard deviations


@pytest.mark.parametrize("rate", [0.0, 1.0])
async def test_none_or_all_are_traced(monkeypatch: pytest.MonkeyPatch, rate: float) -> None:
    async with traced(monkeypatch, rate=rate) as worker:
        for _ in range(3):
            await worker.ask("/action")
        await worker.ask("/livez", method="GET", body=b"")
        assert len(worker.spans()) == 13 * rate


@pytest.mark.parametrize("way", [(), (SLOWLY,)])
async def test_a_refusal_is_no_error_of_the_server(monkeypatch: pytest.MonkeyPatch, way: Any) -> None:
    async with traced(monkeypatch) as worker:
        spans = await worker.spans_of("/action", *way, body=b'{"observation":[1]}')
    attributes: Any = spans["server"].attributes
    assert set(spans) == {"server"}
    assert attributes["http.response.status_code"] == 422
    assert "error.type" not in attributes
    assert spans["server"].status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("way", [(), (SLOWLY,)])
async def test_what_the_engine_cannot_is_an_error(monkeypatch: pytest.MonkeyPatch, way: Any) -> None:
    async with traced(monkeypatch) as worker:
        worker.there.engine.run = None  # type: ignore[assignment, method-assign]
        spans = await worker.spans_of("/action", *way)
    attributes: Any = spans["server"].attributes
    assert set(spans) == {"server", "queue", "batch", "engine"}
    assert (attributes["http.response.status_code"], attributes["error.type"]) == (500, "500")
    assert spans["server"].status.status_code is StatusCode.ERROR


async def test_a_request_that_waits_too_long_has_no_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    async with traced(monkeypatch) as worker:
        await worker.there.worker._service.policies[0].batcher.hold(60)
        spans = await worker.spans_of("/action", body=b'{"observation":[1,2,3,4],"options":{"timeout_ms":1}}')
        worker.there.worker._service.policies[0].batcher.release()
    attributes: Any = spans["server"].attributes
    assert set(spans) == {"server", "queue"}
    assert (attributes["http.response.status_code"], attributes["error.type"]) == (504, "504")


async def test_a_client_that_goes_away_gets_no_status(monkeypatch: pytest.MonkeyPatch) -> None:
    async with traced(monkeypatch) as worker:
        batcher = worker.there.worker._service.policies[0].batcher
        await batcher.hold(60)
        _, writer = await asyncio.open_connection("127.0.0.1", worker.there.port)
        writer.write(b"POST /action HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY))
        while not batcher._waiting:
            await asyncio.sleep(0)
        writer.transport.abort()
        while not (spans := worker.spans()):
            await asyncio.sleep(0)
        batcher.release()
    attributes: Any = spans[-1].attributes
    assert attributes["error.type"] == "ClientGone"
    assert "http.response.status_code" not in attributes


@pytest.mark.parametrize("rows", [7_000, 40_000])
async def test_large_bodies_are_traced(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """At once, and in a thread beside the event loop."""
    body = b'{"observation":[' + b",".join([b"[1,2,3,4]"] * rows) + b"]}"
    assert len(body) > SMALL_BYTES
    async with traced(monkeypatch, rows_limit=rows) as worker:
        spans = await worker.spans_of("/action", body=body)
    assert len(spans) == 4
    assert spans["server"].attributes is not None
    assert spans["server"].attributes["policy_server.rows"] == rows
    assert spans["server"].attributes["http.response.status_code"] == 200


async def test_sessions_are_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    async with traced(monkeypatch) as worker:
        begun = await worker.spans_of("/v1/policies/echo/sessions", body=b'{"id":"one","observation":[1,2,3,4]}')
        stepped = await worker.spans_of("/sessions/one/action")
    assert (begun["server"].name, len(begun)) == ("POST /v1/policies/{policy}/sessions", 4)
    assert (stepped["server"].name, len(stepped)) == ("POST /sessions/{id}/action", 4)


@pytest.mark.parametrize(
    ("target", "body", "route"),
    [
        ("/v1/models/echo:predict", b'{"instances":[[1,2,3,4]]}', "/v1/models/{model}:predict"),
        (
            "/v2/models/echo/infer",
            b'{"inputs":[{"name":"observation","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}',
            "/v2/models/{model}/infer",
        ),
    ],
)
@pytest.mark.parametrize("way", [(), (SLOWLY,)])
async def test_other_servers_protocols_are_traced(
    monkeypatch: pytest.MonkeyPatch, target: str, body: bytes, route: str, way: Any
) -> None:
    async with traced(monkeypatch) as worker:
        spans = await worker.spans_of(target, *way, body=body)
    assert spans["server"].name == f"POST {route}"
    assert len(spans) == 4


@pytest.mark.parametrize(
    ("method", "target", "name", "status"),
    [
        ("GET", "/v1/policies", "GET /v1/policies", 200),
        ("GET", "/no/such", "GET", 404),
        ("PURGE", "/action", "HTTP /action", 405),
        ("POST", "/admin/policies/echo/reload", "POST /admin/policies/{policy}/reload", 401),
    ],
)
async def test_all_routes_are_traced(
    monkeypatch: pytest.MonkeyPatch, method: str, target: str, name: str, status: int
) -> None:
    async with traced(monkeypatch) as worker:
        spans = await worker.spans_of(target, method=method)
    attributes: Any = spans["server"].attributes
    assert (spans["server"].name, attributes["http.response.status_code"]) == (name, status)


@pytest.mark.parametrize("way", [(), (SLOWLY,)])
async def test_a_traced_request_may_ask_for_its_times(monkeypatch: pytest.MonkeyPatch, way: Any) -> None:
    async with traced(monkeypatch, rate=0.0) as worker:
        answer = await worker.answer("/action", f"traceparent: {SAMPLED}", "Server-Timing: ?1", *way)
        assert len(worker.spans()) == 4
        assert answer.count(b"\r\nserver-timing: queue;dur=") == 1
        assert b"\r\nserver-timing: " in await worker.answer("/action", "Server-Timing: ?1", *way)
        assert worker.spans() == []


async def test_a_call_over_grpc_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = Messages()
    call = {"model_name": "echo", "inputs": [{"name": "observation", "datatype": "FP32", "shape": [1, 4]}]}
    request = messages.named("ModelInferRequest")(**call, raw_input_contents=[bytes(16)])
    async with traced(monkeypatch, rate=0.0, grpc_port=port_below_outgoing()) as worker:
        await worker.there.worker._start_grpc()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{worker.there.worker._settings.grpc_port}") as channel:
            infer: Any = channel.unary_unary(
                f"/{INFERENCE}/ModelInfer",
                type(request).SerializeToString,
                messages.named("ModelInferResponse").FromString,
            )
            await infer(request)
            assert worker.spans() == []
            await infer(request, metadata=[("traceparent", SAMPLED)])
            spans = worker.spans()
            request.model_name = "no such"
            with pytest.raises(grpc.RpcError):
                await infer(request, metadata=[("traceparent", SAMPLED)])
            while not (of_refused := worker.spans()):  # it ends when the library has sent the status
                await asyncio.sleep(0)
            (refused,) = of_refused
    assert [span.name for span in spans] == ["queue", "batch", "engine", f"{INFERENCE}/ModelInfer"]
    attributes: Any = spans[-1].attributes
    assert attributes["rpc.service"] == INFERENCE
    assert (attributes["rpc.method"], attributes["rpc.grpc.status_code"]) == ("ModelInfer", 0)
    assert attributes["policy_server.policy"] == "echo"
    attributes = refused.attributes
    assert attributes["rpc.grpc.status_code"] == grpc.StatusCode.NOT_FOUND.value[0]
    assert "error.type" not in attributes


async def test_without_traces_nothing_is_between(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as there:
        assert type(there.worker._fast_path) is FastPath
        headers = [(b"content-length", b"2"), (b"traceparent", SAMPLED.encode())]
        route: Any = there.worker._fast_path.route(b"/action", headers)
        assert route.cycle.__name__ == "FastPathCycle"
        assert not there.worker._service.policies[0].batcher._timed
