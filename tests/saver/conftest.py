"""TensorFlow's environment, and real exports."""

import os

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.saver.policies import Saved


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> "Saved":
    """Exports of every kind of policy in tests/saver/policies.py."""
    from tests.saver.policies import Saved  # here, so that the fast tests alone need no TensorFlow

    return Saved(tmp_path_factory.mktemp("saved"))
