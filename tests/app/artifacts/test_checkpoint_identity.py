"""A checkpoint is identified by its manifest, or by its files once they are whole and at rest."""

import json
import os
import time
from pathlib import Path

import pytest

from app.artifacts.checkpoint_identity import Identity, identify, manifest_of, plain_files
from app.errors import Incomplete, SwapRefused
from saver.artifact import digest_of, hash_files, write_checkpoint_manifest

INDEX, DATA = "variables.index", "variables.data-00000-of-00001"


def put(parent: Path, *names: str, ago_s: float = 60) -> Path:
    """A checkpoint with these files in its variables, that was written some time ago."""
    folder = parent / "step-5"
    (folder / "variables").mkdir(parents=True)
    for name in names:
        (folder / "variables" / name).write_text(name)
    rest(folder, ago_s)
    return folder


def rest(folder: Path, ago_s: float = 60) -> None:
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (time.time() - ago_s,) * 2, follow_symlinks=False)


def seven(folder: Path, digest: str) -> int:
    assert folder.name == "step-5"
    assert len(digest) == 64
    return 7


def none(folder: Path, digest: str) -> int:
    raise AssertionError("the values are not to be read")


def test_with_a_manifest_it_is_what_that_says_without_reading_values(tmp_path: Path) -> None:
    folder = put(tmp_path, INDEX, DATA, ago_s=0)
    manifest = write_checkpoint_manifest(folder, 3)
    assert identify(folder, 60, none) == Identity(manifest.digest, 3)
    assert manifest_of(folder) == manifest


def test_with_a_manifest_a_file_that_is_missing_is_not_waited_for(tmp_path: Path) -> None:
    folder = put(tmp_path, INDEX, DATA)
    write_checkpoint_manifest(folder, 3)
    (folder / "variables" / DATA).unlink()
    with pytest.raises(Incomplete, match=f"variables/{DATA} is missing") as caught:
        identify(folder, 0, none)
    assert caught.value.settled


def test_a_manifest_that_cannot_be_used_is_refused_for_good(tmp_path: Path) -> None:
    folder = put(tmp_path, INDEX, DATA)
    (folder / "checkpoint.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(SwapRefused, match=r"checkpoint.json has format 99, expected 1") as caught:
        identify(folder, 0, none)
    assert not caught.value.for_now


def test_without_a_manifest_the_values_say_the_train_step_and_the_files_the_digest(tmp_path: Path) -> None:
    folder = put(tmp_path, INDEX, DATA)
    found = identify(folder, 1, seven)
    assert found.train_step == 7
    (folder / "variables" / "notes").write_text("of no effect")
    rest(folder)
    assert identify(folder, 1, seven) == found
    (folder / "variables" / DATA).write_text("other weights")
    rest(folder)
    assert identify(folder, 1, seven).digest != found.digest


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ((), "variables/variables.index is missing"),
        ((DATA,), "variables/variables.index is missing"),
        ((INDEX,), "0 of its data files are there"),
        ((INDEX, "variables.data-00001-of-00002"), "1 of 2 data files are there"),
    ],
)
@pytest.mark.parametrize("ago_s", [0, 60])
def test_what_is_missing_is_waited_for_while_anything_changes(
    tmp_path: Path, names: tuple[str, ...], reason: str, ago_s: float
) -> None:
    folder = put(tmp_path, *names, ago_s=ago_s)
    with pytest.raises(Incomplete, match=reason) as caught:
        identify(folder, 5, none)
    assert caught.value.settled == bool(ago_s)
    with pytest.raises(SwapRefused, match=reason):
        plain_files(folder)


@pytest.mark.parametrize(("ago_s", "changing"), [(0, True), (60, False), (-60, False)])
def test_it_is_whole_when_it_is_at_rest_by_whatever_clock(tmp_path: Path, ago_s: float, changing: bool) -> None:
    folder = put(tmp_path, INDEX, DATA, ago_s=ago_s)
    if not changing:
        assert identify(folder, 5, seven).train_step == 7
        return
    with pytest.raises(Incomplete, match="its files changed just now") as caught:
        identify(folder, 5, none)
    assert not caught.value.settled


