"""The quick form of `make bench-sessions`: what it reports is complete. Its times say nothing."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.server import ROOT

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


@pytest.mark.only_full
def test_quick_run_reports_everything(tmp_path: Path, bench_exports: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "bench.sessions", "--quick", "--exports", bench_exports, "--json", figures]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(figures.read_text())["found"]
    assert len(found) == 15
    assert all(one["measured"] > 0 for one in found if "memory" not in one["what"])
    assert [one["bound"] for one in found if one["bound"]] == ["at most 1.3"] * 2 + ["at least 0.8"] * 2 + ["at most 5"]
