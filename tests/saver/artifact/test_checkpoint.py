import json
import os
import random
import threading
from pathlib import Path

import pytest

from saver.artifact import (
    CHECKPOINT_FILE,
    IncompleteError,
    check_files,
    digest_of,
    natural_order,
    prune_checkpoints,
    read_checkpoint_manifest,
    write_checkpoint_manifest,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "variables").mkdir()
    (tmp_path / "variables" / "variables.index").write_text("index")
    (tmp_path / "variables" / "variables.data-00000-of-00001").write_text("data")
    return tmp_path


def test_manifest_comes_back_as_it_was_written(folder):
    written = write_checkpoint_manifest(folder, 700)
    assert read_checkpoint_manifest(folder) == written
    assert written.train_step == 700
    assert set(written.files) == {"variables/variables.index", "variables/variables.data-00000-of-00001"}
    assert written.digest == digest_of(written.files)
    check_files(folder, written.files)


def test_manifest_has_the_fields_of_the_format(folder):
    write_checkpoint_manifest(folder, -1)
    assert set(json.loads((folder / CHECKPOINT_FILE).read_text())) == {"format", "train_step", "digest", "files"}


def test_digest_shows_whether_bytes_or_only_times_have_changed(folder):
    first = write_checkpoint_manifest(folder, 700).digest
    (folder / "variables" / "variables.index").write_text("index")
    assert write_checkpoint_manifest(folder, 700).digest == first
    (folder / "variables" / "variables.index").write_text("Index")
    assert write_checkpoint_manifest(folder, 700).digest != first


def test_checkpoint_without_manifest_is_one_of_another_saver(folder):
    assert read_checkpoint_manifest(folder) is None
    assert read_checkpoint_manifest(folder / "nowhere") is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 2}, "has format 2, expected 1"),
        ({"format": None}, "has format None, expected 1"),
        ({"train_step": 2**70}, "train_step is 1180591620717411303424, expected an integer of 64 bits"),
        ({"train_step": -(2**63) - 1}, "expected an integer of 64 bits"),
        ({"train_step": 7.5}, "train_step is 7.5, expected an integer"),
        ({"train_step": "7"}, "train_step is 7, expected an integer"),
        ({"train_step": True}, "train_step is True, expected an integer"),
        ({"train_step": "seven"}, "lacks a usable field"),
        ({"train_step": None}, "lacks a usable field"),
        ({"files": [1]}, "lacks a usable field"),
        ({"files": {}}, "at odds with itself"),
        ({"digest": "0" * 64}, "at odds with itself"),
    ],
)
def test_manifest_that_cannot_be_used_says_why(folder, change, says):
    write_checkpoint_manifest(folder, 700)
    path = folder / CHECKPOINT_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(IncompleteError, match=f"checkpoint.json.*{says}"):
        read_checkpoint_manifest(folder)


@pytest.mark.parametrize("field", ["format", "train_step", "digest", "files"])
def test_every_field_is_needed(folder, field):
    write_checkpoint_manifest(folder, 700)
    path = folder / CHECKPOINT_FILE
    data = json.loads(path.read_text())
    del data[field]
    path.write_text(json.dumps(data))
    with pytest.raises(IncompleteError):
        read_checkpoint_manifest(folder)


# Retention


def add(parent: Path, name: str, train_step: int) -> Path:
    (parent / name / "variables").mkdir(parents=True)
    (parent / name / "variables" / "variables.index").write_text(name)
    write_checkpoint_manifest(parent / name, train_step)
    return parent / name


def names(parent: Path) -> list[str]:
    return sorted(path.name for path in parent.iterdir())


@pytest.mark.parametrize(
    ("keep_last", "kept"),
    [(1, ["new"]), (2, ["new", "zero"]), (3, ["c10", "new", "zero"]), (4, ["c10", "c9", "new", "zero"]), (9, None)],
)
def test_newest_by_train_step_and_then_by_name_stay(tmp_path, keep_last, kept):
    for name, train_step in (("zero", 30), ("c9", 20), ("c10", 20), ("c1", 20), ("z", 10)):
        add(tmp_path, name, train_step)
    everything = [*names(tmp_path), "new"]
    prune_checkpoints(add(tmp_path, "new", 15), keep_last)
    assert names(tmp_path) == (sorted(everything) if kept is None else kept)


def test_checkpoint_just_written_stays_whatever_its_train_step(tmp_path):
    for step in (10, 20, 30):
        add(tmp_path, str(step), step)
    prune_checkpoints(add(tmp_path, "again", -1), 2)
    assert names(tmp_path) == ["30", "again"]


def test_only_checkpoints_of_ours_are_pruned(tmp_path):
    outside = add(tmp_path, "outside", 1)
    parent = tmp_path / "checkpoints"
    add(parent, ".hidden", 1)
    (add(parent, "plain", 1) / CHECKPOINT_FILE).unlink()
    (add(parent, "odd", 1) / CHECKPOINT_FILE).write_text("{")
    (add(parent, "fifo", 1) / CHECKPOINT_FILE).unlink()
    os.mkfifo(parent / "fifo" / CHECKPOINT_FILE)
    (parent / "link").symlink_to(outside)
    (parent / "file").write_text("1")
    (parent / "empty").mkdir()
    before = names(parent)
    add(parent, "old", 1)
    prune_checkpoints(add(parent, "new", 2), 1)
    assert names(parent) == sorted([*before, "new"])
    assert (outside / CHECKPOINT_FILE).exists()


def test_trainers_that_prune_at_once_do_not_fail(tmp_path, monkeypatch):
    def no_locks(*_: object) -> None:
        raise OSError("no locks")

    monkeypatch.setattr("fcntl.flock", no_locks)  # the harder case
    errors = []

    def train(number: int) -> None:
        try:
            for step in range(number, 60, 3):
                prune_checkpoints(add(tmp_path, f"{step:02}", step), 4)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=train, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(names(tmp_path)) <= 6
    assert "59" in names(tmp_path)


def test_natural_order_sorts_numbers_as_numbers():
    expected = ["", "7", "10", "0100", "100", "a", "a2b", "a10b", "step", "step-9", "step-10"]
    shuffled = random.Random(0).sample(expected, len(expected))
    assert sorted(shuffled, key=natural_order) == expected
