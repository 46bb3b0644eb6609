"""A short run of `make bench` reports everything, and what it works out of samples is right. Its times say nothing."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bench import BenchError
from bench.harness.load import generator
from bench.serving import acceptance, chart, console_pages, nginx, payloads, scenarios, usage
from bench.serving.calls import check_answer
from bench.serving.exports import Exports
from bench.serving.peers import environments, table
from bench.serving.results import Results, Row, Sample, Start
from bench.serving.start_servers import Starter
from tests.bench.test_swaps import left_behind
from tests.support.server import ROOT

needs_a_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


def sample(rate: float, p50_ms: float = 1, **figures: float) -> Sample:
    return Sample(rate, p50_ms, p99_ms=2 * p50_ms, cpu_s_per_1000=0.1, resident_mb=50, **figures)  # type: ignore[arg-type]


def row(scenario: str, competitor: str, *rates: float) -> Row:
    return Row(scenario, competitor, [sample(rate) for rate in rates])


@needs_a_compiler
def test_short_run_reports_everything(tmp_path: Path, bench_exports: Path) -> None:
    figures, picture = tmp_path / "figures.json", tmp_path / "picture.svg"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    words = ["--scenario", "one-row-8", "--only", "echo", "litert-1", "--rounds", "1", "--seconds", "0.3"]
    words += ["--exports", str(bench_exports)]
    done = subprocess.run(
        [sys.executable, "-m", "bench.serving", *words, "--json", figures, "--chart", picture],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(figures.read_text())
    assert set(results) == {"machine", "options", "rows", "starts", "acceptance", "failures"}
    assert results["failures"] == 0
    assert [row["competitor"] for row in results["rows"]] == ["echo", "litert-1"]
    for found in results["rows"]:
        (one,) = found["samples"]
        assert found["rate"] == one["rate"] > 0
        assert 0 < one["p50_ms"] <= one["p99_ms"]
        assert one["resident_mb"] > 10
    echo, ours = results["rows"]
    assert ours["rate_by_echo"] == ours["rate"] / echo["rate"]
    assert 10 < ours["worker_mb"] < ours["resident_mb"]
    for word in ("one row, 8 clients", "echo", "litert-1", "Acceptance", "not measured", "0 failures"):
        assert word in done.stdout
    assert picture.stat().st_size > 1000
    # TensorFlow leaves what it has compiled, and Python the bytecode of that.
    assert [name for name in left_behind(scratch) if "__autograph" not in name and "__pycache__" not in name] == []


@needs_a_compiler
def test_who_takes_part_nowhere_is_reported() -> None:
    words = [sys.executable, "-m", "bench.serving", "--scenario", "one-row-8", "--only", "nobody"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "nobody takes part in none of these scenarios" in done.stderr


def test_ratios_are_those_of_the_rounds() -> None:
    """The machine was slow in the second round, for both."""
    assert row("s", "a", 50, 5, 60).ratio(row("s", "b", 100, 10, 100), "rate") == 0.5
    assert row("s", "a", 50).ratio(None, "rate") is None
    assert row("s", "a", 50).ratio(row("s", "b"), "rate") is None


def lines(results: Results) -> dict[str, tuple[float | None, bool | None]]:
    return {line.what: (line.figure, line.reached) for line in acceptance.lines(results)}


def test_what_was_not_measured_is_neither_reached_nor_missed() -> None:
    assert set(lines(Results()).values()) == {(None, None)}


def test_acceptance_compares_with_its_bounds() -> None:
    results = Results(
        [row("one-row-32", "echo", 100), row("one-row-32", "naive", 4), row("one-row-32", "litert-1", 80)],
        starts=[Start(1.0, 90), Start(1.2, 151), Start(9.0, 90)],
    )
    found = lines(results)
    assert found["one row, 32 clients: answers/s by the echo's"] == (0.8, True)
    assert found["… by the naive server's"] == (None, None)  # the last of that name: with one client
    assert found["a worker without TensorFlow, resident MB"] == (151, False)
    assert found["warm start to the first answer, s"] == (1.2, True)


def test_each_of_our_servers_is_held_to_its_twin_of_an_earlier_revision() -> None:
    (stage,) = scenarios.stages(["one-row-8"], ["echo", "litert-1"], with_before=True)
    assert [(one.name, one.before) for one in stage[0].competitors] == [
        ("echo", False),
        ("litert-1", False),
        ("litert-1-before", True),
    ]
    found = lines(Results([row("one-row-8", "litert-1", 94), row("one-row-8", "litert-1-before", 100)]))
    assert found["one row, 8 clients: litert-1, answers/s by those before"] == (0.94, False)


def test_a_revision_that_git_lacks_is_reported() -> None:
    words = [sys.executable, "-m", "bench.serving", "--scenario", "one-row-8", "--before", "no-such-revision"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "--before no-such-revision" in done.stderr


def test_best_peer_is_the_one_that_counts() -> None:
    rows = [row("one-row-32", name, rate) for name, rate in (("litert-1", 80), ("slow", 1), ("fast", 20))]
    (found,) = [one for one in acceptance.lines(Results(rows), ["slow", "fast", "absent"]) if "peer" in one.what]
    assert (found.figure, found.reached) == (4, False)


def test_overload_is_held_to_four_bounds() -> None:
    overloaded = sample(48, maximum=50, refused=40, refused_p50_ms=1, refused_p99_ms=6)
    found = lines(Results([Row("overload", "litert-1", [overloaded])]))
    assert found["twice too many: answers/s by the maximum"] == (0.96, True)
    assert found["… turned away by a 429"] == (40, True)
    assert found["… p99 of these, ms"] == (6, False)
    assert found["… other failures"] == (0, True)


def test_traces_and_pages_are_held_to_the_same_server_without() -> None:
    results = Results(
        [
            row("traces", "litert-1", 100),
            row("traces", "litert-1-traced", 97),
            row("console", "litert-1", 100),
            row("console", "litert-1-pages-10", 99.5),
            row("console-200", "litert-200-policies", 100),
            row("console-200", "litert-200-pages-10", 98),
        ]
    )
    found = {what: figure for what, figure in lines(results).items() if figure[0] is not None}
    assert found == {
        "1 % of the requests traced: answers/s by those without": (0.97, False),
        "pages of the console open, 10: answers/s by those without": (0.995, True),
        "… with 200 policies, 10": (0.98, False),
    }


@contextlib.contextmanager
def streaming(
    events: list[bytes], sent: threading.Event, *, goes_on: bool = False, ends: bool = False
) -> Iterator[int]:
    """A server of one page of the console, whose events are sent one by one; then more until the page goes, or none."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            page, _ = listener.accept()
            with page:
                asked = page.recv(1 << 16)
                for event in events:
                    page.sendall(event)
                sent.set()
                with contextlib.suppress(OSError):  # the page goes
                    if ends:
                        page.shutdown(socket.SHUT_WR)
                    while goes_on:
                        page.sendall(b"x" * (1 << 16))
                    while page.recv(1 << 16):
                        pass
            assert asked.startswith(b"GET /console/events HTTP/1.1\r\n")

        serving = threading.Thread(target=serve)
        serving.start()
        yield listener.getsockname()[1]
        serving.join()


