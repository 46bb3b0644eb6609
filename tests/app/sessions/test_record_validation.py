"""Which records are those of a policy's sessions."""

from typing import Any

import numpy as np
import pytest
from msgspec import structs

from app.sessions.record import Answer, Record, Run, Sums
from app.sessions.record_validation import Fitting
from saver.artifact import Leaf

FITTING = Fitting("identity", {"h": Leaf("h", "float32", (3,)), "n": Leaf("n", "int64", ())})


def fitting_record(**fields: Any) -> Record:
    state = {"h": np.zeros((2, 3), np.float32), "n": np.zeros(2, np.int64)}
    run = Run("identity", "b", "r", 2, True, None, None, False)
    answer = Answer("application/json", b"{}")
    return structs.replace(Record(run, 1, state, None, "v", 7, answer), **fields)


def state(**arrays: np.ndarray) -> dict[str, np.ndarray]:
    return fitting_record().state | arrays


def run(**fields: Any) -> Run:
    return structs.replace(fitting_record().run, **fields)


MISFITS = {
    "another width": {"state": state(h=np.zeros((2, 4), np.float32))},
    "more rows": {"state": state(h=np.zeros((3, 3), np.float32))},
    "no rows": {"state": state(n=np.zeros((), np.int64))},
    "another dtype": {"state": state(h=np.zeros((2, 3), np.float64))},
    "NaN": {"state": state(h=np.full((2, 3), np.nan, np.float32))},
    "infinite": {"state": state(h=np.full((2, 3), -np.inf, np.float32))},
    "a part too few": {"state": {"h": np.zeros((2, 3), np.float32)}},
    "a part too many": {"state": state(x=np.zeros(2, np.int64))},
    "ended of other rows": {"ended": np.zeros(3, bool)},
    "ended of numbers": {"ended": np.zeros(2, np.int32)},
    "returns of other rows": {"sums": Sums("digest", np.zeros((3, 2)))},
    "returns without lengths": {"sums": Sums("digest", np.zeros(2))},
    "returns in half as many bytes": {"sums": Sums("digest", np.zeros((2, 2), np.float32))},
    "a negative step": {"step": -1},
    "a step beyond all": {"step": 2**63},
    "negative rows": {"run": run(rows=-2)},
    "one value of two rows": {"run": run(batched=False)},
    "a seed beyond all": {"run": run(seed=2**64 - 1)},
    "an answer of another kind": {"answer": Answer("text/html\r\nx: y", b"<script>")},
}


@pytest.mark.parametrize("fields", MISFITS.values(), ids=MISFITS)
def test_record_that_does_not_fit_the_policy_is_found_out(fields: dict[str, Any]) -> None:
    assert FITTING.misfit(fitting_record(**fields))


def test_record_that_fits_passes_and_that_of_another_policy_is_not_judged() -> None:
    assert FITTING.misfit(fitting_record()) == ""
    assert FITTING.misfit(fitting_record(ended=np.ones(2, bool), answer=Answer("application/msgpack", b"\x80"))) == ""
    assert FITTING.misfit(fitting_record(sums=Sums("digest", np.full((2, 2), np.nan)))) == ""
    assert FITTING.misfit(fitting_record(run=run(policy="other", rows=-1))) == ""
    of_any_size = Fitting("identity", {"h": Leaf("h", "float32", (None,)), "n": Leaf("n", "int64", ())})
    assert of_any_size.misfit(fitting_record()) == ""
