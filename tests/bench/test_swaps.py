"""The quick form of `make bench-swap`: what it reports is complete. Its times say nothing."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import ROOT

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
COMMAND = [sys.executable, "-m", "bench.swaps", "--quick"]


def left_behind(folder: Path) -> list[str]:
    """Files in `folder`, and processes whose command line names it."""
    processes = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(str(folder).encode() in word for word in words):
            processes.append(b" ".join(words).decode())
    return [str(path) for path in folder.iterdir()] + processes


def check_times(found: dict[str, Any], names: list[str]) -> None:
    times = [found[name] for name in names]
    assert times[0] > 0
    assert times == sorted(times)


@pytest.mark.only_full
def test_quick_run_reports_everything(tmp_path: Path) -> None:
    scratch, figures = tmp_path / "scratch", tmp_path / "figures.json"
    scratch.mkdir()
    done = subprocess.run([*COMMAND, "--folder", scratch, "--json", figures], cwd=ROOT, capture_output=True, text=True)
    results = json.loads(figures.read_text())
    missed = results["missed_swaps"]  # on a busy machine a swap may take longer than its phase
    assert done.returncode == (1 if missed else 0), done.stderr
    assert set(results) == {"machine", "options", "first_answer", "under_load", "failures", "missed_swaps"}
    assert results["machine"]["others_cores"] >= 0
    assert results["failures"] == 0
    assert [row["way"] for row in results["first_answer"]] == ["watch", "reload", "upload"]
    for row in results["first_answer"]:
        assert (row["size"], row["workers"], len(row["latencies_ms"])) == ("small", 1, 2)
        assert row["answers"] > 0
        check_times(row, ["median_ms", "p90_ms", "max_ms"])
    (load,) = results["under_load"]
    assert load["rate"] == load["maximum"]["rate"] / 2
    assert load["published"] == 2
    assert load["swaps"] == 2 - missed
    for kind in ("without", "with"):
        check_times(load[kind], ["p50_ms", "p99_ms", "p99_9_ms", "max_ms"])
        assert len(load["rounds"][0][kind]["versions"]) == (3 - missed if kind == "with" else 1)
    assert load["p99_ratio"] == load["with"]["p99_ms"] / load["without"]["p99_ms"]
    assert load["requests"] == sum(load["rounds"][0][kind]["statuses"]["200"] for kind in ("without", "with"))
    for word in ("watch", "reload", "upload", "p99 ratio", "0 failures"):
        assert word in done.stdout
    assert left_behind(scratch) == []


@pytest.mark.only_full
def test_stopped_half_way_it_leaves_nothing_behind(tmp_path: Path) -> None:
    with subprocess.Popen([*COMMAND, "--folder", tmp_path], cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "swaps by watch" in line:
                break
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate()
    assert process.returncode == 130
    assert "stopped" in error
    assert left_behind(tmp_path) == []


def test_a_server_that_does_not_start_is_reported(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--folder", tmp_path, "--", "--engine", "none-such"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "--engine is 'none-such'" in done.stderr
    assert left_behind(tmp_path) == []
