"""Whatever comes twice, from whichever worker, however often the recorder is killed: each row once, as a model says."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.experience.event import COPY, as_copy, read_event
from app.experience.following import Follower
from app.experience.journal import JournalLimits, JournalWriter
from app.experience.pairing import Pairing
from tests.support.recorded_steps import LAYOUT, SPEC, RowsInMemory, event


def pairs(*events: bytes) -> list[tuple[int, int]]:
    """The steps of the pairs that events make, one after the other; what is early is given up."""
    pairing, found = Pairing(), []
    for data in events:
        each = read_event(data)
        if (pair := pairing.pair(each)) is not None:
            found.append((pair[0].head.step, pair[1].head.step))
        (pairing.give_up if pairing.is_early(each) else pairing.take)(each)
    return found


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([0, 1, 2], [(0, 1), (1, 2)]),
        ([0, 0, 1, 1, 0, 2], [(0, 1), (1, 2)]),
        ([0, 2, 3], [(2, 3)]),
        ([5, 6], [(5, 6)]),
        ([0, 1, 0, 1], [(0, 1)]),
        ([], []),
    ],
)
def test_each_step_pairs_with_the_next_one_once(steps: list[int], expected: list[tuple[int, int]]) -> None:
    assert pairs(*map(event, steps)) == expected


def test_sessions_and_their_starts_are_apart() -> None:
    assert pairs(event(0, "a"), event(1, "b"), event(0, "a", incarnation="two"), event(1, "a")) == [(0, 1)]
    assert pairs(event(0), event(1, types=[1, 1])) == [], "other rows than before"


def test_copy_starts_a_pair_and_ends_none() -> None:
    assert pairs(event(0), as_copy(event(1)), event(2)) == [(1, 2)]
    assert pairs(as_copy(event(4)), event(5), as_copy(event(5)), event(6)) == [(4, 5), (5, 6)]
    assert read_event(as_copy(event(4))).head.flags == COPY


# What happens next: a session steps at a worker, its last answer is repeated at a worker, a worker goes on with another
# file, the recorder looks, the recorder is killed and another one begins.
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["step", "step", "step", "lose", "repeat"]), st.integers(0, 2), st.integers(0, 2)),
        st.tuples(st.just("begin"), st.integers(0, 2), st.integers(0, 2)),
        st.tuples(st.sampled_from(["move", "look", "kill"]), st.integers(0, 2), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(ACTIONS)
def test_rows_are_those_of_a_model(actions: list[tuple[str, int, int]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, rows = Path(name), RowsInMemory()
        workers = [JournalWriter(folder / "journals", LAYOUT.digest, JournalLimits(1024, 2**30)) for _ in range(3)]
        follower = Follower(folder, SPEC, rows)
        last: dict[int, tuple[int, int]] = {}  # session → its start, and its last step
        lost: set[tuple[int, int, int]] = set()
        expected = []
        starts = 0
        for action, worker, session in actions:
            start, step = last.get(session, (-1, -1))
            if action == "begin":
                starts += 1
                last[session] = (starts, 0)
                workers[worker].write(event(0, str(session), incarnation=str(starts)))
            elif action in ("step", "lose") and start >= 0:
                last[session] = (start, step + 1)
                if action == "lose":  # a disk that is full
                    lost.add((session, start, step + 1))
                    continue
                workers[worker].write(event(step + 1, str(session), incarnation=str(start)))
                if (session, start, step) not in lost:
                    expected.append((str(session), str(start), step))
            elif action == "repeat" and start >= 0 and (session, start, step) not in lost:
                workers[worker].write(event(step, str(session), incarnation=str(start)))
            elif action == "move":
                workers[worker].close()
            elif action == "look":
                follower.advance()
            elif action == "kill":
                follower = Follower(folder, SPEC, rows)
        for worker in workers:
            worker.close()
        for _ in range(3 + 2 * len(lost)):
            follower.advance()
        found = [(row["session"], row["incarnation"], row["step"]) for row in rows.rows]
        assert sorted(found) == sorted(expected)
        assert list((folder / "journals").glob("*.journal")) == []
