"""A bundle says which version it is, what runs it and which rows may share a call; of another format it is none."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.artifacts.bundle import BUNDLE_MANIFEST, Bundle, RowSharing
from saver.artifact import hash_files

SHARING = RowSharing("a batch has statistics of its own", whole_batches=True, one_row=True)


@pytest.fixture
def made(tmp_path: Path) -> Bundle:
    (tmp_path / "model.tflite").write_bytes(b"weights")
    files = hash_files(tmp_path, [tmp_path / "model.tflite"])
    bundle = Bundle(tmp_path, "graph", "digest", 7, "litert", "equal", {"loss": 0.5}, files, sharing=SHARING)
    bundle.write()
    return bundle


def rewrite(folder: Path, **changed: Any) -> None:
    data = json.loads((folder / BUNDLE_MANIFEST).read_text()) | changed
    (folder / BUNDLE_MANIFEST).write_text(json.dumps({key: value for key, value in data.items() if value is not None}))


def test_what_is_written_is_read(made: Bundle) -> None:
    found = Bundle.read(made.folder)
    assert found == made
    assert found is not None
    assert found.dependent_rows == SHARING.dependent


def test_unless_said_otherwise_requests_share_calls_of_any_number_of_rows() -> None:
    assert RowSharing() == RowSharing("", whole_batches=False, one_row=False)


@pytest.mark.parametrize(
    "changed",
    [
        {"format": 2},
        # What format 2 had instead.
        {"sharing": None, "dependent_rows": "", "whole_batches": False, "one_row": False},
        {"sharing": None},
        {"sharing": {"of another kind": True}},
        {"sharing": "text"},
        {"unknown": 1},
        {"files": {"model.tflite": "0" * 64}},
    ],
)
def test_another_form_is_no_bundle_and_so_made_anew(made: Bundle, changed: dict[str, Any]) -> None:
    rewrite(made.folder, **changed)
    assert Bundle.read(made.folder) is None


def test_a_bundle_of_the_format_before_is_prepared_again_and_not_an_error(made: Bundle) -> None:
    """As a server finds it in the state directory of an earlier one."""
    data = json.loads((made.folder / BUNDLE_MANIFEST).read_text())
    before = {**data, "format": 2, "dependent_rows": "", "whole_batches": False, "one_row": False}
    del before["sharing"]
    (made.folder / BUNDLE_MANIFEST).write_text(json.dumps(before))
    assert Bundle.read(made.folder) is None
