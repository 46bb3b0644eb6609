"""One folder for all processes of a run of the tests: what takes seconds to make is made by the first that asks."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from saver.artifact.publishing import locked

_VARIABLE = "TESTS_SHARED_FOLDER"


def begin(config: pytest.Config) -> None:
    """Makes the folder, which goes with the run, where no other process of it has made one."""
    if _VARIABLE not in os.environ:
        os.environ[_VARIABLE] = path = tempfile.mkdtemp(prefix="tests-shared-")
        config.add_cleanup(lambda: shutil.rmtree(path, ignore_errors=True))
        config.add_cleanup(lambda: os.environ.pop(_VARIABLE, None))


def folder(name: str) -> Path:
    return Path(os.environ[_VARIABLE], name)


def made_once(place: Path, make: Callable[[Path], object]) -> Path:
    """Has a folder of `folder`, which nobody may write into, made where it is not there yet; others wait meanwhile."""
    lock = place.with_name(f"{place.name}.lock")
    lock.mkdir(parents=True, exist_ok=True)
    with locked(lock):
        if not place.exists():
            staged = place.with_name(f"{place.name}.staged")  # not `staged_folder`, in which no saver can write
            shutil.rmtree(staged, ignore_errors=True)
            make(staged)
            staged.rename(place)
    return place
