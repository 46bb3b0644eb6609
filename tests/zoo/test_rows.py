"""Every kind: its rows are proved independent, or it is marked, where TF-Agents draws once for a whole call."""

from pathlib import Path

import pytest

from app.builder.open_export import open_export
from app.builder.row_dependence import dependence_of_rows
from app.engine.savedmodel.load import load_copy
from tests.zoo.exported import Exports
from tests.zoo.kinds import KINDS

# Noise for all rows, and what may look like it; state, images, strings, fixed batches, loops.
FEW = [
    "td3-gaussian-noise",
    "ou-noise",
    "dropout-thompson",
    "dqn-masked-epsilon",
    "export-seeded",
    "q-lstm-masked",
    "observation-image",
    "observation-word",
    "export-fixed-batch-lstm",
    "neural-lin-ucb-rewards",
    "action-nested",
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize("name", list(KINDS) if metafunc.config.getoption("--full") else FEW)


def test_rows_are_proved_independent_or_the_kind_is_marked(zoo: Exports, name: str, tmp_path: Path) -> None:
    exported = zoo[name]
    graph = open_export(exported.folder, tmp_path)
    found = dependence_of_rows(load_copy(graph), graph.spec, graph.serving)
    if not exported.kind.draws_once_per_call:
        assert found is None
        return
    assert found is not None
    assert not found.mixes
    changes = "changes variables that all rows share"
    assert (changes if exported.kind.stateful else "draws the same numbers for all rows of a call") in found.reason
