"""The quick form of `make bench-fleet`: what it reports is complete. Its times say nothing."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.test_swaps import left_behind
from tests.support.server import ROOT

PROGRAMS = ("cc", "redis-server", "haproxy")
PATHS = "/usr/sbin"
pytestmark = pytest.mark.skipif(
    not all(shutil.which(name) or shutil.which(name, path=PATHS) for name in PROGRAMS),
    reason=f"one of {', '.join(PROGRAMS)} is not here",
)


@pytest.mark.only_full
def test_quick_run_reports_everything(tmp_path: Path) -> None:
    scratch, figures = tmp_path / "scratch", tmp_path / "figures.json"
    scratch.mkdir()
    words = [sys.executable, "-m", "bench.fleet", "--quick", "--folder", scratch, "--json", figures]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    (found,) = json.loads(figures.read_text())["found"]
    loads = [found[side]["load"] for side in ("apart", "fleet")]
    missed = sum(one["published"] - one["swaps"] for load in loads for one in load["rounds"])  # on a busy machine
    assert done.returncode == (1 if missed else 0), done.stderr
    assert [len(found[side]["first_ms"]) for side in ("one", "apart", "fleet")] == [2, 2, 2]
    assert found["ratio"] > 0
    for load in loads:
        assert load["p99_ratio"] > 0
        (round_,) = load["rounds"]
        assert round_["published"] == 2
        assert (round_["without"]["failures"], round_["during"]["failures"]) == (0, 0)
    for word in ("one server", "3 without a fleet", "a fleet of 3", "p99 with swaps"):
        assert word in done.stdout
    assert left_behind(scratch) == []
