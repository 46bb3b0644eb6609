"""Packages as they are published: built once, installed into environments made from nothing."""

from pathlib import Path

import pytest

from tests.packages.building import Built, Environments, built, unreachable


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    """What is built of `client` and `saver`, by folder. Build backends and dependencies come from PyPI."""
    reason = unreachable()
    if reason:
        pytest.skip(f"PyPI cannot be reached, from which packages are built and installed: {reason}")
    folder = tmp_path_factory.mktemp("dist")
    return {name: built(name, folder / name) for name in ("client", "saver")}


@pytest.fixture(scope="session")
def environments(packages: dict[str, Built], tmp_path_factory: pytest.TempPathFactory) -> Environments:
    return Environments(packages, tmp_path_factory.mktemp("environments"))


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder from which nothing of the project can be imported."""
    return tmp_path
