"""Whatever comes twice, from whichever worker, however often the recorder is killed: each row once, as a model says."""

import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.experience.event import COPY, Who, as_copy, read_head
from app.experience.following import Follower
from app.experience.journal import JournalLimits, JournalWriter
from app.experience.pairing import Pairing
from app.experience.steps import STEPS
from app.wire.tensors import Array
from tests.support.recorded_steps import LAYOUT, SPEC, RowsInMemory, event, write

SESSIONS = {"s": 0, "a": 1, "b": 2}


def table(*steps: tuple[str, int] | int, rows: int = 1, flags: int = 0) -> Array:
    """Steps as they are read, in this order: of a session, or of s."""
    found = np.zeros(len(steps), STEPS)
    for row, each in zip(found, steps, strict=True):
        session, row["step"] = each if isinstance(each, tuple) else ("s", each)
        row["session"], row["rows"], row["flags"] = SESSIONS[session], rows, flags
    found["at"] = np.arange(len(steps))
    return found


def pairs(pairing: Pairing, *parts: Array, at_once: bool = True) -> list[tuple[int, int]]:
    """The steps of the pairs that steps make, in their order; those that are early are given up."""
    every = np.concatenate(parts) if parts else table()
    found = []
    for steps in [every] if at_once else [every[row : row + 1] for row in range(len(every))]:
        pairing.give_up(steps, pairing.find(steps).early)
        each = pairing.find(steps)
        assert not each.early.any()
        pairing.take(each, steps)
        found += list(zip(each.first["step"].tolist(), each.next["step"].tolist(), strict=True))
    return found


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(
    ("steps", "expected", "lost"),
    [
        ([0, 1, 2], [(0, 1), (1, 2)], 0),
        ([0, 0, 1, 1, 0, 2], [(0, 1), (1, 2)], 0),
        ([0, 2, 3], [(2, 3)], 1),
        ([5, 6], [(5, 6)], 1),
        ([0, 1, 0, 1], [(0, 1)], 0),
        ([], [], 0),
    ],
)
def test_each_step_pairs_with_the_next_one_once(
    steps: list[int], expected: list[tuple[int, int]], lost: int, at_once: bool
) -> None:
    pairing = Pairing()
    assert pairs(pairing, table(*steps), at_once=at_once) == expected
    assert pairing.lost == lost


def test_steps_that_are_read_in_another_order_pair_in_that_of_the_session() -> None:
    assert pairs(Pairing(), table(2, ("a", 0), 0, ("a", 1), 3, 1)) == [(0, 1), (0, 1), (1, 2), (2, 3)]
    assert pairs(Pairing(), table(1, 0, ("a", 0), ("a", 1))) == [(0, 1), (0, 1)]


def test_early_is_what_does_not_follow_anything_that_was_read() -> None:
    pairing = Pairing()
    assert pairs(pairing, table(0, 1)) == [(0, 1)]
    found = pairing.find(table(4, 3, 2, ("a", 1), ("b", 0)))
    assert found.early.tolist() == [False, False, False, True, False]
    assert pairing.find(table(4, 3)).early.tolist() == [False, True]


@pytest.mark.parametrize("at_once", [True, False])
def test_sessions_are_apart_and_so_are_steps_of_other_rows(at_once: bool) -> None:
    assert pairs(Pairing(), table(("a", 0), ("b", 1), ("a", 1)), at_once=at_once) == [(0, 1)]
    assert pairs(Pairing(), table(0), table(1, rows=2), at_once=at_once) == []


@pytest.mark.parametrize("at_once", [True, False])
def test_copy_starts_a_pair_and_ends_none(at_once: bool) -> None:
    parts = table(0), table(1, flags=COPY), table(2)
    assert pairs(Pairing(), *parts, at_once=at_once) == [(1, 2)]
    parts = table(4, flags=COPY), table(5), table(5, flags=COPY), table(6)
    assert pairs(Pairing(), *parts, at_once=at_once) == [(4, 5), (5, 6)]
    assert read_head(as_copy(event(4))).flags == COPY


def test_last_steps_wait_but_those_of_older_starts_of_a_session() -> None:
    pairing, steps = Pairing(), table(("a", 0), ("b", 0), 0)
    steps["time_ns"], steps["source"] = [3, 2, 1], [7, 8, 7]
    pairing.take(pairing.find(steps), steps)
    whos = [Who("one", "", "x"), Who("one", "", "y"), Who("other", "", "z")]
    assert not pairing.is_waiting([9])
    assert pairing.waiting([7, 8], whos)["session"].tolist() == [2, 1], "s is older than a, and has its id"
    assert pairing.find(table(1)).early.tolist() == [True]
    pairing.forget(np.array([1, 2]))
    assert not pairing.is_waiting([7, 8])


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


@pytest.mark.parametrize("most", [8192, 2])
@settings(max_examples=40, deadline=None)
@given(ACTIONS)
def test_rows_are_those_of_a_model(most: int, actions: list[tuple[str, int, int]]) -> None:
    """`most`: so many records are read at a time."""
    with mock.patch("app.experience.journals._MOST_STEPS", most), tempfile.TemporaryDirectory() as name:
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
                write(workers[worker], 0, str(session), incarnation=str(starts))
            elif action in ("step", "lose") and start >= 0:
                last[session] = (start, step + 1)
                if action == "lose":  # a disk that is full
                    lost.add((session, start, step + 1))
                    continue
                write(workers[worker], step + 1, str(session), incarnation=str(start))
                if (session, start, step) not in lost:
                    expected.append((str(session), str(start), step))
            elif action == "repeat" and start >= 0 and (session, start, step) not in lost:
                write(workers[worker], step, str(session), incarnation=str(start))
            elif action == "move":
                workers[worker].close()
            elif action == "look":
                follower.advance()
            elif action == "kill":
                follower = Follower(folder, SPEC, rows)
        for worker in workers:
            worker.close()
        for _ in range(3 + 4 * len(actions)):
            follower.advance()
        found = [(row["session"], row["incarnation"], row["step"]) for row in rows.rows]
        assert sorted(found) == sorted(expected)
        assert list((folder / "journals").glob("*.journal")) == []
