"""Every operation, on the engine that a server chooses, gives what TensorFlow gives: docs/reference/operations.md."""

from pathlib import Path

import numpy as np
import pytest

from app.engine.savedmodel.engine import TensorFlowEngine
from tests.support.server import ROOT
from tests.sweep.compare import TOLERANCE, differences
from tests.sweep.operation import Operation, one
from tests.sweep.operations import OPERATIONS
from tests.sweep.served import Served
from tests.sweep.table import KNOWN, Row, page, rows_in
from tests.sweep.values import CLASSES, ORDINARY, calls_for, class_of

PAGE = (ROOT / "docs" / "reference" / "operations.md").read_text()
ROWS = rows_in(PAGE)
# Each of another sort: ties, 32 bits, clips, divisions, sums, look-ups in a variable, cells, and one without LiteRT.
FEW = (
    *("FakeQuantWithMinMaxArgs", "OneHot, by int64", "ClipByValue 0 to 6 int64", "Round", "FloorDiv", "Xlog1py"),
    *("TopKV2", "GatherV2, by int64", "ResourceGatherNd", "Conv2D", "LSTMCell of Keras", "Cholesky"),
)
# What no ordinary number may bring about, whatever the page says.
_WRONG = {"refused", "answered", "form", "NaN", "infinite", "integer", "value"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", list(OPERATIONS) if metafunc.config.getoption("--full") else FEW)


# Probes of 1e6 are infinite in 16 bits, which a server asks too.
@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_operation(name: str, tmp_path: Path) -> None:
    served = Served.of(OPERATIONS[name], tmp_path)
    found = differences(served)
    wrong = [d for d in found if d.where == ORDINARY and d.how in _WRONG]
    assert not wrong or name in KNOWN, wrong[0]
    row, documented = Row.of(name, served.name, found), ROWS[name]
    assert row.engine == documented.engine, served.why
    assert row.difference <= TOLERANCE or name.endswith("float16"), row
    assert set(row.otherwise) <= set(documented.otherwise), found


def test_the_page_has_every_operation() -> None:
    assert sorted(ROWS) == sorted(OPERATIONS)
    assert page(ROWS.values()) == PAGE


def test_there_are_enough_of_them() -> None:
    assert len(OPERATIONS) >= 231
    assert set(KNOWN) <= OPERATIONS.keys()


def test_differences_are_seen(tmp_path: Path) -> None:
    """An engine that is wrong in one number only, of each class."""
    served = Served.of(Operation("Identity", "", lambda x: x * 1.0, one(), {}), tmp_path)
    wrong = {ORDINARY: (2.5, 3.0), "denormal": (1e-40, 1.0), "above 1e27": (1e30, 0.0), "not finite": (np.inf, np.nan)}

    def engine(flat: dict[str, np.ndarray]) -> list[np.ndarray]:
        array = flat["x"].copy()
        for value, answer in wrong.values():
            array[array == np.float32(value)] = answer
        return [array]

    found = differences(Served(served.operation, served.live, engine, "", ""))
    assert {(d.where, d.how) for d in found} >= {
        *((where, "value") for where in CLASSES[:3]),
        ("not finite", "NaN"),
    }


def test_special_numbers_are_asked() -> None:
    calls = dict(calls_for(OPERATIONS["Abs"]))
    assert list(calls) == list(CLASSES)
    for number, (name, flat) in enumerate(calls.items()):
        assert class_of(flat["x"]).max() == number, name
    ordinary = calls[ORDINARY]["x"].ravel()
    assert {0.5, 1.5, 2.5, -2.5, 6.0} <= set(ordinary.tolist())
    assert np.signbit(ordinary[ordinary == 0]).any()
    beyond = OPERATIONS["OneHot, by int64"].values["x"]
    assert 8589934594 in beyond
    assert TensorFlowEngine.name == ROWS["Cholesky"].engine