def test_a_graph_that_was_not_saved_as_a_policy_is_refused(tmp_path: Path) -> None:
    folder = put(tmp_path, INDEX, DATA)
    (folder / "saved_model.pb").write_bytes(b"graph")
    rest(folder)
    with pytest.raises(SwapRefused, match=r"PolicySaver has not written: policy_specs.pbtxt is missing"):
        identify(folder, 0, none)
    (folder / "policy_specs.pbtxt").write_bytes(b"specs")
    rest(folder)
    assert identify(folder, 0, seven).train_step == 7


def test_an_export_is_identified_by_its_graph_too_and_a_checkpoint_by_its_variables_alone(tmp_path: Path) -> None:
    folder = put(tmp_path, INDEX, DATA)
    weights = digest_of(hash_files(folder, [folder / "variables" / name for name in (INDEX, DATA)]))
    found = [identify(folder, 1, seven).digest]
    assert found == [weights]
    for content in ("one", "another"):
        for name in ("policy_specs.pbtxt", "saved_model.pb", "assets/words/vocabulary"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content)
            rest(folder)
            if (folder / "saved_model.pb").exists():
                found.append(identify(folder, 1, seven).digest)
    assert len(set(found)) == len(found) == 6
    (folder / "fingerprint.pb").write_text("of no effect")
    rest(folder)
    assert identify(folder, 1, seven).digest == found[-1]


def test_an_export_of_our_saver_is_identified_by_what_policy_json_says_of_its_files(tmp_path: Path) -> None:
    folder = put(tmp_path, INDEX, DATA)
    found = []
    for content in ("digests", "other digests"):
        for name in ("saved_model.pb", "policy_specs.pbtxt", "policy.json"):
            (folder / name).write_text(content)
        rest(folder)
        found.append(identify(folder, 1, seven).digest)
    assert found[0] != found[1]
    assert plain_files(folder)[-1] == "policy.json"


@pytest.mark.parametrize("name", ["saved_model.pb", "policy_specs.pbtxt", "assets/vocabulary", "policy.json"])
def test_an_export_is_whole_when_its_graph_is_at_rest(tmp_path: Path, name: str) -> None:
    folder = put(tmp_path, INDEX, DATA)
    (folder / "assets").mkdir()
    for file in ("saved_model.pb", "policy_specs.pbtxt", name):
        (folder / file).write_text("whole")
    rest(folder)
    (folder / name).write_text("in place")
    with pytest.raises(Incomplete, match="its files changed just now"):
        identify(folder, 5, none)


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_not(tmp_path: Path) -> None:
    parent = tmp_path / "checkpoints"
    folder = put(parent, INDEX, DATA)
    (parent / "latest").symlink_to("step-5")
    (parent / "out").symlink_to(folder.rename(tmp_path / "step-6"))
    folder = put(parent, INDEX, DATA)
    assert identify(parent / "latest", 0, lambda *_: 7).train_step == 7
    with pytest.raises(SwapRefused, match="it is a link that leads outside checkpoints"):
        identify(parent / "out", 0, none)
    (tmp_path / "checkpoint.json").write_text("{}")
    (folder / "checkpoint.json").symlink_to(tmp_path / "checkpoint.json")
    with pytest.raises(SwapRefused, match=r"checkpoint.json leads outside step-5"):
        identify(folder, 0, none)


@pytest.mark.parametrize(
    ("error", "for_now", "reason"),
    [
        (MemoryError("16 MiB"), True, "it cannot be read: 16 MiB"),
        (OSError(24, "Too many open files"), True, "Too many open files"),
        (SwapRefused("the disk is full", for_now=True), True, "^the disk is full$"),
        (SwapRefused("its index is damaged"), False, "^its index is damaged$"),
    ],
)
def test_what_the_machine_is_to_blame_for_is_refused_for_now(
    tmp_path: Path, error: Exception, for_now: bool, reason: str
) -> None:
    folder = put(tmp_path, INDEX, DATA)

    def fail(*_: object) -> int:
        raise error

    with pytest.raises(SwapRefused, match=reason) as caught:
        identify(folder, 0, fail)
    assert caught.value.for_now == for_now


def test_the_files_that_count_are_the_index_and_every_data_file(tmp_path: Path) -> None:
    folder = put(tmp_path, INDEX, "variables.data-00000-of-00002", "variables.data-00001-of-00002", "notes", ago_s=0)
    assert sorted(plain_files(folder)) == [
        "variables/variables.data-00000-of-00002",
        "variables/variables.data-00001-of-00002",
        "variables/variables.index",
    ]
