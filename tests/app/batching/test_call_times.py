import math

import pytest

from app.batching.call_times import CallTimes


def paced(*calls: tuple[str, int, float]) -> CallTimes:
    call_times = CallTimes()
    for function, rows, seconds in calls:
        call_times.note(function, rows, seconds)
    return call_times


@pytest.mark.parametrize(
    ("calls", "asked", "expected"),
    [
        ((), ("action", 1), math.inf),
        ((("distribution", 1, 1.0),), ("action", 1), math.inf),
        ((("action", 5, 1.0),), ("action", 7), 1.0),  # of one size: 4 to 7 rows
        ((("action", 5, 1.0),), ("action", 1), 1.0),  # no longer than a larger one
        ((("action", 16, 1.0), ("action", 64, 2.0)), ("action", 1), 1.0),
        ((("action", 5, 1.0),), ("action", 8), 2.0),  # in proportion to the largest
        ((("action", 5, 1.0),), ("action", 31), 4.0),
        ((("action", 1, 1.0), ("action", 1, 0.25)), ("action", 1), 0.25),
        ((("action", 1, 1.0), ("action", 1, 50.0)), ("action", 1), 1.1),
    ],
)
def test_expected_time(calls, asked, expected):
    assert paced(*calls).expected_s(*asked) == pytest.approx(expected)


def test_what_becomes_slower_for_good_is_seen_in_the_end():
    call_times = paced(("action", 1, 1e-5))
    for _ in range(60):
        call_times.note("action", 1, 1e-3)
    assert call_times.expected_s("action", 1) == 1e-3