def test_pages_are_read_until_they_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_pages, "_LINGER_S", 0)
    sent = threading.Event()
    # More than sockets hold: somebody reads.
    events = [b"HTTP/1.1 200 OK\r\n\r\nretry: 1000\n\nevent: ", b"state\ndata: {}\n\n", b"x" * (32 << 20)]
    with streaming(events, sent, goes_on=True) as port, console_pages.open_on(port, 1):
        assert sent.wait(20)


def test_a_page_that_is_refused_is_reported() -> None:
    sent = threading.Event()
    with (
        streaming([b"HTTP/1.1 429 Too Many Requests\r\n\r\n"], sent, ends=True) as port,
        pytest.raises(BenchError, match="429"),
        console_pages.open_on(port, 1),
    ):
        pass


def test_chart_has_bars_where_there_is_an_echo() -> None:
    rows = [row("one-row-1", "echo", 100), row("one-row-1", "litert-1", 80), row("overload", "litert-1", 50)]
    ((title, bars),) = chart.bars(Results(rows))
    assert title == "one row, 1 client"
    assert [(found.competitor, ratio) for found, ratio in bars] == [("litert-1", 0.8)]


def test_scenarios_with_the_same_servers_are_together() -> None:
    policies = [stage[0].policy for stage in scenarios.stages((), ())]
    assert len(policies) == len(set(policies))
    (stage,) = scenarios.stages(["images-binary-2"], ["in-process", "litert-1"])
    assert [one.name for one in stage[0].competitors] == ["in-process", "litert-1"]
    with pytest.raises(BenchError, match="naive"):
        scenarios.stages(["images-binary-2"], ["naive", "in-process"])


