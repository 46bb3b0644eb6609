"""OpenPI's values are read as its clients write them: arrays, scalars and plain values; and what is none is named."""

import math
from typing import Any

import msgspec
import numpy as np
import pytest

from app.dialects.openpi_arrays import decoded, encode
from app.errors import DoesNotFit, NotMsgpack

MOST_KEYS = 100


def packed(value: Any) -> bytes:
    return msgspec.msgpack.encode(value)


def as_clients_write(value: Any) -> Any:
    """The maps that openpi-client puts in the place of arrays and of NumPy's scalars."""
    if isinstance(value, np.ndarray):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}


def parts(**other: Any) -> dict[bytes, Any]:
    """An array of two floats, with other parts."""
    return as_clients_write(np.zeros(2, np.float32)) | {name.encode(): value for name, value in other.items()}


def refusal(body: bytes, error: type[Exception] = DoesNotFit) -> str:
    with pytest.raises(error) as refused:
        decoded(body, MOST_KEYS)
    return str(refused.value)


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "|u1", "<i8", ">u2", "|b1", "<f2"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3)])
def test_arrays_are_read_in_their_own_dtype_and_shape(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.arange(math.prod(shape)).reshape(shape).astype(dtype)
    found = decoded(packed(as_clients_write(array)), MOST_KEYS)
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert found.tobytes() == array.tobytes()


def test_an_array_is_a_view_of_the_message() -> None:
    body = packed({"image": as_clients_write(np.arange(100, dtype=np.uint8))})
    image = decoded(body, MOST_KEYS)["image"]
    assert np.shares_memory(image, np.frombuffer(body, np.uint8))


@pytest.mark.parametrize("value", [np.float32(0.5), np.int64(-3), np.bool_(True), np.str_("left")])
def test_scalars_are_read_as_python_has_them(value: Any) -> None:
    found = decoded(packed(as_clients_write(value)), MOST_KEYS)
    assert (type(found), found) == (type(value.item()), value.item())


@pytest.mark.parametrize("words", [["left", "right"], [["ä", ""], ["π", "猫"]]])
def test_arrays_of_strings_become_lists(words: Any) -> None:
    for dtype in ("<U5", ">U5"):
        assert decoded(packed(as_clients_write(np.array(words, dtype))), MOST_KEYS) == words


def test_bytes_of_numpy_become_lists_of_bytes() -> None:
    assert decoded(packed(as_clients_write(np.array([b"ab", b"c"]))), MOST_KEYS) == [b"ab", b"c"]


def test_strings_of_all_arrays_together_are_bounded() -> None:
    """16 MB of them, one byte each, kept all others waiting for six seconds."""
    half = as_clients_write(np.full((2**11, 4), "x", "S1"))
    assert decoded(packed({"a": half, "b": half}), MOST_KEYS)["b"][-1] == [b"x"] * 4
    more = {"a": half, "b": half, "c": as_clients_write(np.array(["x"]))}
    assert "c: strings, more than 16384 in one message" in refusal(packed(more))


def test_nests_keep_their_form_and_arrays_are_found_in_lists() -> None:
    two = np.array([1, 2], np.int32)
    body = packed({"state": {"joints": [as_clients_write(two), 3]}, "prompt": "fold", "list": [[1.5, True], None]})
    found = decoded(body, MOST_KEYS)
    assert found["state"]["joints"][0].tolist() == [1, 2]
    assert found["state"]["joints"][1] == 3
    assert found["list"] == [[1.5, True], None]
    assert found["prompt"] == "fold"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dtype": "|O"}, "here.dtype: the string '|O'; expected NumPy's dtype.str: one of "),
        ({"dtype": "<M8[ns]"}, "here.dtype: "),
        ({"dtype": "<U0"}, "here.dtype: the string '<U0'"),
        ({"dtype": 4}, "here.dtype: 4"),
        ({"dtype": "<" * 300}, "here.dtype: 303 bytes; expected at most 256"),
        ({"shape": "2"}, "here.shape: the string '2'"),
        ({"shape": [-2]}, "here.shape: "),
        ({"shape": [3]}, "here.data: 8 bytes; expected 12 bytes: float32 of shape [3]"),
        ({"data": "text"}, "here.data: the string 'text'; expected raw bytes"),
        ({"more": 1}, "here: a map of 5 entries with bytes as keys; expected an array, or names as keys"),
        ({"dtype": "<U1", "shape": [1], "data": b"\xff" * 4}, "here.data: a character that is none; expected strings"),
        ({"dtype": "<U1", "shape": [1], "data": b"\x00\xd8\x00\x00"}, "here.data: a character that is none"),
        ({"dtype": "|b1", "shape": [2], "data": b"\x01\x02"}, "here.data[1]: the byte 2; expected 0 or 1"),
    ],
)
def test_an_array_that_is_none_is_named_with_its_place(fields: dict[str, Any], message: str) -> None:
    assert refusal(packed({"here": parts(**fields)})).startswith(message)


