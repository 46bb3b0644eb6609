"""Shared by the tests of the server's parts."""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.compiled import CompiledPolicies


@pytest.fixture(scope="session")
def compiled_policies(tmp_path_factory: pytest.TempPathFactory) -> "CompiledPolicies":
    """Policies of the zoo, opened and compiled when they are first asked for."""
    from tests.support.compiled import CompiledPolicies  # here, so that the fast tests alone need no TensorFlow

    return CompiledPolicies(tmp_path_factory.mktemp("compiled_policies"))
