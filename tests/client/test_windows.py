"""Rows of environments that were recorded between each other become windows of one environment each."""

import numpy as np
import pytest

from policy_client import windows as module
from policy_client.windows import Windows, episodes_in


def rows(*steps: tuple[str, int, int], last: tuple[tuple[str, int, int], ...] = ()) -> dict[str, object]:
    """Of (session, row, step); each has a value of its own. `last`: those that end an episode."""
    return {
        "session": [session for session, _, _ in steps],
        "incarnation": ["a"] * len(steps),
        "row": np.array([row for _, row, _ in steps]),
        "step": np.array([step for _, _, step in steps]),
        "next_step_type": np.array([2 if each in last else 1 for each in steps]),
        "value": np.array([100 * ord(session[0]) + 10 * row + step for session, row, step in steps]),
    }


def values(found: object) -> list[list[int]]:
    assert isinstance(found, dict)
    return sorted(map(list, found["value"].tolist()))


def test_window_has_consecutive_steps_of_one_environment() -> None:
    a, b = 100 * ord("a"), 100 * ord("b")
    found = Windows(2, ["value"]).add(
        rows(("a", 0, 0), ("b", 0, 0), ("a", 1, 0), ("a", 0, 1), ("b", 0, 1), ("a", 1, 1))
    )
    assert values(found) == [[a, a + 1], [a + 10, a + 11], [b, b + 1]]


def test_windows_go_on_from_batch_to_batch() -> None:
    windows = Windows(3, ["value"])
    a = 100 * ord("a")
    assert windows.add(rows(("a", 0, 0), ("a", 0, 1))) is None
    assert values(windows.add(rows(("a", 0, 2)))) == [[a, a + 1, a + 2]]
    assert values(windows.add(rows(("a", 0, 3), ("a", 0, 4)))) == [[a + 1, a + 2, a + 3], [a + 2, a + 3, a + 4]]


def test_no_window_spans_what_is_missing() -> None:
    windows = Windows(2, ["value"])
    a = 100 * ord("a")
    assert windows.add(rows(("a", 0, 0), ("a", 0, 2))) is None
    assert values(windows.add(rows(("a", 0, 3)))) == [[a + 2, a + 3]]


def test_shift_leaves_out_windows_between() -> None:
    a = 100 * ord("a")
    found = Windows(3, ["value"], shift=2).add(rows(*(("a", 0, step) for step in range(6))))
    assert values(found) == [[a, a + 1, a + 2], [a + 2, a + 3, a + 4]]


@pytest.mark.parametrize(("size", "expected"), [(1, [[5], [8], [20], [23]]), (2, [[5, 6], [8, 9], [20, 21], [23, 24]])])
@pytest.mark.parametrize("part", [1, 2, 3, 100])
def test_windows_begin_with_the_first_row_and_with_the_first_behind_a_gap(
    part: int, size: int, expected: list[list[int]]
) -> None:
    steps = [5, 6, 7, 8, 9, 20, 21, 22, 23, 24]
    windows, found = Windows(size, ["value"], shift=3), []
    for start in range(0, len(steps), part):
        each = windows.add(rows(*(("a", 0, step) for step in steps[start : start + part])))
        found += [] if each is None else values(each)
    assert found == [[100 * ord("a") + step for step in window] for window in expected]


@pytest.mark.parametrize(("size", "shift", "says"), [(0, 1, "num_steps is 0"), (2, 0, "shift is 0")])
def test_sizes_below_one_are_refused(size: int, shift: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Windows(size, [], shift)


def test_episodes_are_taken_apart() -> None:
    a, b = 100 * ord("a"), 100 * ord("b")
    steps = (("a", 0, 0), ("b", 0, 0), ("a", 0, 1), ("b", 0, 1), ("a", 0, 3), ("a", 0, 4))
    found = episodes_in(rows(*steps, last=(("a", 0, 1), ("b", 0, 1), ("a", 0, 4))), ["value"])
    assert sorted(episode["value"].tolist() for episode in found) == [[a, a + 1], [a + 3, a + 4], [b, b + 1]]


def test_of_too_many_environments_that_step_in_turn_as_many_as_may_be_have_windows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_MOST_ENVIRONMENTS", 8)
    monkeypatch.setattr(module, "_GONE_STEPS", 16)
    windows = Windows(2, ["value"])
    with pytest.warns(UserWarning, match="more than 8 environments") as warned:
        added = [windows.add(rows(("a", row, step))) for step in range(4) for row in range(12)]
    found = [window for each in added if each is not None for window in values(each)]
    a = 100 * ord("a")
    assert sorted(found) == [[a + 10 * row + step, a + 10 * row + step + 1] for row in range(8) for step in range(3)]
    assert len(warned) == 1


def test_environments_that_are_gone_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_ENVIRONMENTS", 8)
    monkeypatch.setattr(module, "_GONE_STEPS", 16)
    windows = Windows(2, ["value"])
    for session in "abcdefghijklmnop":  # one after the other, of more steps than two
        found = [windows.add(rows((session, 0, step))) for step in range(3)]
        assert [window is not None for window in found] == [False, True, True]
