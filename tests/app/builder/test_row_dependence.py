from pathlib import Path

import pytest
from tf_agents.policies import policy_saver

from app.builder.row_dependence import Rows, dependence_of_rows
from app.engine.savedmodel.engine import TensorFlowEngine
from app.engine.savedmodel.load import load_copy
from saver import PolicySaver
from tests.support.dependent import DEPENDENT, INDEPENDENT, CenteredByWeight, CenteredOverTheBatch, Linear, SharedNoise
from tests.support.opened import opened


def judged(folder: Path, make, kind=policy_saver.PolicySaver, **options):
    """Of a new export of the policy: TF-Agents' own one, if nothing else is said."""
    kind(make(), **options).save(str(folder / "export"))
    graph = opened(folder / "export")
    return dependence_of_rows(load_copy(graph), graph.spec, graph.serving)


@pytest.mark.parametrize("make", DEPENDENT)
def test_rows_that_depend_on_each_other_are_noticed(make, tmp_path: Path):
    found = judged(tmp_path, make)
    assert found is not None
    assert DEPENDENT[make] in found.reason


@pytest.mark.parametrize("make", INDEPENDENT)
def test_rows_that_only_look_so_are_not(make, tmp_path: Path):
    assert judged(tmp_path, make) is None


@pytest.mark.parametrize("make", [CenteredOverTheBatch, SharedNoise])
def test_our_own_exports_are_judged_alike(make, tmp_path: Path):
    assert judged(tmp_path, make, PolicySaver) is not None


@pytest.mark.parametrize(
    ("make", "size", "depends"),
    [(CenteredOverTheBatch, 3, True), (CenteredOverTheBatch, 1, False), (SharedNoise, 3, True), (Linear, 3, False)],
)
def test_a_fixed_batch_is_judged_by_batches_of_its_size(make, size, depends, tmp_path: Path):
    assert (judged(tmp_path, make, batch_size=size) is not None) is depends


def judged_once(folder: Path, monkeypatch) -> tuple[Rows, TensorFlowEngine, list[int]]:
    """What has judged a version, the copy with it, of which no rows depend on others, and the rows of later calls."""
    policy = CenteredByWeight()
    policy.kernel.assign(-policy.kernel)
    PolicySaver(policy).save(str(folder / "export"))
    graph = opened(folder / "export")
    copy, rows = load_copy(graph), Rows(graph.spec, graph.serving)
    assert rows.judge(copy) is None
    calls, run = [], copy.run
    monkeypatch.setattr(
        copy, "run", lambda name, inputs: calls.append(len(inputs["0/observation"])) or run(name, inputs)
    )
    return rows, copy, calls


def test_rows_of_a_later_version_are_judged_by_few_calls(tmp_path: Path, monkeypatch):
    rows, copy, calls = judged_once(tmp_path, monkeypatch)
    assert rows.judge(copy) is None
    assert sorted(calls) == [1, 1, 1, 7]

    (weights,) = copy.model.model_variables
    weights.assign(-weights)
    found = rows.judge(copy)
    assert found is not None
    assert found.mixes


def test_a_later_version_of_rows_too_large_for_many_a_call_is_judged_beside_others_too(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("app.builder.row_dependence._MOST_NUMBERS", 1)
    rows, copy, calls = judged_once(tmp_path, monkeypatch)
    assert rows.judge(copy) is None
    assert sorted(calls) == [1, 1, 1, 2, 2]


def test_only_what_depends_on_the_values_of_others_mixes_them(tmp_path: Path):
    assert judged(tmp_path / "a", CenteredOverTheBatch).mixes
    assert not judged(tmp_path / "b", SharedNoise).mixes


def test_rows_that_cannot_be_compared_are_taken_to_depend_on_each_other(tmp_path: Path, monkeypatch):
    def fails(*_: object) -> None:
        raise IndexError("no such row")

    monkeypatch.setattr("app.builder.row_dependence.differing_rows", fails)
    assert judged(tmp_path, Linear).reason == "comparing its rows fails: IndexError: no such row"
