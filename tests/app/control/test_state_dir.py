import contextlib
import json
import os
from pathlib import Path

import pytest

from app.artifacts.bundle import Bundle
from app.control.state_dir import Kept, Memory, Pin, Store
from app.errors import UnusablePolicy
from saver.artifact import hash_files
from saver.artifact.publishing import discard, staged_folder

A, B = Kept("a", "digest-a", 1), Kept("b", "digest-b", 2)


@pytest.fixture
def store(tmp_path: Path):
    with Store(tmp_path / "state" / "p").opened() as opened:
        yield opened


@pytest.mark.parametrize("pin", [None, Pin("a"), Pin("a", held=True)])
def test_what_is_remembered_is_recalled(store, pin):
    memory = Memory("export-digest", (A, B), pin)
    store.remember(memory)
    assert store.recall("export-digest") == memory
    assert store.recall("another") == Memory("another")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 9}', '{"format": 1, "export": "e", "served": 7}'])
def test_a_damaged_memory_is_an_empty_one_and_the_log_says_so(store, tmp_path, text, caplog):
    (tmp_path / "state" / "p" / "state.json").write_text(text)
    assert store.recall("e") == Memory("e")
    assert "what served last is unknown" in caplog.text


def bundle(store: Store, kept: Kept, graph: str = "graph") -> Bundle:
    folder = store.place(kept.digest)
    (folder / "variables").mkdir(parents=True)
    (folder / "variables" / "weights").write_text(kept.name)
    files = hash_files(folder, [folder / "variables" / "weights"])
    made = Bundle(folder, graph, kept.digest, kept.train_step, "fake", "why", {"loss": 0.5}, files)
    made.write()
    return made


def test_bundles_are_found_again_also_after_a_restart_and_go_when_nobody_needs_them(store, tmp_path):
    made = bundle(store, A)
    assert store.bundle(A.digest, "graph") == Store(tmp_path / "state" / "p").bundle(A.digest, "graph") == made
    assert store.train_step(A.digest) == A.train_step
    store.remember(Memory("e", (A,)))
    assert store.bundle(A.digest, "graph") == made
    store.remember(Memory("e", (B,)))
    assert store.bundle(A.digest, "graph") is None
    assert list(made.folder.parent.iterdir()) == []


def test_bundle_of_another_graph_is_none(store):
    bundle(store, A)
    assert store.bundle(A.digest, "another graph") is None
    assert store.bundle("another digest", "graph") is None


def test_a_bundle_that_took_the_place_of_another_is_not_taken_for_it(store):
    bundle(store, A)
    assert store.bundle(A.digest, "graph") is not None
    discard(store.place(A.digest))
    bundle(store, A, "another graph")
    assert store.bundle(A.digest, "graph") is None
    assert store.bundle(A.digest, "another graph") is not None


def test_what_a_worker_is_loading_stays(store):
    made = bundle(store, A)
    store.remember(Memory("e", (B,)), besides=[A.digest])
    assert made.folder.is_dir()
    store.remember(Memory("e", (B,)))
    assert not made.folder.exists()


@pytest.mark.parametrize("engine", ["tensorflow", "litert"])
def test_a_bundle_for_another_engine_is_none(store, tmp_path, engine):
    bundle(store, A)
    assert Store(tmp_path / "state" / "p", engine).bundle(A.digest, "graph") is None


def test_what_a_killed_server_was_writing_is_gone_at_the_next_start(tmp_path):
    state = tmp_path / "p"
    with Store(state).opened():
        pass
    for name in ("versions", "graphs", "uploads"):
        with contextlib.ExitStack() as stack:
            staged = stack.enter_context(staged_folder(state / name / "x"))
            left = staged.with_name(f"{staged.name}0")  # as if nobody held its lock
            left.mkdir()
    (state / ".state.json.123").write_text("{")
    with Store(state).opened():
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
def test_bundle_that_was_damaged_is_none_to_the_next_server(store, tmp_path, spoil):
    made = bundle(store, A)
    spoil(made.folder)
    assert Store(tmp_path / "state" / "p").bundle(A.digest, "graph") is None


def test_two_servers_may_not_share_it(store, tmp_path):
    with pytest.raises(UnusablePolicy, match="in use by another server"), Store(tmp_path / "state" / "p").opened():
        pass


def test_it_is_free_again_when_the_first_server_has_ended(tmp_path):
    for _ in range(2):
        with Store(tmp_path / "p").opened() as opened:
            opened.remember(Memory("e", (A,)))
    with Store(tmp_path / "p").opened() as opened:
        assert opened.recall("e").served == (A,)


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UnusablePolicy, match="cannot be used"), Store(tmp_path / "file" / "p").opened():
        pass


def test_a_disk_that_takes_nothing_costs_the_memory_only(store, tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    store.remember(Memory("e", (A,)))
    assert caplog.text.count("No space left") == 1


def test_the_file_is_json_for_a_person_to_read(store, tmp_path):
    store.remember(Memory("e", (A,), Pin("a")))
    told = json.loads((tmp_path / "state" / "p" / "state.json").read_text())
    assert told["served"] == [{"name": "a", "digest": "digest-a", "train_step": 1}]
    assert told["pin"] == {"name": "a", "held": False}
