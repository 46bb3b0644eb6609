import json
from pathlib import Path

import pytest

from saver.artifact import (
    CHECKPOINT_FILE,
    IncompleteError,
    check_files,
    digest_of,
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


def test_digest_tells_whether_bytes_or_only_times_have_changed(folder):
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
