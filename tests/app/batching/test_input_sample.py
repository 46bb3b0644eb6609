import numpy as np

from app.batching.input_sample import KEPT_ROWS, Candidates, InputSample


def inputs(*values: float) -> dict:
    return {"0/observation": np.array(values, np.float32)}


def outputs(*values: float) -> dict:
    return {"action": np.array(values, np.float32), "kind": np.array(["a"], object), "number": np.arange(2)}


def kept(sample: InputSample) -> list[float]:
    return [row["0/observation"].item() for row in sample.rows()]


def test_the_first_row_of_a_batch_is_kept_now_and_then():
    sample = InputSample()
    for moment in range(100):
        sample.offer(inputs(moment, -1.0), outputs(0.0, 1.0), now=moment / 100)
    assert kept(sample) == [0.0, 25.0, 50.0, 75.0]


def test_only_the_last_ones_are_kept():
    sample = InputSample()
    for moment in range(100):
        sample.offer(inputs(moment), outputs(0.0), now=moment)
    assert kept(sample) == list(range(100 - KEPT_ROWS, 100))


def test_what_was_not_answered_with_numbers_says_nothing_of_new_weights():
    sample = InputSample()
    sample.offer(inputs(1.0), outputs(np.nan), now=0.0)
    sample.offer(inputs(2.0), outputs(np.inf), now=1.0)
    sample.offer(inputs(3.0), outputs(3.0), now=1.0)
    assert kept(sample) == [3.0]


def test_what_is_kept_is_a_copy():
    sample = InputSample()
    array = np.array([1.0], np.float32)
    sample.offer({"0/observation": array}, outputs(0.0), now=0.0)
    array[0] = 2.0
    assert kept(sample) == [1.0]


def test_spread_rows_are_of_all_that_was_asked_and_not_the_last_ones():
    """An odd row long ago is among them; so is the last one, and there are never more."""
    sample = InputSample(spread=True)
    for moment in range(120):
        sample.offer(inputs(100.0 if moment == 20 else np.sin(moment)), outputs(0.0), now=moment)
    found = kept(sample)
    assert len(found) == KEPT_ROWS
    assert 100.0 in found
    assert found[0] == np.float32(np.sin(119))
    assert max(value for value in found if value < 100) > 0.9 > -0.9 > min(found)


def test_candidates_are_a_sample_of_all_rows_that_stays_small():
    sample = Candidates()
    for number in range(3000):
        sample.add({"x": np.array([number])})
    assert len(sample.rows) == 128
    numbers = np.array([row["x"].item() for row in sample.rows])
    assert len(set(numbers.tolist())) == 128
    assert abs(numbers.mean() - 1500) < 6 * 3000 / np.sqrt(12 * 128)
    large = Candidates()
    for _ in range(40):
        large.add({"x": np.zeros(1 << 18)})
    assert len(large.rows) == KEPT_ROWS
