"""A writer dies at each of its steps in turn (without --full, at each third)."""

import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from saver.artifact import IncompleteError, check_files
from saver.artifact.checkpoint import write_checkpoint_manifest
from saver.artifact.files import read_json
from tests.support import killed_writers
from tests.support.killed_writers import ForkServer, Job, fork_servers


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServer]:
    with fork_servers(1) as (it,):
        yield it


@pytest.fixture
def disk() -> Iterator[Path]:
    """A folder in memory where there is one: thousands of small files."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


def die_everywhere(forks: ForkServer, prepare: Callable[[], tuple[Any, ...]], job: Job, every: int) -> Iterator[int]:
    """Does the job once unharmed, then yields after each death; `prepare` makes the arguments."""
    forks.start(job, *prepare(), None)
    steps = forks.talk.recv()
    assert forks.status() == 0
    for step in range(every - 1, steps, every):
        forks.start(job, *prepare(), step)
        assert forks.status() == -signal.SIGKILL
        yield step


def finding(folder: Path, manifest_name: str) -> str:
    """What a reader that checks finds: `old`, `new`, `refused` or `none`; fails for a mixture."""
    if not (folder / "saved_model.pb").exists():
        return "none"
    files = [path for path in folder.rglob("*") if path.is_file() and "checkpoints" not in path.parts]
    try:
        manifest = read_json(folder / manifest_name)
        check_files(folder, manifest["files"])
        files = [folder / name for name in manifest["files"]]
    except IncompleteError:
        return "refused"
    except FileNotFoundError:
        pass  # an export without manifest is one of another saver, and readers take it
    versions = {path.read_text() for path in files if path.name not in ("same", manifest_name)}
    assert len(versions) == 1
    return {"1": "old", "2": "new"}[versions.pop()]


def hidden(parent: Path) -> list[Path]:
    return [path for path in parent.iterdir() if path.name.startswith(".")]


CASES = {
    # An export over one with a manifest, one without, and none.
    "export": (killed_writers.replace_export, "policy.json", {"old", "refused", "new"}),
    "plain export": (killed_writers.replace_export, "policy.json", {"old", "none", "new"}),
    "first export": (killed_writers.replace_export, "policy.json", {"none", "new"}),
    "checkpoint": (killed_writers.replace_checkpoint, "checkpoint.json", {"old", "new"}),
    "checkpoint, two renames": (
        killed_writers.replace_checkpoint_in_two_steps,
        "checkpoint.json",
        {"old", "none", "new"},
    ),
    "first checkpoint": (killed_writers.replace_checkpoint, "checkpoint.json", {"none", "new"}),
}


@pytest.mark.parametrize("case", CASES)
def test_killed_at_any_step_a_reader_finds_old_new_or_refuses(disk, forks, full, case):
    job, manifest_name, expected = CASES[case]
    folders = iter(disk / str(number) / "policy" for number in range(1000))
    folder = disk

    def prepare() -> tuple[Path, int]:
        nonlocal folder
        folder = next(folders)
        folder.parent.mkdir()
        if not case.startswith("first"):
            killed_writers.write_version(folder, 1, manifest_name)
            (folder / "checkpoints").mkdir()
            (folder / "checkpoints" / "x").write_text("7")
        if case == "plain export":
            (folder / manifest_name).unlink()
        return folder, 2

    found = Counter[str]()
    left = 0
    for _ in die_everywhere(forks, prepare, job, 1 if full else 3):
        found[finding(folder, manifest_name)] += 1
        left += bool(hidden(folder.parent))
        forks.start(job, folder, 2, None)
        forks.talk.recv()
        assert forks.status() == 0
        assert finding(folder, manifest_name) == "new"
        assert hidden(folder.parent) == []
        if "export" in case and not case.startswith("first"):
            assert (folder / "checkpoints" / "x").read_text() == "7"
            assert not (folder / "assets").exists()
    print(f"{case}: {dict(found)}, litter of {left} swept")
    assert set(found) == expected
    assert left > 0


def test_killed_at_any_step_of_pruning_only_whole_checkpoints_are_seen(disk, forks, full):
    parents = iter(disk / str(number) for number in range(1000))
    parent = disk

    def prepare() -> tuple[Path, int]:
        nonlocal parent
        parent = next(parents)
        for step in range(5):
            (parent / str(step) / "variables").mkdir(parents=True)
            (parent / str(step) / "variables" / "x").write_text(str(step))
            write_checkpoint_manifest(parent / str(step), step)
        return parent / "4", 2

    seen = Counter[int]()
    for _ in die_everywhere(forks, prepare, killed_writers.prune, 1 if full else 3):
        visible = [path for path in parent.iterdir() if not path.name.startswith(".")]
        seen[len(visible)] += 1
        for path in visible:
            check_files(path, read_json(path / "checkpoint.json")["files"])
        with killed_writers.staged_folder(parent / "5"):
            assert len(hidden(parent)) == 1
        assert hidden(parent) == []
    assert set(seen) == {2, 3, 4, 5}