@pytest.mark.parametrize(
    ("name", "rows"), [("row", 1), ("rows", 64), ("state", 1), ("images", 8), ("binary-images", 8)]
)
def test_bodies_hold_what_they_say(name: str, rows: int) -> None:
    asked = payloads.payload(name)
    assert asked.rows == rows
    assert asked.body == payloads.payload(name).body
    if name != "binary-images":
        sent, answered = json.loads(asked.body), json.loads(asked.answer)
        assert rows in (1, len(sent["observation"]))
        assert answered["version"] == "0000000700"
        assert answered.get("policy_state") == sent.get("policy_state")


@pytest.mark.parametrize("peer", table.PEERS.values(), ids=list(table.PEERS))
@pytest.mark.parametrize("name", ["row", "rows"])
def test_peers_are_asked_the_same(peer: table.Peer, name: str) -> None:
    def numbers(value: object) -> list[float]:
        if isinstance(value, list):
            return [number for item in value for number in numbers(item)]
        return [value] if isinstance(value, float) else []

    asked = payloads.payload(name)
    sent = json.loads(peer.payload(asked).body)
    sent = sent["inputs"][0]["data"] if "inputs" in sent else sent["observation"]
    assert numbers(sent) == numbers(json.loads(asked.body)["observation"])
    assert (Path(table.__file__).with_name(f"{peer.module}.py")).exists()


def test_a_peer_that_cannot_be_installed_is_reported(tmp_path: Path) -> None:
    peer = replace(table.PEERS["litserve"], packages=("--no-index", "none-such"))
    environments.make(tmp_path, peer, lambda _: None)
    with pytest.raises(BenchError, match=r"not installed: .*none-such"):
        environments.python_of(tmp_path, peer)


def test_usage_is_that_of_all_descendants() -> None:
    burn = (
        "import os, time; os.fork(); t = time.process_time()\nwhile time.process_time() < t + 0.2: pass\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", burn]) as process:
        try:
            while len(pids := usage.family(process.pid)) < 2 or usage.cpu_s(pids) < 0.38:
                assert process.poll() is None
            assert pids[0] == process.pid
            assert usage.resident_mb(pids) > usage.resident_mb(pids[:1]) > 1
            assert usage.running_module(pids, "-c") == pids
        finally:
            usage.kill(usage.identified(pids))
        assert process.wait() == -9
    assert usage.cpu_s([process.pid]) == usage.resident_mb([process.pid]) == 0


@needs_a_compiler
@pytest.mark.parametrize("kind", ["raw", "nginx"])
def test_constants_answer_on_connections_that_stay(kind: str, tmp_path: Path) -> None:
    """As large as our answers, to as many requests as come."""
    if kind == "nginx" and not (shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")):
        pytest.skip("nginx is not installed")
    (scenario,) = [one for one in scenarios.SCENARIOS if one.name == "one-row-32"]
    (competitor,) = [one for one in scenario.competitors if one.name == kind]
    asked = payloads.payload(payloads.ROW)
    with contextlib.ExitStack() as stack:
        starter = Starter(Exports(tmp_path, lambda _: None), tmp_path, stack)
        running = starter.start(competitor, scenario)
        assert check_answer(running.port, "/action", asked) == asked.answer
        found = generator(tmp_path, "/action", asked.body).run(running.port, 1, 2)
    assert found.failures == 0
    assert found.requests > 100
    assert found.connections == 2


def test_nginx_that_is_not_installed_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(BenchError, match="apt install nginx"):
        nginx.command(tmp_path, 1, b"{}", "application/json")
