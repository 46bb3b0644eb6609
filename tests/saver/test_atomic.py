"""`save` and `save_checkpoint` of real policies: killed at random moments, on a full disk, with odd arguments."""

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from saver import PolicySaver
from saver.artifact import IncompleteError, check_files, is_name
from saver.artifact.files import read_json
from tests.support import killed_writers
from tests.support import saver_policies as policies
from tests.support.killed_writers import ForkServer, Job, fork_servers

TENSORFLOW = ("tensorflow", "tensorflow_probability", "tf_agents.policies.policy_saver", "tests.support.saver_policies")


class Refused(Exception):
    """A reader does not take the folder; the message says why."""


def read(folder: Path, manifest_name: str) -> int:
    """The version in a folder, read as carefully as a reader has to: checked, loaded, and checked again.

    Raises:
      Refused: it is missing, incomplete, or changed meanwhile.
      AssertionError: it was true before and after, and yet its weights are not of one version.
    """
    before = _checked(folder, manifest_name)
    error, values = None, {}
    try:
        for graph in [folder, folder / "serving"] if (folder / "serving").exists() else [folder]:
            reader = tf.train.load_checkpoint(str(graph / "variables" / "variables"))
            for key in reader.get_variable_to_shape_map():
                if key.endswith("VARIABLE_VALUE") and "save_counter" not in key:
                    values[f"{graph.name}/{key}"] = reader.get_tensor(key)
    except Exception as caught:
        error = caught
    after = _checked(folder, manifest_name)
    if after != before:
        raise Refused("changed while it was read")
    assert error is None, f"{folder} is true to its manifest and cannot be loaded: {error}"
    versions = {int(number) for value in values.values() for number in np.unique(value)}
    assert len(versions) == 1, f"{folder} is true to its manifest and holds versions {versions}"
    version = versions.pop()
    assert before.get("train_step", version) == version
    return version


def _checked(folder: Path, manifest_name: str) -> dict[str, Any]:
    try:
        manifest = read_json(folder / manifest_name)
        try:
            check_files(folder, manifest["files"])
        except IncompleteError as error:
            unchanged = read_json(folder / manifest_name) == manifest
            raise Refused(f"incomplete: {error}" if unchanged else "changed while it was read") from None
    except FileNotFoundError:
        raise Refused("no manifest") from None
    return manifest


def hidden(parent: Path) -> list[Path]:
    return [path for path in parent.iterdir() if path.name.startswith(".saver.")]


@dataclass
class Reader:
    """A thread that reads all the time. `look()` gives what was read; an assertion that fails ends it."""

    look: Callable[[], Iterator[str]]
    found: Counter[str] = field(default_factory=Counter)
    error: BaseException | None = None

    def __enter__(self) -> "Reader":
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stop.wait(0.001):  # so long as to leave the writers a processor
                self.found.update(self.look())
        except BaseException as error:
            self.error = error


@dataclass(frozen=True)
class Place:
    """One kind of save into one place, killed `kills` times.

    Half of the kills come from outside, after a random part of what a whole save takes; the other half at a
    random one of the steps that publishing has, from inside, as publishing is a small part of the whole time.
    """

    kind: str
    job: Job
    target: Path
    manifest: str

    def last(self, version: int) -> Path:
        """Where the version is found."""
        return self.target / f"{version:010}" if self.job is killed_writers.add_checkpoints else self.target

    @property
    def parent(self) -> Path:
        """Where writers stage."""
        return self.target if self.job is killed_writers.add_checkpoints else self.target.parent

    def scan(self) -> Iterator[str]:
        """Reads everything that is there: `accepted`, or why not."""
        folders = self.parent.iterdir() if self.parent.exists() else []
        for folder in [folder for folder in folders if is_name(folder.name)]:
            try:
                read(folder, self.manifest)
                yield "accepted"
            except Refused as refused:
                yield str(refused).partition(":")[0]

    def kill(self, forks: ForkServer, version: int) -> str:
        """Lets a writer save once (so soon after the last kill), and kills its second save; in which phase."""
        pid = forks.start(self.job, self.target, version)
        took_s, steps = forks.talk.recv()
        assert read(self.last(version), self.manifest) == version
        assert hidden(self.parent) == []
        from_outside = version % 4 < 2
        forks.talk.send(None if from_outside else random.randrange(steps))
        assert forks.talk.recv() == "going"
        if from_outside:
            time.sleep(random.uniform(0, took_s))
            os.kill(pid, signal.SIGKILL)
        assert forks.status() == -signal.SIGKILL
        return self._phase(version + 1)

    def _phase(self, version: int) -> str:
        staged = hidden(self.parent)
        try:
            new = read(self.last(version), self.manifest) == version
        except Refused:
            if self.last(version).exists():
                return "replacing"
            new = False
        if new:
            return "deleting" if staged else "after"
        if not staged:
            return "before"
        return "publishing" if any((path / self.manifest).exists() for path in staged) else "writing"


PLACES = [
    ("export over an export", killed_writers.save_export, "policy", "policy.json", (3, 70)),
    ("checkpoint over a checkpoint", killed_writers.overwrite_checkpoint, "latest", "checkpoint.json", (4, 65)),
    ("new checkpoints, keep_last=3", killed_writers.add_checkpoints, "checkpoints", "checkpoint.json", (4, 65)),
]


@pytest.fixture(scope="module")
def all_forks() -> Iterator[list[ForkServer]]:
    """As many as a test needs, with TensorFlow in them."""
    with fork_servers(len(PLACES), *TENSORFLOW) as all_forks:
        yield all_forks


