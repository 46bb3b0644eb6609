"""The search, the simulators against a small server whose faults are known, and a quick form of `make bench-frames`."""

import asyncio
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench import BenchError
from bench.frames.search import largest
from bench.frames.simulators import SOURCE, Frames, Simulators
from bench.harness.load import compiled
from tests.support.server import ROOT

needs_a_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
PATH = "/v1/policies/toy/sessions"
REQUEST = re.compile(rb"(POST|DELETE) (\S+) HTTP/1.1\r\n(?:.+\r\n)*?(?:Content-Length: (\d+)\r\n)?\r\n")
Stall = Callable[[int], float]
Asked = list[tuple[str, str, object]]
Run = Callable[..., tuple[Frames, Asked]]


@pytest.mark.parametrize("true", [0, 1, 2, 7, 99, 100, 101, 640, 1000])
@pytest.mark.parametrize("first", [1, 100, 5000])
def test_largest_is_found_with_few_tries(true: int, first: int) -> None:
    tried: list[int] = []

    def holds(number: int) -> bool:
        tried.append(number)
        return number <= true

    found = largest(holds, first, 1000, 0.03)
    assert found <= true <= found * 1.03 + 1
    assert len(tried) == len(set(tried)) <= 24
    assert all(1 <= number <= 1000 for number in tried)


class Toy(asyncio.Protocol):
    """A server of sessions that notes what it was asked. `stall_s`: before answer number n nothing happens."""

    def __init__(self, stall_s: Stall, seen: Asked) -> None:
        self.stall_s, self.seen, self.data = stall_s, seen, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        while (head := REQUEST.match(self.data)) and len(self.data) >= (end := head.end() + int(head[3] or 0)):
            body, self.data = self.data[head.end() : end], self.data[end:]
            self.answer(head[1].decode(), head[2].decode(), json.loads(body) if body else None)

    def answer(self, method: str, path: str, body: object) -> None:
        self.seen.append((method, path, body))
        if method == "DELETE":
            self.transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")
            return
        steps = [one for one in self.seen if one[1].endswith("/action")]
        if path.endswith("/action"):
            threading.Event().wait(self.stall_s(len(steps)))
        status = b"200 OK" if path.endswith("/action") else b"201 Created"
        answer = b'{"action":1,"version":"%d"}' % (len(steps) // 100)
        self.transport.write(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(answer), answer))


@pytest.fixture(scope="module")
def simulators(tmp_path_factory: pytest.TempPathFactory) -> Simulators:
    folder = tmp_path_factory.mktemp("simulators")
    (folder / "observations").write_text("[1]\n[2]\n[3]\n")
    return Simulators(compiled(folder, SOURCE), folder / "observations", PATH)


@pytest.fixture
def run(simulators: Simulators) -> Iterator[Run]:
    """Has simulators send to a server that stalls so; returns what they report, and what it was asked."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    servers: list[asyncio.Server] = []

    async def listen(stall_s: Stall, seen: Asked) -> int:
        servers.append(await loop.create_server(lambda: Toy(stall_s, seen), "127.0.0.1", 0))
        return int(servers[-1].sockets[0].getsockname()[1])

    def found(stall_s: Stall, *plan: float) -> tuple[Frames, Asked]:
        seen: Asked = []
        port = asyncio.run_coroutine_threadsafe(listen(stall_s, seen), loop).result()
        return simulators.run(port, *plan), seen  # type: ignore[arg-type]

    async def close() -> None:
        for server in servers:
            server.close()
        await asyncio.sleep(0.05)  # the connections of a run that has ended are closed by now

    yield found
    asyncio.run_coroutine_threadsafe(close(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@needs_a_compiler
def test_each_simulator_steps_a_session_of_its_own(run: Run) -> None:
    frames, seen = run(lambda _: 0, 3, 50, 1)
    assert frames.holds or frames.late  # a busy machine is late
    assert (frames.frames, frames.failures, frames.statuses) == (150, 0, {"200": 150})
    assert frames.versions == ["0", "1"]
    assert seen[:3] == [("POST", PATH, {"id": str(i), "observation": [i % 3 + 1]}) for i in range(3)]
    for i in range(3):
        steps = [body for _, path, body in seen if path == f"{PATH}/{i}/action"]
        assert steps == [{"step": k, "observation": [(i + k) % 3 + 1]} for k in range(1, 51)]
    assert seen[-3:] == [("DELETE", f"{PATH}/{i}", None) for i in range(3)]


@needs_a_compiler
def test_a_stall_counts_in_every_frame_that_was_due_meanwhile(run: Run) -> None:
    """0.3 s of 1.5 s: a simulator that waited for its answer before the next frame would report one late frame."""
    frames, _ = run(lambda n: 0.3 if n == 40 else 0, 2, 50, 1.5)
    assert frames.frames == 150
    assert frames.failures == 0
    assert not frames.holds
    assert frames.late >= 2 * (0.3 - 0.02) * 50 - 2
    assert frames.max_ms >= 290
    assert frames.p99_9_ms == frames.max_ms >= frames.p99_ms > frames.p50_ms > 0


@needs_a_compiler
def test_a_session_that_is_refused_is_reported(simulators: Simulators) -> None:
    with pytest.raises(BenchError, match="refused"):
        simulators.run(9, 1, 60, 1)


@pytest.mark.only_full
@needs_a_compiler
def test_quick_run_reports_everything(tmp_path: Path, bench_exports: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "bench.frames", "--quick", "--exports", bench_exports, "--json", figures]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads(figures.read_text())
    assert set(results) == {"machine", "options", "found"}
    assert [(one["hz"], one["rows"]) for one in results["found"]] == [(60, 1), (60, 2)]
    for one in results["found"]:
        assert one["environments"] == one["simulators"] * one["rows"]
        for probe in one["probes"]:
            frames = probe["frames"]
            assert frames["failures"] == 0
            assert frames["statuses"] == {"200": frames["frames"]}
            assert probe["published"] == int(frames["seconds"] / 0.5)
            assert probe["swaps"] <= probe["published"]
            assert probe["cores"] > 0
    for word in (results["machine"]["processor"], "simulators", "p99.9 ms", "swaps"):
        assert word in done.stdout