def test_a_map_of_bytes_that_is_no_array_is_named() -> None:
    message = refusal(packed({"here": {b"data": b"", b"type": 1}}))
    assert message.startswith("here: a map with the keys b'data', b'type'; expected b'__ndarray__', b'data', ")
    assert "here: has no dtype" in refusal(packed({"here": {b"__npgeneric__": True, b"data": 1}}))
    assert "here: has no data" in refusal(packed({"here": {b"__npgeneric__": True, b"dtype": "<f4"}}))
    assert "here.data: " in refusal(packed({"here": {b"__npgeneric__": True, b"data": [1], b"dtype": "<f4"}}))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the message is empty, expected a map of the observation"),
        (b"\xc1", "the message is not msgpack: "),
        (packed({"a": 1})[:-1], "the message is not msgpack: it ends within a value, after 3 bytes"),
        (packed({"a": 1}) + b"\x00", "the message is not msgpack: trailing characters"),
        (b"\x81\x01\x02", "the message is not msgpack: a map with a key that is no string"),
        (b"\x81\xa1\xff\x00", "the message is not msgpack: a string that is not UTF-8"),
    ],
)
def test_what_is_no_msgpack_is_said_to_be_none(body: bytes, message: str) -> None:
    assert refusal(body, NotMsgpack).startswith(message)


@pytest.mark.parametrize("nest", [b"\x81\xa1a", b"\x92\xc4\x00"], ids=["maps", "lists"])
def test_a_nest_deeper_than_any_policys_is_refused(nest: bytes) -> None:
    assert decoded(nest * 17 + b"\x00", MOST_KEYS)
    assert "is nested too deep, expected at most 16 levels" in refusal(nest * 18 + b"\x00", NotMsgpack)


def test_all_maps_together_may_have_so_many_keys_and_arrays_do_not_count() -> None:
    array = as_clients_write(np.zeros(1))
    full = {"a": {str(number): array for number in range(MOST_KEYS - 2)}, "b": {}}
    assert len(decoded(packed(full), MOST_KEYS)["a"]) == MOST_KEYS - 2
    full["b"] = {"one": 1}
    assert "b: too many entries; expected at most 100 in all maps" in refusal(packed(full))


def test_more_lists_than_a_message_may_have_are_to_be_arrays() -> None:
    lists = {str(number): [0] * 60_000 for number in range(17)}
    assert len(decoded(packed(lists), MOST_KEYS)) == 17
    more = packed(lists | {"more": [0] * 60_000})
    assert "more: more than 1048576 bytes of lists; expected arrays for so many numbers" in refusal(more)
    assert "wide: a list of 70005 bytes; expected an array for so many numbers" in refusal(
        packed({"wide": [0] * 70_000})
    )


@pytest.mark.parametrize("array", [np.array(3.5), np.arange(6, dtype=">i2").reshape(2, 3)[:, ::2], np.zeros((0, 2))])
def test_arrays_are_written_little_endian_and_as_clients_read_them(array: Any) -> None:
    found = msgspec.msgpack.decode(encode({"action": array}))["action"]
    assert found[b"dtype"] == array.dtype.newbyteorder("<").str
    assert np.ndarray(tuple(found[b"shape"]), found[b"dtype"], found[b"data"]).tolist() == array.tolist()
    assert decoded(encode(array), MOST_KEYS).tolist() == array.tolist()


def test_strings_are_written_as_lists() -> None:
    assert msgspec.msgpack.decode(encode({"word": np.array(["a", "b"], object)})) == {"word": ["a", "b"]}