def test_killed_writers_never_show_half_an_export_or_checkpoint(tmp_path, full, all_forks):
    """All places at once, as most of the time goes into making policies and exports."""
    errors, report = [], []

    def run(place: Place, kills: int, forks: ForkServer) -> None:
        try:
            with Reader(place.scan) as reader:
                phases = Counter(place.kill(forks, 2 * number) for number in range(1, kills + 1))
                assert place.manifest == "policy.json" or "replacing" not in phases
                pid = forks.start(place.job, place.target, 2 * kills + 2)
                forks.talk.recv()
                os.kill(pid, signal.SIGKILL)  # it waits for what to do next
                assert forks.status() == -signal.SIGKILL
            assert hidden(place.parent) == []
            if reader.error is not None:
                raise reader.error
            assert reader.found["accepted"] > 0
            if place.manifest == "checkpoint.json":
                assert reader.found["incomplete"] == 0, "half a checkpoint was seen"
            report.append(f"{place.kind}: {kills} kills, {dict(phases)}; reads {dict(reader.found)}")
        except BaseException as error:
            errors.append(error)

    threads = []
    for (kind, job, name, manifest, counts), forks in zip(PLACES, all_forks, strict=True):
        place = Place(kind, job, tmp_path / kind / name, manifest)
        threads.append(threading.Thread(target=run, args=(place, counts[full], forks)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    print("\n".join(report))
    if errors:
        raise ExceptionGroup("places", errors)


# A full disk


def files_below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("method", "manifest", "limits"),
    [
        # Bytes: nothing at all, not the first file, not the weights, not the graph, not policy.json.
        ("save_checkpoint", "checkpoint.json", [0, 50, 3000]),
        ("save", "policy.json", [0, 3000, 20_000]),
    ],
)
def test_full_disk_leaves_the_old_folder_as_it_was(tmp_path, method, manifest, limits, all_forks):
    for limit, forks in zip(limits, all_forks, strict=True):
        folder = tmp_path / str(limit) / "saved"
        forks.start(killed_writers.save_on_a_full_disk, method, folder, limit)
        assert forks.talk.recv() is None
        before = files_below(folder.parent)
        assert read(folder, manifest) == 1
        forks.talk.send("go on")
        kinds, message = forks.talk.recv()
        print(f"{method}, {limit} bytes: {kinds[0]}: {message}")
        assert {"OSError", "OpError"} & set(kinds)
        assert "File too large" in message
        assert files_below(folder.parent) == before
        assert [path.name for path in folder.parent.iterdir()] == ["saved"]
        forks.talk.send("go on")
        assert forks.talk.recv() is None
        assert read(folder, manifest) == 2
        forks.talk.send("go on")
        assert forks.status() == 0


# Arguments of save_checkpoint


@pytest.fixture(scope="module")
def trained() -> tuple[PolicySaver, tf.Variable]:
    train_step = tf.Variable(0, dtype=tf.int64)
    return PolicySaver(policies.q(), train_step=train_step), train_step


def test_keep_last_keeps_the_newest_checkpoints(tmp_path, trained):
    saver, train_step = trained
    for step in range(8, 13):
        train_step.assign(step)
        saver.save_checkpoint(tmp_path / f"step-{step}", keep_last=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-10", "step-11", "step-12"]
    train_step.assign(1)
    saver.save_checkpoint(tmp_path / "again", keep_last=1)
    assert [path.name for path in tmp_path.iterdir()] == ["again"]


def test_without_keep_last_all_checkpoints_stay(tmp_path, trained):
    for name in "abc":
        trained[0].save_checkpoint(tmp_path / name)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("keep_last", [0, -1, 1.0, "3", True, False])
def test_keep_last_that_is_no_count_is_refused_before_anything_is_written(tmp_path, trained, keep_last):
    with pytest.raises(ValueError, match=f"keep_last is {keep_last!r}: expected None or an integer of at least 1"):
        trained[0].save_checkpoint(tmp_path / "new" / "a", keep_last=keep_last)
    assert list(tmp_path.iterdir()) == []


def test_asynchronous_writing_is_refused_before_anything_is_written(tmp_path, trained):
    options = tf.train.CheckpointOptions(enable_async=True)
    with pytest.raises(ValueError, match="asynchronous writing: expected synchronous"):
        trained[0].save_checkpoint(tmp_path / "new" / "a", options)
    assert list(tmp_path.iterdir()) == []


def test_options_for_several_files_are_honoured(tmp_path, trained):
    options = tf.train.CheckpointOptions(
        experimental_sharding_callback=tf.train.experimental.MaxShardSizePolicy(max_shard_size=64)
    )
    trained[1].assign(0)
    for variable in trained[0]._raw_policy.variables():
        variable.assign(0 * variable)
    trained[0].save_checkpoint(tmp_path / "a", options)
    assert len(list((tmp_path / "a" / "variables").glob("*.data-*"))) > 1
    assert read(tmp_path / "a", "checkpoint.json") == 0


def test_large_checkpoint_is_true_to_its_files(tmp_path):
    """Large enough that it is hashed while TensorFlow writes it."""
    saver = PolicySaver(policies.q(units=400_000), train_step=tf.Variable(0, dtype=tf.int64))
    for name in "abc":
        for variable in saver._raw_policy.variables():
            variable.assign(0 * variable)
        saver.save_checkpoint(tmp_path / name)
        assert read(tmp_path / name, "checkpoint.json") == 0
