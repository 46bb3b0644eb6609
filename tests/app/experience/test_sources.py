"""Steps of several sources come with the names that each source has said; what cannot be used is named by its place."""

from collections.abc import Callable

import numpy as np
import pytest

from app.batching.rule import Job, Result
from app.experience.event import HEAD_BYTES, HEADS, VERSION, Who, numbered, session_record, version_record
from app.experience.layout import Layout
from app.experience.records import Records, Unreadable
from app.experience.sources import Part, Sources
from app.inputs.options import Options
from saver.artifact import Leaf
from tests.support.recorded_steps import LAYOUT, event, who
from tests.support.specs import policy_spec

ALL = (2**20, 2**30)
NAMES = session_record(0, who()) + version_record(0, "v")
VARYING = Layout(policy_spec({"x": Leaf("x", "float32", (None,))}))


def added(sources: Sources, *records: bytes) -> tuple[int, Part]:
    """The number of another source with these records, and all that can be read of it."""
    data = b"".join(records)
    number = sources.add(Records(data))
    return number, sources.read(number, (0, len(data)), ALL)


def changed(record: bytes, **values: int) -> bytes:
    """A record with other numbers in its head."""
    head = np.frombuffer(record[:HEAD_BYTES], HEADS).copy()
    for name, value in values.items():
        head[name] = value
    return head.tobytes() + record[HEAD_BYTES:]


def varying_event(step: int) -> bytes:
    """The record of a step with as many values as its number says."""
    inputs = {"0/step_type": np.ones(1, np.int32), "x": np.zeros((1, step), np.float32)}
    return VARYING.event(step, Options(), Job("action", inputs, 1), Result({"action": np.ones(1)}, "v", 7, "d"))


def names(sources: Sources, part: Part) -> list[tuple[Who, str, int]]:
    """The session, the version and the number of each step."""
    return [
        (sources.who(int(step["session"])), sources.version(int(step["version"])), int(step["step"]))
        for step in part.steps
    ]


def test_a_session_has_the_same_number_in_all_sources_whatever_it_has_in_each() -> None:
    sources = Sources(LAYOUT)
    said = session_record(700, who()), session_record(0, who("t")), version_record(30, "w")
    steps = numbered(event(1), 700, 30), numbered(event(5), 0, 30)
    _, one = added(sources, NAMES, event(0))
    _, other = added(sources, *said, *steps, version_record(0, "a journal has more records than numbers" * 2000))
    assert names(sources, one) == [(who(), "v", 0)]
    assert names(sources, other) == [(who(), "w", 1), (who("t"), "w", 5)]
    assert list(sources.whos) == [who(), who("t")]


def test_a_removed_source_gives_back_the_sessions_that_no_other_one_knows() -> None:
    sources = Sources(LAYOUT)
    first, _ = added(sources, NAMES, session_record(1, who("t")), session_record(2, who("t")))
    second, _ = added(sources, NAMES)
    assert list(sources.whos) == [who(), who("t")]
    assert sources.remove(first).tolist() == [1], "once, though the source says it twice"
    assert list(sources.whos) == [who(), None]
    assert sources.remove(second).tolist() == [0]


def test_a_session_that_gets_the_number_of_another_one_has_another_key() -> None:
    sources = Sources(LAYOUT)
    number, _ = added(sources, NAMES)
    before = sources.keys(np.array([0])).tolist()
    sources.remove(number)
    added(sources, session_record(0, who("t")))
    assert list(sources.whos) == [who("t")]
    assert sources.keys(np.array([0])).tolist() != before


def test_the_first_name_of_a_number_stays() -> None:
    sources = Sources(LAYOUT)
    _, part = added(sources, NAMES, session_record(0, who("t")), version_record(0, "w"), event(0))
    assert names(sources, part) == [(who(), "v", 0)]
    assert len(part.unusable) == 0


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        ((2, 2**30), [[], [0, 1], [2, 3], [4]]),
        ((9, len(NAMES) + 2 * len(event(0))), [[0, 1], [2, 3, 4]]),
        ((9, 1), [[], [], [0], [1], [2], [3], [4]]),
    ],
    ids=["records, of which names are two", "bytes", "at least one"],
)
def test_a_source_is_read_in_parts_that_are_bounded(most: tuple[int, int], expected: list[list[int]]) -> None:
    sources, found, place = Sources(LAYOUT), [], 0
    data = b"".join([NAMES, *[event(step) for step in range(5)]])
    number = sources.add(Records(data))
    while place < len(data):
        part = sources.read(number, (place, len(data)), most)
        assert part.place > place
        place = part.place
        found.append(part.steps["step"].tolist())
    assert found == expected


