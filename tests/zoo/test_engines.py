"""Whatever runs a policy in a server answers as the policy itself: its values, or in distribution.

Across the rows of a call, across calls, and across processes.
"""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from app.builder.equivalence_episodes import check_episodes
from app.builder.row_comparison import Pair
from app.engine.savedmodel.load import load_copy
from app.errors import SwapRefused
from tests.support.server import ROOT
from tests.zoo.compare import asked_live, assert_equal, different_leaves
from tests.zoo.engines import NAMED, REFUSED, Served, compiled_share
from tests.zoo.exported import Exports, Flat, arrays
from tests.zoo.kinds import KINDS
from tests.zoo.table import engines_in
from tests.zoo.test_serving import ROWS, compare_distributions, compare_greedy

# Compiled and sampled, compiled, and on TensorFlow.
FEW = ["random-nested", "dqn-masked-greedy", "observation-word"]
# With state: a sampled one, and one that answers floats.
FEW_RECURRENT = ["ppo-lstm", "ddpg-lstm"]
RECURRENT = [
    *(name for name, kind in KINDS.items() if kind.group == "Recurrent"),
    *("action-nested-lstm", "export-fixed-batch-lstm", "export-no-nest-paths-lstm", "export-nested"),
]
_ENGINES = engines_in((ROOT / "docs" / "reference" / "policies.md").read_text())


@pytest.fixture(scope="module")
def served(zoo: Exports, full: bool, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Served]:
    """Kinds by name, as a server runs them: all of them with --full."""
    found = {}
    for name in KINDS if full else FEW:
        try:
            found[name] = Served.of(zoo[name], tmp_path_factory.mktemp("served"))
        except SwapRefused:
            assert _ENGINES[name] == REFUSED
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kind" in metafunc.fixturenames:
        metafunc.parametrize("kind", list(KINDS) if metafunc.config.getoption("--full") else FEW)


def test_served_answers_are_the_policys(served: dict[str, Served], kind: str) -> None:
    if kind not in served:
        pytest.skip("the server refuses it")
    here = served[kind]
    exported = here.exported
    flat = exported.inputs(exported.batch_size or ROWS, seed=3)
    if "distribution" in here:
        compare_distributions(exported, here, flat)
    if "greedy" in here and kind != "export-batch-info":  # which gives its info to each row; it is its action, below
        compare_greedy(exported, here, flat)
    if not exported.kind.stochastic:
        found = here.engine.run("action", flat)
        expected = arrays(exported.live(**flat))
        # A server gives each row what the policy gives once for all.
        assert_equal({name: np.broadcast_to(value, found[name].shape) for name, value in expected.items()}, found)
        return
    expected, inputs = asked_live(exported), exported.inputs(4, 3)
    for rows, calls in shapes(here):
        answers = {row: here.drawn(inputs, row, rows, calls) for row in range(1 if rows == 1 else 2)}
        found = {f"{name} of row {row}": value for row, flat in answers.items() for name, value in flat.items()}
        assert {name: value.dtype for name, value in found.items()}.items() <= {
            name: value.dtype for name, value in expected.items()
        }.items()
        assert not different_leaves({name: expected[name] for name in found}, found)


@pytest.mark.parametrize("recurrent", sorted(RECURRENT))
def test_episodes_are_equal_on_both_engines(zoo: Exports, recurrent: str, full: bool, tmp_path: Path) -> None:
    """24 steps with the state fed back, of every kind with state with --full."""
    if not full and recurrent not in FEW_RECURRENT:
        pytest.skip("with --full")
    here = Served.of(zoo[recurrent], tmp_path)
    assert here.bundle.engine == _ENGINES[recurrent]
    function = "sample" if here.exported.kind.stochastic and "sample" in here else "action"
    if function not in here.graph.serving.signatures and here.exported.kind.stochastic:
        pytest.skip("what it draws cannot be compared")
    check_episodes(Pair(here.engine, load_copy(here.graph), here.graph.spec, here.graph.serving), function)


def shapes(served: Served) -> list[tuple[int, int]]:
    """(rows of a call, calls) of samples: across rows, and across calls. Fewer calls where each takes a millisecond."""
    if served.exported.kind.draws_once_per_call:
        return [] if served.exported.kind.stateful else [(1, 1024)]
    return [(4096, 1), (1, 1024)]


@pytest.mark.timeout(1800)
def test_other_processes_answer_the_same_or_draw_for_themselves(served: dict[str, Served], tmp_path: Path) -> None:
    asked: dict[str, Flat] = {}
    for name, here in served.items():
        rows = 1 if here.exported.kind.draws_once_per_call else 512
        inputs = here.exported.inputs(4, 3)
        asked[name] = {key: np.repeat(array[:1], rows, axis=0) for key, array in inputs.items()}
        job = (here.graph.folder, here.bundle.folder, asked[name])
        (tmp_path / f"{name}.job").write_bytes(pickle.dumps(job))
    subprocess.run([sys.executable, "-m", "tests.zoo.elsewhere", str(tmp_path)], cwd=ROOT, check=True)
    for name, here in served.items():
        elsewhere = pickle.loads((tmp_path / f"{name}.answer").read_bytes())
        own = here.engine.run("action", asked[name])
        if not here.exported.kind.stochastic:
            assert_equal(own, elsewhere)
        elif not here.exported.kind.draws_once_per_call:
            assert not different_leaves(own, elsewhere), name
            varies = any(len(np.unique(own[key], axis=0)) > 1 for key in own)  # some masks leave one action
            differs = any((own[key] != elsewhere[key]).any() for key in own)
            assert differs or not varies or name == "export-seeded", name


def test_three_quarters_of_the_named_kinds_are_compiled() -> None:
    """By docs/reference/policies.md, which test_table.py compares with the exports."""
    assert {kind for kinds in NAMED.values() for kind in kinds} <= _ENGINES.keys()
    assert compiled_share(_ENGINES) >= 0.75
