import numpy as np

from app.batching.recorder import KEPT_ROWS, Recorder


def inputs(*values: float) -> dict:
    return {"0/observation": np.array(values, np.float32)}


def outputs(*values: float) -> dict:
    return {"action": np.array(values, np.float32), "kind": np.array(["a"], object), "number": np.arange(2)}


def kept(recorder: Recorder) -> list[float]:
    return [row["0/observation"].item() for row in recorder.rows()]


def test_the_first_row_of_a_batch_is_kept_now_and_then():
    recorder = Recorder()
    for moment in range(100):
        recorder.offer(inputs(moment, -1.0), outputs(0.0, 1.0), now=moment / 100)
    assert kept(recorder) == [0.0, 25.0, 50.0, 75.0]


def test_only_the_last_ones_are_kept():
    recorder = Recorder()
    for moment in range(100):
        recorder.offer(inputs(moment), outputs(0.0), now=moment)
    assert kept(recorder) == list(range(100 - KEPT_ROWS, 100))


def test_what_was_not_answered_with_numbers_says_nothing_of_new_weights():
    recorder = Recorder()
    recorder.offer(inputs(1.0), outputs(np.nan), now=0.0)
    recorder.offer(inputs(2.0), outputs(np.inf), now=1.0)
    recorder.offer(inputs(3.0), outputs(3.0), now=1.0)
    assert kept(recorder) == [3.0]


def test_what_is_kept_is_a_copy():
    recorder = Recorder()
    array = np.array([1.0], np.float32)
    recorder.offer({"0/observation": array}, outputs(0.0), now=0.0)
    array[0] = 2.0
    assert kept(recorder) == [1.0]
