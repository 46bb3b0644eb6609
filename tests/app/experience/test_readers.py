"""How far behind each reader is, as long as it is seen; only so many are followed."""

import pytest

from app.experience.readers import Readers
from tests.support.experience import ChangedMeanwhile

ONE, OTHER = b"one___", b"other_"


def test_each_reader_is_as_far_behind_as_there_are_rows_after_its_place() -> None:
    readers = Readers()
    assert readers.behind(10, 0.0) == []
    readers.saw(ONE, 4, 0.0)
    readers.saw(OTHER, 10, 0.0)
    assert readers.behind(10, 0.0) == [6, 0]
    assert readers.behind(15, 0.0) == [11, 5]


def test_a_reader_that_comes_again_is_one_and_counts_from_its_new_place() -> None:
    readers = Readers()
    for row in (0, 3, 7):
        readers.saw(ONE, row, 0.0)
    assert readers.behind(10, 0.0) == [3]


def test_a_place_behind_the_end_is_not_behind() -> None:
    readers = Readers()
    readers.saw(ONE, 12, 0.0)
    assert readers.behind(10, 0.0) == [0]


@pytest.mark.parametrize(("seen_at", "left"), [(1000.0, [5]), (1000.5, [5]), (881.0, [5]), (880.0, []), (0.0, [])])
def test_a_reader_that_was_not_seen_for_two_minutes_is_gone(seen_at: float, left: list[int]) -> None:
    readers = Readers()
    readers.saw(ONE, 5, seen_at)
    assert readers.behind(10, 1000.0) == left


def test_one_that_comes_again_later_is_there_again() -> None:
    readers = Readers()
    readers.saw(ONE, 5, 0.0)
    assert readers.behind(10, 500.0) == []
    readers.saw(ONE, 6, 500.0)
    assert readers.behind(10, 500.0) == [4]


def test_of_many_the_ones_that_read_last_are_followed() -> None:
    readers = Readers()
    names = [b"%06d" % number for number in range(64)]
    for number, name in enumerate(names):
        readers.saw(name, number, 0.0)
    readers.saw(names[0], 1000, 0.0)
    readers.saw(OTHER, 1001, 0.0)  # in the place of the second, which has not read for longest
    assert readers.behind(1001, 0.0) == [*(1001 - number for number in range(2, 64)), 1, 0]


def test_who_asks_is_not_disturbed_by_readers_that_come_meanwhile_and_keeps_what_is_noted() -> None:
    readers = Readers()
    readers._seen = noted = ChangedMeanwhile()
    readers.saw(ONE, 4, 0.0)
    readers.saw(OTHER, 10, 0.0)
    assert readers.behind(10, 0.0) == [6, 0]
    assert readers.behind(10, 500.0) == []
    readers.saw(ONE, 5, 500.0)
    assert readers.behind(10, 500.0) == [5]
    assert readers._seen is noted, "or what another thread notes just then is gone"