def test_what_is_no_record_is_an_error_once_it_comes_first() -> None:
    sources = Sources(LAYOUT)
    number, part = added(sources, NAMES, b"\x00" * 100)
    assert (part.place, len(part.steps)) == (len(NAMES), 0)
    with pytest.raises(Unreadable, match=f"at {len(NAMES)} is no record"):
        sources.read(number, (part.place, len(NAMES) + 100), ALL)


@pytest.mark.parametrize(
    "record",
    [
        changed(session_record(1, who()), session=2**20),
        changed(version_record(1, "w"), version=2**32 - 1),
        changed(session_record(1, who()), rows=2),
        changed(version_record(1, "w"), kind=7),
        version_record(1, "w")[:-1] + b"\xff",
    ],
    ids=["session of a number far too high", "version too", "lengths", "kind", "no UTF-8"],
)
def test_a_record_that_says_no_name_is_unusable_and_those_around_it_are_not(record: bytes) -> None:
    sources = Sources(LAYOUT)
    _, part = added(sources, NAMES, record, event(0))
    assert part.unusable.tolist() == [len(NAMES)]
    assert names(sources, part) == [(who(), "v", 0)]


@pytest.mark.parametrize(("layout", "make"), [(LAYOUT, event), (VARYING, varying_event)], ids=["fixed", "varying"])
@pytest.mark.parametrize("values", [{"mode": 3}, {"rows": 0}, {"rows": 2}, {"step": -1}], ids=str)
def test_a_step_whose_values_are_none_of_the_layout_is_unusable(
    layout: Layout, make: Callable[[int], bytes], values: dict[str, int]
) -> None:
    good = make(0)
    _, part = added(Sources(layout), NAMES, good, changed(make(1), **values), make(2))
    assert part.steps["step"].tolist() == [0, 2]
    assert part.unusable.tolist() == [len(NAMES) + len(good)]


def test_records_come_in_the_order_of_the_steps_whichever_source_has_them() -> None:
    sources = Sources(LAYOUT)
    _, one = added(sources, NAMES, event(0), event(2))
    _, other = added(sources, NAMES, event(1), event(3))
    steps = np.concatenate([one.steps, other.steps])[[3, 0, 2, 1]]
    assert steps["step"].tolist() == [3, 0, 1, 2]
    assert sources.taken(steps, HEAD_BYTES).view(HEADS)["step"].tolist() == [3, 0, 1, 2]
    assert sources.taken(one.steps, HEAD_BYTES).view(HEADS)["step"].tolist() == [0, 2]
    assert np.frombuffer(sources.record(steps[0])[:HEAD_BYTES], HEADS)["step"].tolist() == [3]


def test_steps_that_are_copied_are_read_again_with_their_names() -> None:
    sources, another = Sources(LAYOUT), Sources(LAYOUT)
    _, one = added(sources, NAMES, version_record(4, "w"), event(0), numbered(event(1), 0, 4))
    _, other = added(sources, session_record(2, who("t")), version_record(1, "v"), numbered(event(6), 2, 1))
    steps = np.concatenate([one.steps, other.steps])
    copied = sources.copied(steps)
    number, part = added(another, copied)
    assert len(part.unusable) == 0
    assert names(another, part) == [(who(), "v", 0), (who(), "w", 1), (who("t"), "v", 6)]
    assert [bytes(another.record(step))[HEAD_BYTES:] for step in part.steps] == [
        event(step)[HEAD_BYTES:] for step in (0, 1, 6)
    ]
    records = Records(copied)
    kinds = records.taken(records.places(0, len(copied), 99), HEAD_BYTES).view(HEADS)["kind"].tolist()
    assert kinds.count(VERSION) == 2, "each is said once"
    assert another.remove(number).tolist() == [0, 1]
