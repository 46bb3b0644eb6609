import contextlib
import json
import os
from pathlib import Path

import pytest

from app.artifacts.bundle import Bundle
from app.artifacts.records import Pin, VersionRecord
from app.control.state_dir import SavedState, StateDir
from app.errors import UnusablePolicy
from saver.artifact import hash_files
from saver.artifact.publishing import discard, staged_folder

A, B = VersionRecord("a", "digest-a", 1), VersionRecord("b", "digest-b", 2)


@pytest.fixture
def state_dir(tmp_path: Path):
    with StateDir(tmp_path / "state" / "p").opened() as opened:
        yield opened


@pytest.mark.parametrize("pin", [None, Pin("a"), Pin("a", survives_deletion=True)])
def test_what_is_saved_is_loaded(state_dir, pin):
    saved_state = SavedState("export-digest", (A, B), pin)
    state_dir.save(saved_state)
    assert state_dir.load("export-digest") == saved_state
    assert state_dir.load("another") == SavedState("another")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 9}', '{"format": 1, "export": "e", "served": 7}'])
def test_a_damaged_state_is_an_empty_one_and_the_log_says_so(state_dir, tmp_path, text, caplog):
    (tmp_path / "state" / "p" / "state.json").write_text(text)
    assert state_dir.load("e") == SavedState("e")
    assert "what served last is unknown" in caplog.text


def bundle(state_dir: StateDir, record: VersionRecord, graph: str = "graph") -> Bundle:
    folder = state_dir.place(record.digest)
    (folder / "variables").mkdir(parents=True)
    (folder / "variables" / "weights").write_text(record.name)
    files = hash_files(folder, [folder / "variables" / "weights"])
    made = Bundle(folder, graph, record.digest, record.train_step, "fake", "why", {"loss": 0.5}, files)
    made.write()
    return made


def test_bundles_are_found_again_also_after_a_restart_and_go_when_nobody_needs_them(state_dir, tmp_path):
    made = bundle(state_dir, A)
    assert state_dir.bundle(A.digest, "graph") == StateDir(tmp_path / "state" / "p").bundle(A.digest, "graph") == made
    assert state_dir.train_step(A.digest) == A.train_step
    state_dir.save(SavedState("e", (A,)))
    assert state_dir.bundle(A.digest, "graph") == made
    state_dir.save(SavedState("e", (B,)))
    assert state_dir.bundle(A.digest, "graph") is None
    assert list(made.folder.parent.iterdir()) == []


def test_bundle_of_another_graph_is_none(state_dir):
    bundle(state_dir, A)
    assert state_dir.bundle(A.digest, "another graph") is None
    assert state_dir.bundle("another digest", "graph") is None


def test_a_bundle_that_took_the_place_of_another_is_not_taken_for_it(state_dir):
    bundle(state_dir, A)
    assert state_dir.bundle(A.digest, "graph") is not None
    discard(state_dir.place(A.digest))
    bundle(state_dir, A, "another graph")
    assert state_dir.bundle(A.digest, "graph") is None
    assert state_dir.bundle(A.digest, "another graph") is not None


def test_what_a_worker_is_loading_stays(state_dir):
    made = bundle(state_dir, A)
    state_dir.save(SavedState("e", (B,)), besides=[A.digest])
    assert made.folder.is_dir()
    state_dir.save(SavedState("e", (B,)))
    assert not made.folder.exists()


@pytest.mark.parametrize("engine", ["tensorflow", "litert"])
def test_a_bundle_for_another_engine_is_none(state_dir, tmp_path, engine):
    bundle(state_dir, A)
    assert StateDir(tmp_path / "state" / "p", engine).bundle(A.digest, "graph") is None


def test_what_a_killed_server_was_writing_is_gone_at_the_next_start(tmp_path):
    state = tmp_path / "p"
    with StateDir(state).opened():
        pass
    for name in ("versions", "graphs", "uploads"):
        with contextlib.ExitStack() as stack:
            staged = stack.enter_context(staged_folder(state / name / "x"))
            left = staged.with_name(f"{staged.name}0")  # as if nobody held its lock
            left.mkdir()
    (state / ".state.json.123").write_text("{")
    with StateDir(state).opened():
        assert list(state.rglob(".*")) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "variables" / "weights").write_text("other weights"),
        lambda folder: (folder / "variables" / "weights").unlink(),
        lambda folder: (folder / "bundle.json").unlink(),
        lambda folder: (folder / "bundle.json").write_text("{"),
        lambda folder: (folder / "bundle.json").write_text('{"format": 1, "files": {}}'),
    ],
)
def test_bundle_that_was_damaged_is_none_to_the_next_server(state_dir, tmp_path, spoil):
    made = bundle(state_dir, A)
    spoil(made.folder)
    assert StateDir(tmp_path / "state" / "p").bundle(A.digest, "graph") is None


def test_two_servers_may_not_share_it(state_dir, tmp_path):
    with pytest.raises(UnusablePolicy, match="in use by another server"), StateDir(tmp_path / "state" / "p").opened():
        pass


def test_it_is_free_again_when_the_first_server_has_ended(tmp_path):
    for _ in range(2):
        with StateDir(tmp_path / "p").opened() as opened:
            opened.save(SavedState("e", (A,)))
    with StateDir(tmp_path / "p").opened() as opened:
        assert opened.load("e").served == (A,)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UnusablePolicy, match="cannot be used"), StateDir(tmp_path / "file" / "p").opened():
        pass


def test_a_disk_that_takes_nothing_costs_the_record_only(state_dir, tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    state_dir.save(SavedState("e", (A,)))
    assert caplog.text.count("No space left") == 1


def test_the_file_is_json_for_a_person_to_read(state_dir, tmp_path):
    state_dir.save(SavedState("e", (A,), Pin("a")))
    saved = json.loads((tmp_path / "state" / "p" / "state.json").read_text())
    assert saved["served"] == [{"name": "a", "digest": "digest-a", "train_step": 1}]
    assert saved["pin"] == {"name": "a", "survives_deletion": False}
