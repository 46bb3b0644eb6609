"""Nests to bytes and back, held against the server's own reading and writing."""

from collections import namedtuple
from typing import Any

import ml_dtypes
import msgspec
import numpy as np
import pytest

from app.wire import msgpack_body
from policy_client import wire

Pair = namedtuple("Pair", ["left", "right"])
RANDOM = np.random.default_rng(5)


def through(nest: Any) -> Any:
    """As the server reads what the client writes."""
    return msgpack_body.decode(wire.encode({"x": wire.plain(nest)}))["x"]


@pytest.mark.parametrize("dtype", sorted(msgpack_body.DTYPES))
@pytest.mark.parametrize("shape", [(4,), (3, 2, 2), (0, 4), (1, 0)])
def test_every_dtype_arrives_as_it_is(dtype: str, shape: tuple[int, ...]) -> None:
    array = (RANDOM.normal(size=shape) * 9).astype(dtype)
    read = through(array)
    assert (read.dtype, read.shape) == (array.dtype, shape)
    np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize("dtype", sorted(msgpack_body.DTYPES))
@pytest.mark.parametrize("shape", [(4,), (3, 2, 2), (0, 4)])
def test_what_the_server_writes_is_read_as_it_is(dtype: str, shape: tuple[int, ...]) -> None:
    array = (RANDOM.normal(size=shape) * 9).astype(dtype)
    read = wire.arrays(wire.decode(msgpack_body.encode({"x": {"a": [array]}}))["x"])["a"][0]
    assert (read.dtype, read.shape) == (array.dtype, shape)
    np.testing.assert_array_equal(read, array)


def test_read_arrays_can_be_written_to() -> None:
    read = wire.arrays(wire.decode(msgpack_body.encode({"x": np.zeros((2, 3), np.float32)}))["x"])
    read[0, 0] = 1
    assert read.tolist() == [[1, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.float32).reshape(3, 4).T,
        np.arange(24, dtype=np.int32)[::2],
        np.arange(6, dtype=">f4").reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
    ],
)
def test_memory_of_any_layout_is_sent_in_the_order_of_the_rows(array: np.ndarray) -> None:
    np.testing.assert_array_equal(through(array), array)


def test_bfloat16_is_sent_as_float32() -> None:
    read = through(np.array([0.5, 2.0], ml_dtypes.bfloat16))
    assert (read.dtype, read.tolist()) == (np.float32, [0.5, 2.0])


def test_nests_keep_their_form() -> None:
    nest = {"camera": np.ones((2, 3), np.uint8), "body": (np.zeros(3, np.float32), 7), "pair": Pair([1, 2.5], True)}
    read = through(nest)
    assert list(read) == ["camera", "body", "pair"]
    assert read["pair"] == {"left": [1, 2.5], "right": True}
    assert read["body"][1] == 7
    np.testing.assert_array_equal(read["body"][0], np.zeros(3))


def test_single_numbers_of_numpy_are_plain_numbers() -> None:
    assert through([np.float32(0.5), np.int64(3), np.bool_(True), np.array(7)]) == [0.5, 3, True, 7]


def test_what_numpy_can_make_an_array_of_is_sent_as_one() -> None:
    class Tensor:
        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            return np.ones((2, 2), np.float32)

    np.testing.assert_array_equal(through({"x": Tensor()})["x"], np.ones((2, 2)))


def test_text_is_sent_as_lists_of_text() -> None:
    assert through(np.array([["left", "right"]])) == [["left", "right"]]
    assert through(np.array([b"left", b"right"])) == ["left", "right"]


@pytest.mark.parametrize(
    "leaf", [np.array([1j]), np.array(["2026-01-01"], "datetime64[D]"), object(), np.array([None])]
)
def test_what_no_tensor_holds_is_refused_before_it_is_sent(leaf: Any) -> None:
    with pytest.raises(TypeError, match="cannot be sent; expected numbers, booleans or text"):
        wire.encode({"x": leaf})


def test_single_values_of_an_answer_become_arrays_without_dimensions() -> None:
    read = wire.arrays([1, 0.5, True, {"family": "categorical"}])
    assert [value.dtype for value in read[:3]] == [np.int64, np.float64, bool]
    assert [value.shape for value in read[:3]] == [(), (), ()]
    assert read[3] == {"family": "categorical"}


@pytest.mark.parametrize(
    "tensor",
    [
        {"dtype": "complex64", "shape": [1], "data": bytes(8)},
        {"dtype": "float32", "shape": [2], "data": bytes(4)},
        {"dtype": "float32", "shape": [2], "data": bytes(12)},
        {"dtype": "float32", "shape": "no", "data": bytes(4)},
    ],
)
def test_a_tensor_that_is_none_is_an_error(tensor: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        wire.arrays(tensor)


@pytest.mark.parametrize("content", [b"", b"<html>", msgspec.msgpack.encode([1])])
def test_an_answer_that_is_no_map_is_an_error(content: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        wire.decode(content)
