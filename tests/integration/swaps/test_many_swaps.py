"""Hundreds of swaps under constant load: nothing fails, nothing mixes, nothing goes back, nothing is left behind."""

import io
import statistics
import tarfile
import time
from collections import defaultdict
from pathlib import Path

import pytest

from app.memory import resident_bytes
from tests.integration.swaps.test_reload import Load, check_answers
from tests.support import processes
from tests.support.policies import NumberTrainer
from tests.support.server import RunningServer, serving

FILLER = 50_000  # floats between the two ends of the weights


def resident_kib(server: RunningServer) -> int:
    """Of all processes of the server together; memory that they share counts for each."""
    return sum(resident_bytes(pid) for pid in family(server)) // 1024


def open_things(server: RunningServer) -> tuple[int, int, int]:
    """(processes, file descriptors, threads) of the server."""
    pids = family(server)
    count = [sum(len(processes.listed(pid, kind)) for pid in pids) for kind in ("fd", "task")]
    return len(pids), count[0], count[1]


def family(server: RunningServer) -> list[int]:
    return [server.process.pid, *server.processes()]


def tar_of(folder: Path) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.add(folder, ".")
    return out.getvalue()


def check_never_back(load: Load) -> None:
    """The train steps that one connection sees never fall."""
    seen: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for began, _, answer, marks in load.answers:
        seen[marks[0] // 100].append((began, answer["train_step"]))
    for answers in seen.values():
        steps = [step for _, step in sorted(answers)]
        assert steps == sorted(steps)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("workers", [1, 2])
def test_many_swaps_under_load_leave_nothing_behind(tmp_path: Path, full: bool, workers: int) -> None:
    if workers == 1 and not full:
        pytest.skip("with --full: test_soak.py has one worker")
    swaps, clients, warm = (1000, 32, 50) if full else (20, 8, 10)
    trainer = NumberTrainer(tmp_path / "p", filler=FILLER)
    acknowledged: list[tuple[float, int]] = []
    took_ms: list[float] = []
    options = ("--no-watch", "--workers", str(workers), "--state-dir", str(tmp_path / "state"))
    with serving({"p": trainer.folder}, *options, prepared=True) as server:
        with Load(server.url, "p", clients, pause_s=0.1) as load:
            for step in range(1, swaps + 1):
                name = f"{step:010d}"
                trainer.policy.set_number(step)
                trainer._train_step.assign(step)
                if step % 5:
                    trainer.saver.save_checkpoint(trainer.folder / "checkpoints" / name, keep_last=3)
                    answer = server.reload("p", checkpoint=name)
                else:
                    trainer.saver.save_checkpoint(tmp_path / "sent")
                    path = f"/admin/policies/p/checkpoints/{name}?activate=true"
                    answer = server.admin.put(path, content=tar_of(tmp_path / "sent"))
                assert answer.status_code == 200, answer.text
                acknowledged.append((time.monotonic(), step))
                took_ms.append(answer.json()["took_ms"])
                if step == warm:
                    load.more(20)
                    before, things = resident_kib(server), open_things(server)
            load.more(20)
            after, in_the_end = resident_kib(server), open_things(server)
        check_answers(load, acknowledged)
        check_never_back(load)
        kept = [path.name for path in (tmp_path / "state" / "p" / "versions").iterdir()]
        assert len(kept) <= 7  # the active one, five before it, and one that is just being let go
        assert all(not name.startswith(".") for name in kept)
    assert list(tmp_path.rglob(".saver*")) == []
    if full:
        assert after <= before * 1.05, f"{before} KiB after {warm} swaps, {after} KiB after {swaps}"
    assert in_the_end[0] == things[0] == 2 + workers
    assert in_the_end[1] <= things[1] + 5
    assert in_the_end[2] <= things[2] + 2
    print(
        f"{workers} workers, {swaps} swaps, {clients} clients, {len(load.answers)} answers, "
        f"0 failed, mixed, old or going back; "
        f"median swap {statistics.median(took_ms):.0f} ms; {before / 1024:.0f} MiB after {warm} swaps, "
        f"{after / 1024:.0f} MiB in the end; processes, descriptors and threads {things} → {in_the_end}"
    )
