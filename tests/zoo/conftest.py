"""The zoo's exports, shared by all its tests."""

import pytest

from tests.zoo.exported import Exported, Exports
from tests.zoo.kinds import FEW, KINDS


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory, full: bool) -> Exports:
    """Every kind by name, exported once."""
    return Exports(tmp_path_factory.mktemp("zoo"), KINDS if full else FEW[::3])


@pytest.fixture(scope="session")
def kinds(full: bool) -> list[str]:
    """The names of the kinds that this run looks at."""
    return list(KINDS) if full else FEW


@pytest.fixture
def exported(request: pytest.FixtureRequest, zoo: Exports) -> Exported:
    """One kind after the other: all with --full, else some of each group."""
    return zoo[request.param]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "exported" in metafunc.fixturenames:
        names = list(KINDS) if metafunc.config.getoption("--full") else FEW
        metafunc.parametrize("exported", names, indirect=True)
