"""TensorFlow gets a path that it takes as it stands; nothing is left of it."""

import tempfile
from pathlib import Path

import pytest

from saver.artifact.literal_path import literal_path


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.parametrize("name", ["hidden=[64,64]", "a*", "a?", "a\\b", "[", "[x]/inside"])
def test_a_path_that_would_be_a_pattern_is_led_to_by_another(tmp_path: Path, temporary: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir(parents=True)
    (folder / "file").write_text("here")
    with literal_path(folder) as path:
        assert not set(str(path)) & set("*?[\\")
        assert (path / "file").read_text() == "here"
        assert list(temporary.iterdir()) == [path.parent]
    assert not any(temporary.iterdir())
    assert (folder / "file").is_file()


@pytest.mark.parametrize("name", ["plain", "a b", "a#b", "é", "a%20b", "a]b", "{a}"])
def test_any_other_path_stays_as_it_is(tmp_path: Path, temporary: Path, name: str) -> None:
    with literal_path(tmp_path / name) as path:
        assert path == tmp_path / name
        assert not any(temporary.iterdir())


def test_a_relative_path_may_be_a_pattern_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "[1]").mkdir()
    monkeypatch.chdir(tmp_path)
    with literal_path(Path("[1]")) as path:
        assert path.samefile(tmp_path / "[1]")


def test_the_folder_for_temporary_files_may_be_named_after_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "job.1234[5]"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with literal_path(folder) as path:
        assert "[" not in str(path)
        assert path.samefile(folder)
