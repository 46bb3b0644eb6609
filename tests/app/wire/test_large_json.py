"""The fields of a large JSON body: short values are read, long lists and strings only delimited."""

import json
from typing import Any

import numpy as np
import pytest

from app.errors import DoesNotFit, NotJson
from app.wire import large_json, long_lists
from app.wire.large_json import LongText, decode
from app.wire.long_lists import SHORT_BYTES, LongString, Ragged
from saver.artifact import Leaf

PAIRS = Leaf("0/observation", "float32", (2,))
LONG = json.dumps([[0.5, 1.5]] * 3000).encode()
MANY = 100


def long_list(text: bytes = LONG) -> LongText:
    found = decode(b'{"x": ' + text + b"}", MANY)["x"]
    assert isinstance(found, LongText)
    return found


def test_short_values_of_every_kind_are_read() -> None:
    fields = {"a": 1, "b": -0.5, "c": "text", "d": None, "e": True, "f": [1, [2]], "g": {"h": {"i": []}}, "j": {}}
    for indent in (None, 2):
        assert decode(json.dumps(fields, indent=indent).encode(), MANY) == fields
    assert decode(b" {} ", MANY) == {}


def test_a_list_and_a_string_are_long_from_the_same_size_on() -> None:
    for size, long in ((SHORT_BYTES, False), (SHORT_BYTES + 1, True)):
        found = decode(b'{"x": [' + b"1" * 4 + b" " * (size - 6) + b'], "s": "' + b"s" * (size - 2) + b'"}', MANY)
        assert isinstance(found["x"], LongText) == isinstance(found["s"], LongString) == long


def test_of_fields_with_the_same_name_the_last_one_counts() -> None:
    assert decode(b'{"a": 1, "a": 2}', MANY) == {"a": 2}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[1]", "an object"),
        (b"nothing", "it begins with b'nothing', expected an object"),
        (b'{"a": 1} x', "something follows its object, at byte 8"),
        (b'{"a" 1}', "byte 5 is 0x31, expected ':'"),
        (b'{"a": 1 "b"', "byte 8 is 0x22, expected ',' or '}'"),
        (b"{1: 2}", "byte 1 is 0x31, expected the name of a field in double quotes"),
        (b'{"a": ', "it ends after 6 bytes, expected a value"),
        (b'{"a": ?}', "byte 6 is 0x3f, expected a value"),
        (b'{"a": [1}', "expected ']'"),
        (b'{"a":' * 20 + b"1" + b"}" * 20, "nested too deep: objects in more than 16 others"),
        (b'{"a":' + b"1" * 4097 + b"}", "a number of more than 4096 characters, at byte 5"),
        (b" " * 65_537 + b"{}", "nothing but space from byte 0 on"),
    ],
)
def test_what_is_no_json_is_refused_where_it_stops_to_be(body: bytes, message: str) -> None:
    with pytest.raises(NotJson, match=message.replace("?", r"\?").replace("]", r"\]")):
        decode(body, MANY)


def test_names_of_all_objects_count_together() -> None:
    body = b'{"a": {"b": 1, "c": 2}, "d": 3}'
    assert len(decode(body, 4)) == 2
    with pytest.raises(DoesNotFit, match="more than 3 fields"):
        decode(body, 3)


def test_a_name_that_no_field_has_is_refused_by_its_length() -> None:
    with pytest.raises(DoesNotFit, match="a name of 5000 bytes"):
        decode(b'{"' + b"n" * 5000 + b'": 1}', MANY)


@pytest.mark.parametrize(("text", "depth"), [(b"[", 1), (b"[ [\n[", 3), (b"[1, [[", 1)])
def test_the_depth_is_that_of_the_first_items(text: bytes, depth: int) -> None:
    body = text + b"0" * 20_000 + b"]" * text.count(b"[")
    found = LongText(body, 0, len(body), MANY)
    assert found.depth(9) == depth
    assert found.depth(2) == min(2, depth)


def test_rows_are_counted_without_being_read() -> None:
    assert long_list().rows(PAIRS) == 3000
    assert long_list(b"[" + b"1," * 9999 + b"1]").rows(Leaf("x", "float32", ())) == 10_000


def test_numbers_come_as_arrays_a_piece_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_json, "PIECE_BYTES", 4096)
    pieces = list(long_list().pieces(PAIRS, True))
    assert len(pieces) > 3
    assert all(isinstance(piece, np.ndarray) for piece in pieces)
    np.testing.assert_array_equal(np.concatenate(pieces), [[0.5, 1.5]] * 3000)


def test_rows_that_are_not_all_numbers_come_as_lists() -> None:
    [piece] = long_list(LONG[:-1] + b', [null, "x"]]').pieces(PAIRS, True)
    assert isinstance(piece, list)
    assert piece[-1] == [None, "x"]


def test_a_row_that_does_not_end_is_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (large_json, long_lists):
        monkeypatch.setattr(module, "PIECE_BYTES", 1024)
    with pytest.raises(Ragged):
        list(long_list(b"[[" + b"1, " * 20_000 + b"1]]").pieces(PAIRS, True))


def test_its_items_are_read_or_long_in_turn_and_no_more_than_may_be() -> None:
    found = long_list(b"[" + LONG + b', [1, 2], "x", 7]')
    children: Any = found.children(4)
    assert isinstance(children[0], LongText)
    assert children[1:] == [[1, 2], "x", 7]
    assert found.children(3) is None


@pytest.mark.parametrize(
    "item", [{"x": "\\},{"}, {"x": [{}, {}]}, {"x": [[{"b64": "YQ=="}, {"b64": "YQ=="}]]}, {"x": "},{" * 9}, {"x": 1}]
)
def test_objects_with_what_looks_like_the_end_of_one_take_few_tries(item: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_json, "PIECE_BYTES", 1024)
    read = 0
    loads = large_json._loads

    def counted(text: bytes, at: int) -> Any:
        nonlocal read
        read += len(text)
        return loads(text, at)

    monkeypatch.setattr(large_json, "_loads", counted)
    items = [item] * 3000
    text = json.dumps(items).encode()
    assert [each for piece in long_list(text).objects() for each in piece] == items
    assert read < 5 * len(text)


def test_it_is_read_as_a_whole_where_that_is_small_enough() -> None:
    assert long_list().plain(len(LONG)) == [[0.5, 1.5]] * 3000
    assert long_list().plain(len(LONG) - 1) is None
