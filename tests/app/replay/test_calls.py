from collections.abc import Mapping
from typing import Any

import numpy as np

from app.artifacts.bundle import RowSharing
from app.engine.base import InputRefused
from app.engine.noise import seeded_noise
from app.replay.calls import Asked, noise_of, run_as_then, run_together
from saver.artifact import Noise

ALONE, DEPENDENT = RowSharing(), RowSharing(dependent="noise for all")


class Echo:
    """Answers with its input, and with where in which call it stood; refuses what is below 0."""

    name = "echo"

    def __init__(self) -> None:
        self.calls: list[list[float]] = []

    def run(self, function: str, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray]:
        values = inputs["x"]
        if (values < 0).any():
            raise InputRefused("below 0")
        self.calls.append(values.tolist())
        return {"value": values * 10, "place": np.arange(len(values))}

    def initial_state(self, rows: int) -> dict[str, np.ndarray]:
        return {}


def asked(values, starts=None, steps=None, rows=None) -> Asked:
    zeros = np.zeros(len(values), np.int64)
    starts, steps, rows = (zeros if given is None else np.array(given) for given in (starts, steps, rows))
    return Asked({"x": np.array(values, np.float32)}, starts, steps, rows)


def test_many_rows_go_in_calls_of_some_size():
    engine = Echo()
    outputs, places = run_together(engine, "action", asked(np.arange(2500.0)), ALONE)
    assert [len(call) for call in engine.calls] == [1024, 1024, 452]
    assert outputs["value"].tolist() == (np.arange(2500) * 10).tolist()
    assert places.tolist() == list(range(2500))


def test_rows_that_are_refused_are_left_out_and_no_others():
    engine = Echo()
    outputs, places = run_together(engine, "action", asked([1, -1, 2, -2]), ALONE)
    assert (places.tolist(), outputs["value"].tolist()) == ([0, 2], [10, 20])
    assert run_together(engine, "action", asked([-1]), ALONE)[1].tolist() == []


def test_rows_that_depend_on_each_other_share_a_call_with_those_of_their_step():
    engine = Echo()
    rows = asked([1, 2, 3, 4, 5], starts=[0, 1, 0, 0, 1], steps=[3, 0, 3, 4, 0], rows=[1, 0, 0, 0, 1])
    outputs, _ = run_together(engine, "action", rows, DEPENDENT)
    assert engine.calls == [[3, 1], [4], [2, 5]]
    assert outputs["value"].tolist() == [10, 20, 30, 40, 50]


def test_seeded_rows_stand_where_they_stood_in_calls_of_sixteen():
    engine = Echo()
    rows = asked([1, 2, 3, 4], starts=[0, 0, 1, 1], rows=[0, 1, 0, 17])
    outputs, places = run_as_then(engine, "sample", rows, ALONE, seeded=True)
    assert [len(call) for call in engine.calls] == [16, 16]
    assert outputs["place"].tolist() == [0, 1, 0, 1]
    assert outputs["value"].tolist() == [10, 20, 30, 40]
    assert places.tolist() == [0, 1, 2, 3]


def test_other_rows_have_a_call_with_those_of_their_session():
    engine = Echo()
    run_as_then(engine, "action", asked([1, 2, 3], starts=[0, 0, 1], rows=[0, 1, 0]), ALONE, seeded=False)
    assert engine.calls == [[1, 2], [3]]


def test_each_row_has_the_noise_that_it_had():
    noise = Noise(uniform=2, normal=3)
    seeds = np.array([7, 7, 8, 7, 7])
    rows = asked(np.zeros(5), steps=[0, 1, 0, 0, 1], rows=[4, 0, 0, 1, 2])
    found = noise_of(noise, seeds, rows)
    for place, (seed, step, row) in enumerate(zip(seeds, rows.steps, rows.rows, strict=True)):
        for name, array in seeded_noise(noise, 5, int(seed), int(step)).items():
            np.testing.assert_array_equal(found[name][place], array[row])
