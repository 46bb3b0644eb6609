"""TensorFlow's engine: flat arrays in and out, in calls of as many rows as the version takes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from app.artifacts.bundle import RowSharing
from app.engine.base import InputRefused
from app.engine.savedmodel.engine import FlatFunction, TensorFlowEngine
from app.errors import Unsupported
from tests.support.specs import policy_spec

ROWS = np.arange(5, dtype=np.float32)


def engine(call: Callable[[tf.Tensor], Any], batch_size: int | None = None) -> TensorFlowEngine:
    @tf.function(autograph=False, input_signature=[tf.TensorSpec([batch_size], tf.float32)])
    def action(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"action": tf.identity(call(x))}

    @tf.function(autograph=False, input_signature=[] if batch_size else [tf.TensorSpec([], tf.int32)])
    def initial(rows: Any = batch_size) -> dict[str, tf.Tensor]:
        return {"0": tf.fill([rows], tf.cast(rows, tf.float32))}

    functions = {
        "action": FlatFunction(action.get_concrete_function(), {"x": tf.float32}, by_name=False),
        "get_initial_state": FlatFunction(
            initial.get_concrete_function(), {} if batch_size else {"batch_size": tf.int32}, by_name=False
        ),
    }
    return TensorFlowEngine(tf.Module(), functions, policy_spec(batch_size=batch_size))


def rows_of_calls(x: tf.Tensor) -> tf.Tensor:
    """How many rows the call has, for each of them."""
    return tf.fill(tf.shape(x), tf.shape(x)[0])


def action(made: TensorFlowEngine, x: np.ndarray = ROWS) -> list[Any]:
    return made.run("action", {"x": x})["action"].tolist()


def test_all_rows_are_one_call() -> None:
    assert action(engine(rows_of_calls)) == [5] * 5
    assert engine(rows_of_calls).initial_state(3)["0"].tolist() == [3.0] * 3


def test_a_version_that_takes_one_row_a_call_gets_each_alone() -> None:
    made = engine(rows_of_calls)
    made.sharing = RowSharing(one_row=True)
    assert action(made) == [1] * 5
    assert made.initial_state(3)["0"].tolist() == [1.0] * 3


def test_a_fixed_batch_is_filled_up_and_cut() -> None:
    made = engine(lambda x: x * 2.0, batch_size=3)
    assert action(made) == [0, 2, 4, 6, 8]
    assert made.initial_state(5)["0"].tolist() == [3.0] * 5


@pytest.mark.parametrize("rows", [1, 2, 4, 6])
def test_a_fixed_batch_whose_rows_depend_on_each_other_comes_whole(rows: int) -> None:
    made = engine(lambda x: x - tf.reduce_mean(x), batch_size=3)
    made.sharing = RowSharing("statistics of the batch", whole_batches=True)
    assert action(made, ROWS[:3]) == [-1, 0, 1]
    with pytest.raises(InputRefused, match=f"takes 3 rows at once, not {rows}"):
        action(made, np.zeros(rows, np.float32))


def test_how_one_copy_shares_calls_is_no_matter_of_another() -> None:
    one, other = engine(rows_of_calls), engine(rows_of_calls)
    one.sharing = RowSharing(one_row=True)
    assert action(other) == [5] * 5


def test_what_a_graph_says_of_its_input_is_a_refusal() -> None:
    def checked(x: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies([tf.debugging.assert_less(x, 3.0, message="too large")]):
            return x + 0.0

    assert action(engine(checked), ROWS[:3]) == [0, 1, 2]
    with pytest.raises(InputRefused, match="too large"):
        action(engine(checked))


def test_another_number_of_rows_than_came_in_is_a_refusal() -> None:
    with pytest.raises(InputRefused, match="action has 3 rows for 5 of its inputs"):
        action(engine(lambda x: x[:3]))


def test_python_code_of_another_process_is_named() -> None:
    def gone(x: tf.Tensor) -> tf.Tensor:
        raise ValueError("callback pyfunc_7 is not found")

    made = engine(lambda x: tf.numpy_function(gone, [x], tf.float32))
    with pytest.raises(Unsupported, match="action runs Python code"):
        action(made)
