"""Two sequences side by side are of one length."""

import pytest

from saver.pairs import paired


def test_elements_are_paired_in_their_order() -> None:
    assert paired(iter("ab"), [1, 2]) == [("a", 1), ("b", 2)]
    assert paired([], ()) == []


@pytest.mark.parametrize(("first", "second", "says"), [("abc", "ab", "3 beside 2"), ("", "a", "0 beside 1")])
def test_another_length_is_an_error(first: str, second: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        paired(first, second)
