"""A cursor is a text that goes into a URL as it is; a changed one is refused, or says the same."""

import string

import pytest

from app.errors import DoesNotFit
from app.experience.cursor import Cursor, new_reader, read_cursor, unfit

ALPHABET = string.ascii_letters + string.digits + "-_="


@pytest.mark.parametrize("row", [0, 1, 2**40, 2**63 - 1])
@pytest.mark.parametrize("part", [b"\x00", b"\xff", b"\xfb\xef\xbe"])
def test_it_is_the_same_after_its_text_which_may_stand_in_a_url(row: int, part: bytes) -> None:
    cursor = Cursor((8 * part)[:8], row, (6 * part)[:6])
    text = cursor.text()
    assert set(text) <= set(ALPHABET)
    assert read_cursor(text) == cursor


def test_wherever_one_letter_is_another_one_it_is_refused_or_says_the_same() -> None:
    cursor = Cursor(b"12345678", 4711, b"reader")
    text, accepted = cursor.text(), 0
    for place in range(len(text)):
        for letter in ALPHABET:
            try:
                found = read_cursor(text[:place] + letter + text[place + 1 :])
            except DoesNotFit:
                continue
            assert found == cursor
            accepted += 1
    assert accepted == len(text) + 3, "two bits of the last letter say nothing"


@pytest.mark.parametrize("text", ["a b c", "a\nb", "\ud800", "ü" * 40, "A" * 10_000, "+/+/"])
def test_other_texts_are_none(text: str) -> None:
    with pytest.raises(DoesNotFit) as refused:
        read_cursor(text)
    (problem,) = refused.value.problems
    assert (problem.where, problem.problem) == ("cursor", repr(text[:60]))


def test_a_refusal_says_what_is_wrong_with_it_and_what_to_do() -> None:
    assert str(unfit("abc", " is of another policy")) == (
        "cursor: 'abc' is of another policy; expected the cursor of an answer as it came, "
        "or none: to begin with the oldest row"
    )


def test_each_reader_has_a_name_of_its_own() -> None:
    names = {new_reader() for _ in range(100)}
    assert len(names) == 100
    assert {len(name) for name in names} == {6}
