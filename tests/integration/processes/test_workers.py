"""Several workers: they change weights together, and one that dies is replaced without a wrong answer to anybody."""

from collections.abc import Iterator

import pytest

from tests.integration.swaps.test_reload import NumberTrainer
from tests.support.server import RunningServer, serving

OBSERVATION = {"observation": [0.0, 0.0]}


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> NumberTrainer:
    return NumberTrainer(tmp_path_factory.mktemp("workers") / "policy")


@pytest.fixture(scope="module")
def server(trainer: NumberTrainer) -> Iterator[RunningServer]:
    with serving({"policy": trainer.folder}, "--workers", "2", "--no-watch", "--log-level", "warning") as running:
        yield running
