"""The demo in its short form, as `make demo` runs the long one: a real server, real simulators."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from demo.experience import _share

ROOT = Path(__file__).parents[3]
PNG = b"\x89PNG\r\n\x1a\n"


def _demo(runs_dir: Path) -> list[str]:
    return [sys.executable, "-m", "demo", "--quick", "--plain", "--runs-dir", str(runs_dir)]


def _processes_with(word: str) -> list[str]:
    """Command lines of the running processes that mention `word`."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue  # it ended while we looked
    return [line for line in lines if word in line]


def test_quick_demo_swaps_weights_while_simulators_play_and_no_request_fails(
    tmp_path: Path,
) -> None:
    runs_dir = tmp_path / "runs"
    demo = subprocess.run(_demo(runs_dir), cwd=ROOT, capture_output=True, text=True, check=False)
    assert demo.returncode == 0, demo.stdout + demo.stderr

    result = json.loads((runs_dir / "result.json").read_text())
    figures = result["figures"]
    assert result["succeeded"] is True
    assert figures["failures"] == 0
    assert figures["swaps"] >= 4
    recorded = result["recorded"]
    assert recorded["read"] == recorded["caused"] > 0
    assert (recorded["double"], recorded["missing"]) == (0, 0)
    assert (runs_dir / "demo.png").read_bytes().startswith(PNG)

    served = [one for one in figures["versions"] if one["swap_ms"] is not None]
    assert all(one["answers"] > 0 for one in served)
    assert all(one["version"] == f"{one['train_step']:010d}" for one in served)
    assert "engine litert" in (runs_dir / "server.log").read_text()  # though it begins with tf.random.set_seed
    last = demo.stdout.splitlines()[-1]
    assert last.startswith("serve what it made: ")
    assert re.search(r"watch the server at http://127\.0\.0\.1:\d+/console$", demo.stdout, re.MULTILINE)
    assert last.endswith(f" -m app serve cartpole={runs_dir / 'cartpole'}")
    assert (runs_dir / "cartpole" / "saved_model.pb").exists()
    assert len(result["evaluations"]) == 3
    assert [one["version"] for one in result["evaluations"]] == [one["version"] for one in figures["versions"][-3:]]
    assert not _processes_with(str(runs_dir))


@pytest.mark.only_full
def test_demo_leaves_nothing_running_when_it_is_stopped(tmp_path: Path) -> None:
    runs_dir = tmp_path / "runs"
    with subprocess.Popen(_demo(runs_dir), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        deadline = time.monotonic() + 600
        log = runs_dir / "server.log"  # the demo knows its server before that has written a word
        while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert _processes_with(f"cartpole={runs_dir}")
        assert demo.poll() is None
        demo.send_signal(signal.SIGTERM)
        _, said = demo.communicate()
    assert demo.returncode == 128 + signal.SIGTERM
    assert said == "demo: stopped, and everything that it started\n"
    assert not _processes_with(str(runs_dir))


def test_demo_refuses_to_empty_a_folder_that_it_did_not_make(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    demo = subprocess.run(_demo(tmp_path), cwd=ROOT, capture_output=True, text=True, check=False)
    assert demo.returncode == 1
    assert demo.stderr.count("\n") == 1
    assert str(tmp_path) in demo.stderr
    assert precious.read_text() == "mine"


@pytest.mark.parametrize(
    ("count", "there", "share"),
    [(8, [4, 4, 4, 4], 2), (9, [4, 4, 4, 4], 3), (8, [0, 1, 4, 4], 4), (16, [4, 4, 4, 4], 4), (6, [1, 9], 5)],
)
def test_environments_that_have_less_are_made_up_for_by_the_others(count: int, there: list[int], share: int) -> None:
    assert _share(count, there) == share
    assert sum(min(share, has) for has in there) >= count
