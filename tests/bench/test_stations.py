"""The stopwatch takes its own cost off; a quick form of `make bench-stations` is complete. Its times say nothing."""

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import BenchError
from bench.stations import stopwatch
from bench.stations.stopwatch import Stopwatch, WrapperCost, replaced
from bench.stations.table import FUNCTIONS, WHAT
from tests.support.server import ROOT


def work(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


class Clock:
    """Goes on by a microsecond whenever it is read, as if that were what a wrapper costs, and by the work done."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1e-6
        return self.now

    def work(self, microseconds: int) -> None:
        self.now += microseconds * 1e-6


def test_time_is_charged_to_the_innermost_station_without_the_cost_of_wrappers(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(stopwatch, "perf_counter", clock)
    watch, cost = Stopwatch(), WrapperCost.measured()
    inner = watch.wrapped("inner", lambda: clock.work(20))

    def both() -> None:
        clock.work(30)
        inner()
        inner()

    outer = watch.wrapped("outer", both)
    watch.to("base")
    for _ in range(300):
        outer()
    watch.stop()
    assert watch.entered == {"outer": 300, "inner": 600}
    assert watch.called == {"base": 300, "outer": 600}
    found = {station: cost.net_s(watch, station) / 300 for station in ("base", "outer", "inner")}
    assert found == pytest.approx({"base": 0.0, "outer": 30e-6, "inner": 40e-6}, abs=1e-7)
    assert all(cost.net_s(watch, station) < watch.seconds[station] for station in found)


def test_the_station_after_the_last_function_is_chosen_by_whoever_drives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(stopwatch, "perf_counter", clock)
    watch = Stopwatch()

    def after() -> None:
        watch.station = "after"

    watch.returns = after
    function = watch.wrapped("function", lambda: None)
    watch.to("before")
    function()
    clock.work(1000)
    watch.stop()
    assert watch.seconds["after"] >= 0.001 > watch.seconds["before"]


def test_functions_are_put_back_and_one_that_has_gone_is_reported() -> None:
    before = {name: _function(name) for name in FUNCTIONS}
    with replaced(FUNCTIONS, lambda _, function: (function,)):
        assert [_function(name) for name in FUNCTIONS] == [(function,) for function in before.values()]
    assert {name: _function(name) for name in FUNCTIONS} == before
    with (
        pytest.raises(BenchError, match=r"no app\.worker:Worker\.gone"),
        replaced({"app.worker:Worker.gone": "x"}, lambda *_: None),
    ):
        pass


def _function(name: str) -> object:
    module, _, path = name.partition(":")
    found: object = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found


def test_quick_run_reports_everything(tmp_path: Path, bench_exports: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "bench.stations", "--quick", "--exports", bench_exports, "--json", figures]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads(figures.read_text())
    assert results["machine"]["processor"] in done.stdout
    assert list(results["kinds"]) == ["JSON, one row", "msgpack, one row", "LSTM, step of a session", "JSON, 64 rows"]
    for name, kind in results["kinds"].items():
        expected = [station for station in WHAT if station != "session" or "session" in name]
        assert list(kind["stations"]) == expected
        assert all(least <= median <= most for median, least, most in kind["stations"].values())
        assert kind["sum"] == pytest.approx(sum(median for median, _, _ in kind["stations"].values()), abs=0.1)
        assert min(kind["whole, without wrappers"][0], kind["stations"]["engine"][0]) > 0
