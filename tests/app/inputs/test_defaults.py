import numpy as np
import pytest

from app.inputs.defaults import FIRST, MID, Defaults, default_leaves
from saver.artifact import Leaf
from tests.support.specs import LSTM_STATE, custom_spec, policy_spec

RECURRENT = policy_spec(state=LSTM_STATE)
STATE = {"0": np.full((2, 3), 7, np.float32), "1": np.full((2, 3), 8, np.float32)}


def sent(rows: int) -> dict[str, np.ndarray]:
    return {"0/observation": np.ones((rows, 4), np.float32)}


@pytest.mark.parametrize("rows", [1, 2, 1024, 1025])
def test_what_is_left_out_is_made_for_all_rows_and_what_was_sent_stays(rows: int) -> None:
    inputs = sent(rows) | {"0/reward": np.full(rows, 5, np.float32)}
    whole = Defaults(policy_spec()).complete(inputs, rows, None)
    assert whole["0/reward"] is inputs["0/reward"]
    assert whole["0/step_type"].tolist() == [MID] * rows
    assert whole["0/discount"].tolist() == [1.0] * rows
    assert {array.dtype.name for name, array in whole.items()} == {"float32", "int32"}


def test_initial_state_starts_an_episode() -> None:
    whole = Defaults(RECURRENT).complete(sent(2), 2, STATE)
    assert whole["0/step_type"].tolist() == [FIRST] * 2
    assert (whole["1/0"] == 7).all()
    assert (whole["1/1"] == 8).all()


def test_only_rows_of_the_reset_mask_start_from_the_initial_state() -> None:
    inputs = sent(2) | {"1/0": np.zeros((2, 3), np.float32), "1/1": np.ones((2, 3), np.float32)}
    whole = Defaults(RECURRENT).complete(inputs, 2, STATE, np.array([False, True]))
    assert whole["1/0"].tolist() == [[0] * 3, [7] * 3]
    assert whole["1/1"].tolist() == [[1] * 3, [8] * 3]


def test_defaults_serve_many_requests_and_so_are_read_only() -> None:
    defaults = Defaults(policy_spec())
    for rows in (2, 2000):
        assert not defaults.complete(sent(rows), rows, None)["0/reward"].flags.writeable


def test_own_inputs_have_no_defaults() -> None:
    assert default_leaves(custom_spec(Leaf("0", "float32", ()))) == {}
    assert set(default_leaves(RECURRENT)) == {"0/step_type", "0/reward", "0/discount"}
