import math

import pytest

from app.batching.call_times import CallTimes


def paced(*calls: tuple[int, float]) -> CallTimes:
    call_times = CallTimes()
    for rows, seconds in calls:
        call_times.note(rows, seconds)
    return call_times


@pytest.mark.parametrize(
    ("calls", "asked", "expected"),
    [
        ((), 1, math.inf),
        (((5, 1.0),), 7, 1.0),  # of one size: 4 to 7 rows
        (((5, 1.0),), 1, 1.0),  # no longer than a larger one
        (((16, 1.0), (64, 2.0)), 1, 1.0),
        (((5, 1.0),), 8, 2.0),  # in proportion to the largest
        (((5, 1.0),), 31, 4.0),
        (((1, 1.0), (1, 0.25)), 1, 0.25),
        (((1, 1.0), (1, 50.0)), 1, 1.1),
    ],
)
def test_expected_time(calls, asked, expected):
    assert paced(*calls).expected_s(asked) == pytest.approx(expected)


def test_what_becomes_slower_for_good_is_seen_in_the_end():
    call_times = paced((1, 1e-5))
    for _ in range(60):
        call_times.note(1, 1e-3)
    assert call_times.expected_s(1) == 1e-3
