"""What lies among checkpoints and is none is recognised by its name and by what it contains."""

import os
from pathlib import Path

import pytest

from app.artifacts.foreign import (
    NOT_A_FOLDER,
    exports_in,
    foreign_files,
    foreign_folder,
    hint_for,
    no_folder,
    shown,
)


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("model.h5", "a file of Keras"),
        ("step-5.tar", "it is an archive"),
        ("step-5.TGZ", "it is an archive"),
        ("policy.onnx", "another kind of model"),
        ("step-5", NOT_A_FOLDER),
        ("step.100", NOT_A_FOLDER),
        ("variables.index", "belong in a folder of their own"),
    ],
)
def test_a_file_that_may_be_taken_for_weights_has_its_reason(name: str, reason: str) -> None:
    assert reason in foreign_files([name])[name.removesuffix(".index")]


@pytest.mark.parametrize("name", ["notes.txt", "train.log", ".hidden.h5", "checkpoint"])
def test_a_file_that_nobody_takes_for_weights_has_none(name: str) -> None:
    assert foreign_files([name]) == {}


def test_the_files_of_one_checkpoint_of_tensorflow_have_one_entry() -> None:
    found = foreign_files(["ckpt-2.index", "ckpt-2.data-00000-of-00001", "ckpt-2.meta", "checkpoint", "ckpt-10.index"])
    assert sorted(found) == ["ckpt-10", "ckpt-2"]
    assert all("tf.train.Checkpoint" in reason for reason in found.values())


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["variables.index", "variables.data-00000-of-00001"], "its files lie in the folder itself"),
        (["ckpt-1.index", "ckpt-1.data-00000-of-00001"], "tf.train.Checkpoint"),
        (["saved_model.pbtxt"], "a SavedModel as text"),
        (["config.json"], "a model of Keras"),
        (["b/saved_model.pb", "a/saved_model.pb"], "this folder holds the policies a, b: serve those"),
        (["policies/greedy_policy/saved_model.pb", "train/x"], "the policies are policies/greedy_policy"),
        (["train/ckpt-1.index"], "train/ has its own checkpoints"),
    ],
)
def test_a_folder_of_something_else_has_its_reason(tmp_path: Path, names: list[str], reason: str) -> None:
    found = foreign_folder(fill(tmp_path, *names))
    assert found is not None
    assert reason in found
    assert hint_for(tmp_path) == f"; {found}"


@pytest.mark.parametrize(
    "names", [["variables/variables.index", "config.json"], ["saved_model.pb", "ckpt-1.index"], ["notes.txt"], []]
)
def test_a_checkpoint_an_export_and_what_nobody_knows_have_none(tmp_path: Path, names: list[str]) -> None:
    assert foreign_folder(fill(tmp_path, *names)) is None
    assert hint_for(tmp_path) == ""


def test_of_many_policies_the_first_are_named(tmp_path: Path) -> None:
    fill(tmp_path, *(f"p{number}/saved_model.pb" for number in range(9)))
    assert "p0, p1, p2, p3, p4, p5, p6, p7, …: serve" in str(foreign_folder(tmp_path))


def test_checkpoints_of_a_trainer_are_not_named_as_policies(tmp_path: Path) -> None:
    fill(tmp_path, "policies/checkpoints/saved_model.pb", "policies/policy/saved_model.pb")
    assert str(foreign_folder(tmp_path)).endswith("the policies are policies/policy")


def test_a_folder_that_is_gone_adds_nothing_to_a_complaint(tmp_path: Path) -> None:
    assert hint_for(tmp_path / "gone") == ""
    with pytest.raises(OSError, match="gone"):
        foreign_folder(tmp_path / "gone")


def test_an_export_that_is_hidden_is_still_being_written(tmp_path: Path) -> None:
    fill(tmp_path, ".b.partial/saved_model.pb", "a/saved_model.pb", "c/notes.txt")
    assert exports_in(tmp_path) == [tmp_path / "a"]


def test_what_leads_to_no_folder_has_its_kind_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "good").symlink_to(tmp_path)
    assert str(no_folder(tmp_path / "file")).startswith("it is a file, expected a folder with variables/")
    assert str(no_folder(tmp_path / "pipe")).startswith("it is a pipe")
    assert str(no_folder(Path("/dev/null"))).startswith("it is a device")
    assert no_folder(tmp_path / "link") == "it is a link that leads nowhere"
    assert no_folder(tmp_path / "gone") == "it cannot be read: No such file or directory"
    assert no_folder(tmp_path) is None
    assert no_folder(tmp_path / "good") is None


def test_a_name_is_shown_as_text_that_any_log_can_hold() -> None:
    assert shown("step-5") == "step-5"
    assert shown("a\nb\x1b[31m") == "a\\nb\\x1b[31m"
    assert shown(os.fsdecode(b"\xff")) == "\\xff"
    assert len(shown("x" * 1000)) == 200
