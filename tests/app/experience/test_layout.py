"""Steps come out of their events as they went in: all kinds of columns, defaults, and what is not there."""

from typing import Any

import numpy as np
import pytest

from app.batching.rule import Job, Result
from app.experience.event import Who, as_copy, read_event
from app.experience.layout import Layout
from app.experience.schema import columns_of
from app.experience.share import is_in_share
from app.experience.trajectories import rows_of
from app.inputs.options import Options
from saver.artifact import Leaf
from tests.support.recorded_steps import LAYOUT, event
from tests.support.specs import NESTED, policy_spec

WHO = Who("s", "run", "one")


def rows(layout: Layout, inputs: dict[str, Any], outputs: dict[str, Any], count: int, **more: Any) -> dict[str, Any]:
    """The rows of two such steps."""
    options = more.pop("options", Options())
    job = Job(more.pop("function", "action"), inputs, count)
    events = [read_event(layout.event(WHO, step, options, job, Result(outputs, "v", 7, "d"))) for step in (0, 1)]
    assert all(layout.fits(each) for each in events)
    return rows_of(layout, [(events[0], events[1])])


def test_nested_observations_and_info_are_columns_of_their_dtypes() -> None:
    spec = policy_spec(NESTED, info={"loc": Leaf("info/loc", "float32", (2,))})
    inputs = {
        "0/step_type": np.array([0, 1], np.int32),
        "0/observation/camera": np.arange(8, dtype=np.uint8).reshape(2, 2, 2),
        "0/observation/speed": np.array([0.5, 1], np.float32),
        "0/observation/joints/0": np.ones((2, 2), np.float32),
        "0/observation/joints/1": np.array([1, 2], np.int32),
    }
    outputs = {"action": np.array([3, 4]), "info/loc": np.array([[1, 2], [3, 4]], np.float32)}
    found = rows(Layout(spec), inputs, outputs, 2)
    assert list(found["step_type"]) == [1], "row 0 starts anew, without an end"
    assert found["observation/camera"].tolist() == [[[4, 5], [6, 7]]]
    assert found["observation/camera"].dtype == np.uint8
    assert found["policy_info/loc"].tolist() == [[3, 4]]
    assert (found["reward"].tolist(), found["discount"].tolist()) == ([0.0], [1.0])
    assert found["row"].tolist() == [1]
    assert np.isnan(found["log_prob"]).all()
    assert {column.name for column in columns_of(spec)} <= found.keys()


@pytest.mark.parametrize("size", [1, 3])
def test_strings_and_open_dimensions_keep_their_values_and_shapes(size: int) -> None:
    spec = policy_spec({"words": Leaf("w", "string", (None,)), "x": Leaf("x", "float32", (None, 2))})
    words = np.array([[f"é{i}" for i in range(size)]], object)
    inputs = {"0/step_type": np.ones(1, np.int32), "w": words, "x": np.ones((1, size, 2), np.float32)}
    found = rows(Layout(spec), inputs, {"action": np.array([1])}, 1)
    assert np.asarray(found["observation/words"]).tolist() == words.tolist()
    assert found["observation/x"].shape == (1, size, 2)


def test_log_probability_mode_and_seed_are_there_where_they_were_asked_for() -> None:
    inputs = {"0/step_type": np.ones(1, np.int32), "0/observation": np.zeros((1, 2), np.float32)}
    outputs = {"action": np.array([1]), "log_prob": np.array([-0.5], np.float32)}
    asked = rows(LAYOUT, inputs, outputs, 1, options=Options(seed=4, log_prob=True), function="sample")
    assert (asked["mode"], asked["seed"].tolist(), asked["log_prob"].tolist()) == (["sample"], [4], [-0.5])
    other = rows(LAYOUT, inputs, outputs, 1, options=Options(mode="greedy"), function="greedy")
    assert (other["mode"], other["seed"].tolist()) == (["greedy"], [-1])
    assert np.isnan(other["log_prob"]).all()


def test_output_of_another_dtype_or_for_the_whole_batch_is_that_of_the_spec() -> None:
    spec = policy_spec(Leaf("0/observation", "float32", (2,)), info=Leaf("info", "float32", ()))
    inputs = {"0/step_type": np.ones(2, np.int32), "0/observation": np.zeros((2, 2), np.float32)}
    found = rows(Layout(spec), inputs, {"action": np.array([1, 2], np.int32), "info": np.float32(0.5)}, 2)
    assert (found["action"].tolist(), found["action"].dtype) == ([1, 2], np.int64)
    assert found["policy_info"].tolist() == [0.5, 0.5]


def test_event_of_another_size_is_refused() -> None:
    job = Job("action", {"0/observation": np.zeros((1, 3), np.float32)}, 1)
    result = Result({"action": np.array([1])}, "v", 0, "d")
    with pytest.raises(ValueError, match="bytes"):
        LAYOUT.event(WHO, 0, Options(), job, result)


@pytest.mark.parametrize("cut", [0, 10, 60, -1])
def test_piece_of_an_event_is_none(cut: int) -> None:
    with pytest.raises(ValueError, match="event"):
        read_event(event(0)[:cut])


def test_copy_differs_in_its_mark_alone() -> None:
    copy, first = read_event(as_copy(event(3))), read_event(event(3))
    assert copy.head.flags == 1
    assert copy.who() == first.who()
    assert copy.head._replace(flags=0, time_ns=0) == first.head._replace(time_ns=0)


def test_names_of_any_letters_come_out_as_they_went_in() -> None:
    who = Who("sitzung-ü", "lauf-é-日本", "one")
    inputs = {"0/observation": np.zeros((1, 2), np.float32)}
    job, result = Job("action", inputs, 1), Result({"action": np.array([1])}, "gewicht-ß", 0, "d")
    found = read_event(LAYOUT.event(who, 0, Options(), job, result))
    assert (found.who(), found.version()) == (who, "gewicht-ß")


def test_share_is_the_same_each_time_grows_and_is_about_as_large_as_it_says() -> None:
    ids = [f"env-{number}" for number in range(4000)]
    small, large = ({each for each in ids if is_in_share("p", each, share)} for share in (0.1, 0.5))
    assert small < large
    assert 300 < len(small) < 500
    assert small != {each for each in ids if is_in_share("other", each, 0.1)}
    assert all(is_in_share("p", each, 1.0) for each in ids)
    assert not any(is_in_share("p", each, 0.0) for each in ids)
