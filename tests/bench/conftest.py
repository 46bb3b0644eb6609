"""The policies that the benches measure, made once for all their tests."""

from pathlib import Path

import pytest

from bench.serving.exports import RECURRENT, SMALL, SWAPPED, Exports


@pytest.fixture(scope="session")
def bench_exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For `--exports`."""
    folder = tmp_path_factory.mktemp("bench-exports")
    Exports(folder, lambda _: None).make([SMALL, RECURRENT, SWAPPED])
    return folder
