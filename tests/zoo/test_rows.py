"""Every kind: its rows are proved independent, or it is marked, where TF-Agents draws once for a whole call."""

from pathlib import Path

from app.workshop.load import load_copy, open_export
from app.workshop.rows import dependence_of_rows
from tests.zoo.exported import Exported


def test_rows_are_proved_independent_or_marked(exported: Exported, tmp_path: Path) -> None:
    graph = open_export(exported.folder, tmp_path)
    copy = load_copy(graph)
    found = dependence_of_rows(copy, graph.spec, graph.serving)
    if not exported.kind.draws_once_per_call:
        assert found is None
        return
    assert found is not None
    assert not found.mixes
    changes = "changes variables that all rows share"
    expected = changes if exported.kind.stateful else "draws the same numbers for all rows of a call"
    assert expected in found.reason
