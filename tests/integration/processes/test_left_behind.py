"""What processes leave behind that were killed: counts that go on, and folders that go when the next server starts."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from app.artifacts.temporary import own_folder
from tests.integration.processes.test_stalled import answers
from tests.support.policies import NumberTrainer
from tests.support.server import RunningServer, serving
from tests.support.steady import until

COUNTED = 'policy_server_answers_total{policy="p",route="get_initial_state",status="200"}'


def counted(server: RunningServer) -> int:
    found = re.search(re.escape(COUNTED) + r" (\d+)", server.http.get("/metrics").text)
    return int(found[1]) if found else 0


def ask(server: RunningServer) -> None:
    server.http.post("/get_initial_state", json={}).raise_for_status()


def test_killed_workers_leave_their_counts_and_a_killed_server_nothing_for_long(
    tmp_path: Path, warm: tuple[str, str]
) -> None:
    trainer, place = NumberTrainer(tmp_path / "p"), tmp_path / "tmp"
    place.mkdir()
    with serving({"p": trainer.folder}, "--no-watch", TMPDIR=str(place)) as server:
        (counts,) = place.glob("policy-server-counts.*")
        until(lambda: (ask(server), counted(server))[1] >= 3, "a few counts")
        files = len(list(counts.glob("*.db")))
        for _ in range(3):
            before = counted(server)
            (worker,) = server.processes("app.worker")
            os.kill(worker, signal.SIGKILL)
            until(lambda: answers(server), "another worker")
            assert counted(server) == before  # by whoever answers first
            ask(server)
            assert counted(server) == before + 1
        assert len(list(counts.glob("*.db"))) <= files + 3  # one more of each kind, and not for each that was killed
        assert 'policy_server_restarts_total{process="worker"} 3.0' in server.http.get("/metrics").text
        server.process.kill()
        server.process.wait(10)
        left = sorted(place.glob("policy-server-*"))
        assert len(left) == 2
        until(lambda: all(path.is_dir() for path in left))
    for path in left:
        os.utime(path)
    with own_folder("policy-server-state.", place):  # they may belong to one that begins
        assert sorted(path for path in place.glob("policy-server-*") if path in left) == left
    for path in left:
        os.utime(path, (0, 0))
    with serving({"p": trainer.folder}, "--no-watch", TMPDIR=str(place)):
        assert not any(path.exists() for path in left)
        assert len(list(place.glob("policy-server-*"))) == 2
    assert list(place.glob("policy-server-*")) == []


def test_folders_in_use_of_others_and_of_other_names_stay(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from app.artifacts.temporary import own_folder\n"
        "with own_folder('mine.', pathlib.Path(sys.argv[1])) as folder: print(folder, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        used = Path(other.stdout.readline().strip())
        shared, elsewhere, link, file = (
            tmp_path / name for name in ("mine.shared", "yours.x", "mine.link", "mine.file")
        )
        elsewhere.mkdir()
        shared.mkdir()
        shared.chmod(0o777)
        link.symlink_to(elsewhere)
        file.touch()
        left = tmp_path / "mine.left"
        left.mkdir(0o700)
        (left / "weights").touch()
        for path in (used, shared, elsewhere, left, file):
            os.utime(path, (0, 0))
        with own_folder("mine.", tmp_path) as folder:
            assert folder.is_dir()
            assert not left.exists()
            assert all(path.exists() for path in (used, shared, elsewhere, link, file))
        assert not folder.exists()
        other.kill()
