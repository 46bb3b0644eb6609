"""A pair of steps is a row of each environment: what was seen and done, and what came of it with the next step."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from app.batching.rule import Job, Result
from app.experience.arrow import batch_of, schema_of
from app.experience.event import Who, numbered, session_record, version_record
from app.experience.layout import Layout
from app.experience.pairing import Pairing
from app.experience.records import Records
from app.experience.sources import Sources
from app.experience.texts import Texts
from app.experience.trajectories import Columns, rows_of
from app.inputs.options import Options
from saver.artifact import Leaf, PolicySpec
from tests.support.recorded_steps import FIRST, LAST, LAYOUT, MID, event, who
from tests.support.specs import NESTED, policy_spec

OPEN = policy_spec({"x": Leaf("x", "float32", (None,))})


def rows_between(layout: Layout, steps: Sequence[bytes], whos: Sequence[Who] = (who(),)) -> tuple[Columns, Sources]:
    """The rows of steps in the order in which they were read; each says its session by number, and its version is 0."""
    sources = Sources(layout)
    names = [session_record(number, each) for number, each in enumerate(whos)]
    data = b"".join([version_record(0, "v"), *names, *steps])
    part = sources.read(sources.add(Records(data)), (0, len(data)), (1000, len(data)))
    assert len(part.steps) == len(steps)
    return rows_of(layout, Pairing().find(part.steps), sources), sources


def of_open(step: int, size: int, types: Sequence[int] = (MID,)) -> bytes:
    """The record of a step of `OPEN` whose observations have this size and the step's number as values."""
    rows = len(types)
    inputs = {"0/step_type": np.array(types, np.int32), "x": np.full((rows, size), step, np.float32)}
    result = Result({"action": np.full(rows, step)}, "v", 7, "d")
    return Layout(OPEN).event(step, Options(), Job("action", inputs, rows), result)


def lists(columns: Columns, *names: str) -> list[list[Any]]:
    return [[*np.asarray(columns[name]).tolist()] for name in names]


@pytest.mark.parametrize(
    "spec",
    [policy_spec(), policy_spec(NESTED), OPEN, policy_spec({"words": Leaf("w", "string", (None,))})],
    ids=["plain", "nested", "open", "texts"],
)
def test_without_a_pair_all_columns_are_there_and_empty(spec: PolicySpec) -> None:
    layout = Layout(spec)
    found, _ = rows_between(layout, [])
    assert found.keys() == {column.name for column in layout.columns}
    assert batch_of(schema_of(layout.columns, {}), layout.columns, found).num_rows == 0


def test_rewards_and_discounts_are_those_of_the_next_step_and_observations_of_these_names_are_not() -> None:
    nest = {name: Leaf(f"0/observation/{name}", "float32", ()) for name in ("reward", "discount")}
    reward = Leaf("0/reward/0", "float32", ()), Leaf("0/reward/1", "float32", (2,))
    layout, steps = Layout(policy_spec(nest, inputs={**policy_spec(nest).inputs, "reward": reward})), []
    for step in range(2):
        inputs = {name: np.full(1, step, np.float32) for name in ("0/reward/0", "0/discount")}
        inputs |= {leaf.name: np.full(1, step, np.float32) for leaf in nest.values()}
        inputs |= {"0/step_type": np.full(1, step, np.int32), "0/reward/1": np.full((1, 2), step, np.float32)}
        result = Result({"action": np.full(1, step)}, "v", step, "d")
        steps.append(layout.event(step, Options(), Job("action", inputs, 1), result))
    found, _ = rows_between(layout, steps)
    of_next = lists(found, "next_step_type", "reward/0", "reward/1", "discount")
    assert of_next == [[1], [1.0], [[1.0, 1.0]], [1.0]]
    own = lists(found, "step_type", "observation/reward", "observation/discount", "action", "train_step", "step")
    assert own == [[0], [0.0], [0.0], [0], [0], [0]]


def test_environments_that_start_anew_in_the_middle_have_no_row_and_the_others_keep_theirs() -> None:
    types = [[MID, LAST, MID], [FIRST, FIRST, LAST]]
    found, _ = rows_between(LAYOUT, [event(step, each) for step, each in enumerate(types)])
    assert lists(found, "row", "step_type", "next_step_type") == [[1, 2], [LAST, MID], [FIRST, LAST]]
    assert [list(found[name]) for name in ("session", "version")] == [["s", "s"], ["v", "v"]]


def test_so_it_is_where_the_rows_have_shapes_of_their_own() -> None:
    steps = [of_open(0, 1, [MID, MID]), of_open(1, 2, [FIRST, MID]), of_open(2, 3, [MID, MID])]
    found, _ = rows_between(Layout(OPEN), steps)
    assert [np.asarray(each).tolist() for each in found["observation/x"]] == [[0], [1, 1], [1, 1]]
    assert lists(found, "step", "row", "next_step_type") == [[0, 1, 1], [1, 0, 1], [MID, MID, MID]]


def test_sessions_of_other_numbers_of_environments_stand_beside_each_other() -> None:
    whos = who("pair"), who("one"), who("other", "two")
    types = {0: [MID, MID], 1: [MID], 2: [MID]}
    steps = [numbered(event(step, types[session]), session, 0) for step in (0, 1) for session in (0, 1, 2)]
    found, sources = rows_between(LAYOUT, steps, whos)
    rows = sorted(zip(*[list(found[name]) for name in ("session", "incarnation", "row")], strict=True))
    assert rows == [("one", "one", 0), ("other", "two", 0), ("pair", "one", 0), ("pair", "one", 1)]
    assert {len(values) for values in found.values()} == {4}
    session = found["session"]
    assert isinstance(session, Texts)
    assert session.keys is not None
    by_name = dict(zip(session.texts, session.keys.tolist(), strict=True))
    assert by_name == dict(zip(("pair", "one", "other"), sources.keys(np.arange(3)).tolist(), strict=True))


@pytest.mark.parametrize("sizes", [(2, 2), (2, 3)], ids=["array", "list"])
def test_values_of_such_sessions_are_one_array_where_their_shapes_allow(sizes: tuple[int, int]) -> None:
    steps = []
    for session, (size, types) in enumerate(zip(sizes, ([MID], [MID, MID]), strict=True)):
        steps += [numbered(of_open(step, size, types), session, 0) for step in (0, 1)]
    found, _ = rows_between(Layout(OPEN), steps, [who("a"), who("b")])
    observations = found["observation/x"]
    assert isinstance(observations, np.ndarray) is (sizes == (2, 2))
    assert [len(each) for each in observations] == [sizes[0], sizes[1], sizes[1]]
    assert list(found["session"]) == ["a", "b", "b"]
