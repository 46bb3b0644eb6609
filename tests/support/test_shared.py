"""What is shared by the processes of a run of the tests."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.shared import made_once


def test_what_several_ask_for_at_once_is_made_once_and_whole(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        folder.mkdir()
        time.sleep(0.01)
        (folder / "whole").touch()

    with ThreadPoolExecutor(4) as threads:
        places = [*threads.map(lambda _: made_once(tmp_path / "some" / "place", make), range(4))]
        assert all((place / "whole").exists() for place in places)
    assert len(made) == 1


def test_what_could_not_be_made_is_made_by_the_next(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        folder.mkdir()
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        made_once(tmp_path / "place", fail)
    assert not (tmp_path / "place").exists()
    assert made_once(tmp_path / "place", Path.mkdir).exists()
