"""Steps come out of their events as they went in: all kinds of columns, defaults, and what is not there."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from app.batching.rule import Job, Result
from app.experience.arrow import batch_of, schema_of, values_of
from app.experience.event import Who, as_copy, numbered, read_head, session_record, version_record
from app.experience.layout import Layout
from app.experience.pairing import Pairing
from app.experience.records import Records
from app.experience.schema import columns_of
from app.experience.share import is_in_share
from app.experience.sources import Sources
from app.experience.texts import Texts
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
    return rows_between(layout, [layout.event(step, options, job, Result(outputs, "v", 7, "d")) for step in (0, 1)])


def rows_between(layout: Layout, events: list[bytes], who: Who = WHO, version: str = "v") -> dict[str, Any]:
    """The rows of steps of one session, one after the other."""
    sources = Sources(layout)
    data = b"".join([session_record(0, who), version_record(0, version), *events])
    part = sources.read(sources.add(Records(data)), (0, len(data)), (1000, len(data)))
    assert (part.place, len(part.steps), len(part.unusable)) == (len(data), len(events), 0)
    found = rows_of(layout, Pairing().find(part.steps), sources)
    return {name: values.tolist() if isinstance(values, Texts) else values for name, values in found.items()}


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
        LAYOUT.event(0, Options(), job, result)


def test_rows_of_other_shapes_stand_beside_each_other() -> None:
    spec = policy_spec({"x": Leaf("x", "float32", (None,))})
    layout, events = Layout(spec), []
    for step, size in enumerate((1, 3, 3, 2)):
        inputs = {"0/step_type": np.ones(1, np.int32), "x": np.full((1, size), step, np.float32)}
        events.append(
            layout.event(step, Options(), Job("action", inputs, 1), Result({"action": np.ones(1)}, "v", 7, "d"))
        )
    found = rows_between(layout, events)
    assert [row.tolist() for row in found["observation/x"]] == [[0], [1, 1, 1], [2, 2, 2]]
    columns = columns_of(spec)
    stored = pa.Table.from_batches([batch_of(schema_of(columns, {}), columns, found)])
    read = values_of(columns, stored)
    assert [row.tolist() for row in read["observation/x"]] == [[0], [1, 1, 1], [2, 2, 2]]
    assert read["session"] == ["s"] * 3


@pytest.mark.parametrize("cut", [0, 10, 50, -1])
def test_piece_of_a_record_is_none(cut: int) -> None:
    with pytest.raises(ValueError, match="record"):
        read_head(event(0)[:cut])


def test_copy_differs_in_its_mark_alone() -> None:
    copy, first = read_head(as_copy(event(3))), read_head(event(3))
    assert copy.flags == 1
    assert copy._replace(flags=0, time_ns=0) == first._replace(time_ns=0)


def test_names_of_any_letters_come_out_as_they_went_in() -> None:
    who = Who("sitzung-ü", "lauf-é-日本", "one")
    found = rows_between(LAYOUT, [event(0), event(1)], who, "gewicht-ß")
    names = ("session", "run_id", "incarnation", "version")
    assert [found[name] for name in names] == [[each] for each in (*who, "gewicht-ß")]


@pytest.mark.parametrize("numbers", [(1, 0), (0, 1), (2**32 - 1, 0), (0, 2**32 - 1)])
def test_step_of_which_the_names_are_not_known_is_not_used(numbers: tuple[int, int]) -> None:
    sources = Sources(LAYOUT)
    data = b"".join([session_record(0, WHO), version_record(0, "v"), event(0), numbered(event(1), *numbers)])
    part = sources.read(sources.add(Records(data)), (0, len(data)), (1000, len(data)))
    assert part.steps["step"].tolist() == [0]
    assert part.unusable.tolist() == [len(data) - len(event(1))]


def test_share_is_the_same_each_time_grows_and_is_about_as_large_as_it_says() -> None:
    ids = [f"env-{number}" for number in range(4000)]
    small, large = ({each for each in ids if is_in_share("p", each, share)} for share in (0.1, 0.5))
    assert small < large
    assert 300 < len(small) < 500
    assert small != {each for each in ids if is_in_share("other", each, 0.1)}
    assert all(is_in_share("p", each, 1.0) for each in ids)
    assert not any(is_in_share("p", each, 0.0) for each in ids)
