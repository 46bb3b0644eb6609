"""Shared by the tests of the server's parts."""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.app.compiled import Shop


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> "Shop":
    """Policies of the zoo, opened and compiled when they are first asked for."""
    from tests.app.compiled import Shop  # here, so that the fast tests alone need no TensorFlow

    return Shop(tmp_path_factory.mktemp("shop"))
