"""Where the time of a request went, by a real server: its traces at a collector, and Server-Timing."""

import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from policy_client.wire import arrays, decode, encode
from tests.support.server import RunningServer, serving

OBSERVATION = {"observation": [0.1, 0.0, 0.0, 0.0]}
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
NUMBER = r"dur=(\d+\.\d{3})"
TIMES = re.compile(rf'queue;{NUMBER}, batch;{NUMBER};desc="(.*)", engine;{NUMBER}, total;{NUMBER}')


class Collector(http.server.ThreadingHTTPServer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.received: list[tuple[str, str, bytes]] = []
        kept = self.received

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                kept.append((self.path, self.headers["content-type"], body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as found:
        threading.Thread(target=found.serve_forever).start()
        yield found
        found.shutdown()


def attributes(of: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in of.attributes}


def test_a_collector_gets_the_spans_of_a_request_before_the_server_has_stopped(
    exports: Path, warm: tuple[str, str], collector: Collector
) -> None:
    otel = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
        "OTEL_EXPORTER_OTLP_HEADERS": "api-key=secret",
        "OTEL_TRACES_SAMPLER": "parentbased_always_off",
        "OTEL_SERVICE_NAME": "the one that is tested",
    }
    with serving({"cartpole": exports / "cartpole"}, *warm, "--traces", prepared=True, **otel) as server:
        parent = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
        assert server.http.post("/action", json=OBSERVATION).status_code == 200
        assert server.http.post("/action", json=OBSERVATION, headers=parent).status_code == 200
        assert server.http.get("/v1/policies", headers=parent).status_code == 200
        assert server.stop() == 0
    assert {(path, media) for path, media, _ in collector.received} == {("/v1/traces", "application/x-protobuf")}
    sent = [ExportTraceServiceRequest.FromString(body) for _, _, body in collector.received]
    assert attributes(sent[0].resource_spans[0].resource)["service.name"] == "the one that is tested"
    spans = [span for part in sent for one in part.resource_spans for scope in one.scope_spans for span in scope.spans]
    assert [span.name for span in spans] == ["queue", "batch", "engine", "POST /action", "GET /v1/policies"]
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    queue, batch, engine, action, listed = spans
    assert action.parent_span_id.hex() == listed.parent_span_id.hex() == CALLER
    assert queue.parent_span_id == batch.parent_span_id == action.span_id
    assert engine.parent_span_id == batch.span_id
    assert attributes(action)["policy_server.policy"] == "cartpole"
    assert attributes(engine)["policy_server.engine"] == "litert"
    assert action.start_time_unix_nano < engine.start_time_unix_nano < engine.end_time_unix_nano


def test_a_request_that_asks_for_its_times_gets_them(server: RunningServer) -> None:
    asks = {"Server-Timing": "?1"}
    row, rows = OBSERVATION, {"observation": np.zeros((3, 4), np.float32)}
    begun = server.http.post("/sessions", json=OBSERVATION, headers=asks)
    binary = {"Content-Type": "application/msgpack", **asks}
    answers = {
        "1 request, 1 row": [server.http.post("/action", json=row, headers=asks), begun],
        "1 request, 3 rows": [server.http.post("/action", content=encode(rows), headers=binary)],
        "1 request, 2 rows": [server.http.post("/get_initial_state", json={"batch_size": 2}, headers=asks)],
    }
    step = server.http.post(f"/sessions/{begun.json()['id']}/action", json=row, headers=asks)
    answers["1 request, 1 row"].append(step)
    assert begun.status_code == 201
    for size, found in answers.items():
        for answer in found:
            assert answer.is_success
            times = TIMES.fullmatch(answer.headers["server-timing"])
            assert times is not None, answer.headers
            queue, batch, of, engine, total = times.groups()
            assert of == size
            assert float(engine) <= float(batch)
            assert float(queue) + float(batch) <= float(total)
    assert arrays(decode(answers["1 request, 3 rows"][0].content)["action"]).shape == (3,)


def test_others_get_none(server: RunningServer) -> None:
    for value in ({}, {"Server-Timing": "?0"}, {"Server-Timing": "1"}, {"Server-Timing": ""}):
        answer = server.http.post("/action", json=OBSERVATION, headers=value)
        assert answer.status_code == 200
        assert "server-timing" not in answer.headers


def test_a_refusal_has_the_times_that_there_are(server: RunningServer) -> None:
    for target, status in (("/action", 422), ("/v1/policies/nobody/action", 404)):
        answer = server.http.post(target, json={}, headers={"Server-Timing": "?1"})
        assert answer.status_code == status
        assert re.fullmatch(rf"total;{NUMBER}", answer.headers["server-timing"])
