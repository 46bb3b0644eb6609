"""The fields of a large msgpack body: short values are read, bytes are views, long arrays only delimited."""

from typing import Any

import msgspec
import numpy as np
import pytest

from app.errors import DoesNotFit, NotMsgpack
from app.wire import large_msgpack
from app.wire.large_msgpack import LongPack, decode, header
from saver.artifact import Leaf

PAIRS = Leaf("0/observation", "float32", (2,))
ROWS = [[0.5, 1.5]] * 3000
MANY = 100
pack = msgspec.msgpack.encode


def long_array(value: Any = ROWS) -> LongPack:
    found = decode(pack({"x": value}), MANY)["x"]
    assert isinstance(found, LongPack)
    return found


def test_short_values_of_every_kind_are_read() -> None:
    fields = {"a": 1, "b": -0.5, "c": "text", "d": None, "e": True, "f": [1, [2]], "g": {"h": {"i": []}}, "j": {}}
    assert decode(pack(fields), MANY) == fields


def test_bytes_are_a_view_of_the_body() -> None:
    found = decode(pack({"x": b"abc"}), MANY)["x"]
    assert isinstance(found, memoryview)
    assert found == b"abc"


def test_a_tensor_is_an_array_wherever_it_stands() -> None:
    tensor = {"dtype": "float32", "shape": [2], "data": np.array([1, 2], np.float32).tobytes()}
    found = decode(pack({"x": tensor, "y": {"z": tensor}}), MANY)
    for array in (found["x"], found["y"]["z"]):
        np.testing.assert_array_equal(array, [1, 2])
    with pytest.raises(DoesNotFit, match="a tensor; expected a map"):
        decode(pack(tensor), MANY)


@pytest.mark.parametrize(
    ("data", "kind", "count", "start"),
    [
        (b"\x83", "a map", 3, 1),
        (b"\xde\x01\x00", "a map", 256, 3),
        (b"\xdf\x00\x01\x00\x00", "a map", 65536, 5),
        (b"\x92", "an array", 2, 1),
        (b"\xdc\x00\x07", "an array", 7, 3),
        (b"\xa5", "a string", 5, 1),
        (b"\xd9\xff", "a string", 255, 2),
        (b"\xc4\x09", "raw bytes", 9, 2),
        (b"\xc7\x02", "an extension", 3, 2),
        (b"\xd4", "an extension", 2, 1),
        (b"\xcb", "a number", 8, 1),
        (b"\x07", "a number", 0, 1),
        (b"\xff", "a number", 0, 1),
    ],
)
def test_the_head_of_a_value_says_its_kind_and_its_size(data: bytes, kind: str, count: int, start: int) -> None:
    assert header(b"\xc0" + data, 1) == (kind, count, start + 1)


@pytest.mark.parametrize("data", [b"", b"\xde\x01", b"\xdb\x00\x00\x00"])
def test_a_body_that_ends_in_a_head_is_refused(data: bytes) -> None:
    with pytest.raises(NotMsgpack, match=f"ends within a value, after {len(data)} bytes"):
        header(data, 0)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (pack([1, 2]), "an array"),
        (pack({"a": 1}) + b"\x01", r"trailing characters \(byte 4\)"),
        (pack({"a": "text"})[:-1], "ends within a value"),
        (b"\x81\x01\x02", "a map with a key that is no string"),
        (b"\x81\xa1\xff\x01", "a string that is not UTF-8"),
        (b"\x81\xa1a\xc1", "invalid opcode"),
        (b"\x81\xa1a" * 20 + b"\x01", "nested too deep, expected at most 16 levels"),
        (b"\x81\xa1a\xdd\x00\x01\x00\x00\x01", "ends within a value"),
    ],
)
def test_what_is_no_msgpack_is_refused_where_it_stops_to_be(body: bytes, message: str) -> None:
    with pytest.raises(NotMsgpack, match=message):
        decode(body, MANY)


def test_a_map_with_too_many_names_is_refused_unread() -> None:
    body = pack({"a": {"b": 1, "c": 2}, "d": 3})
    assert len(decode(body, 4)) == 2
    with pytest.raises(DoesNotFit, match="more than 3 fields"):
        decode(body, 3)
    with pytest.raises(DoesNotFit, match="more than 100 fields"):
        decode(b"\xdf\xff\xff\xff\xff", MANY)


def test_a_name_that_no_field_has_is_refused_by_its_length() -> None:
    with pytest.raises(DoesNotFit, match="a name of 5000 bytes"):
        decode(pack({"n" * 5000: 1}), MANY)


def test_a_long_array_knows_its_depth_its_rows_and_its_end() -> None:
    found = long_array()
    assert (found.depth(9), found.depth(1), found.rows(PAIRS)) == (2, 1, 3000)
    assert found.end == len(pack({"x": ROWS}))


def test_rows_come_a_piece_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_msgpack, "PIECE_BYTES", 4096)
    pieces = list(long_array().pieces(PAIRS, True))
    assert 3 < len(pieces) < 30
    assert [row for piece in pieces for row in piece] == ROWS


def test_an_item_larger_than_any_piece_is_one_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_msgpack, "PIECE_BYTES", 256)
    monkeypatch.setattr(large_msgpack, "_MOST_ITEM_BYTES", 1024)
    windows = []
    extent = large_msgpack._extent

    def noting(body: bytes, at: int, items: int, window: int) -> int | None:
        windows.append(window)
        return extent(body, at, items, window)

    monkeypatch.setattr(large_msgpack, "_extent", noting)
    found = long_array([[1, 2], list(range(20_000)), [3, 4]])
    assert max(windows) == 1024  # no more of it is copied to find its end
    children: Any = found.children(3)
    assert isinstance(children[1], LongPack)
    assert [children[0], children[2]] == [[1, 2], [3, 4]]
    assert found.children(2) is None


def test_it_is_read_as_a_whole_where_that_is_small_enough() -> None:
    size = len(pack(ROWS))
    assert long_array().plain(size) == ROWS
    assert long_array().plain(size - 1) is None
