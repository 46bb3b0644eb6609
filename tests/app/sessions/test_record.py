"""A record is the same after its bytes, and bytes that are no record are refused without being evaluated."""

from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec import structs

from app.sessions.record import Record
from tests.support.session_records import record


@pytest.mark.parametrize(
    "dtype",
    ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"],
)
def test_arrays_of_every_dtype_are_the_same_after_their_bytes(dtype: str) -> None:
    state = {"1": np.array([[0, 1], [1, 0]], dtype), "2": np.zeros((2, 0, 3), dtype), "3": np.array(1, dtype)}
    found = Record.from_bytes(structs.replace(record(), state=state).to_bytes()).state
    assert found.keys() == state.keys()
    for name, array in state.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name], array)


def test_a_record_without_an_ended_row_is_the_same_after_its_bytes() -> None:
    one = structs.replace(record(retained="d"), ended=None)
    found = Record.from_bytes(one.to_bytes())
    assert found.ended is None
    assert (found.run, found.step, found.answer, found.version) == (one.run, one.step, one.answer, one.version)


def test_arrays_of_bytes_do_not_change_with_them() -> None:
    found = Record.from_bytes(record().to_bytes())
    assert not any(array.flags.writeable for array in found.state.values())


def test_its_size_grows_with_its_arrays_and_its_answer() -> None:
    one = structs.replace(record(), state={}, ended=None)
    more = structs.replace(one, state={"1": np.zeros(1000, np.float64)})
    answer = structs.replace(one.answer, body=one.answer.body + b"x" * 500)
    assert 8000 <= more.size - one.size < 8500
    assert structs.replace(one, answer=answer).size - one.size == 500
    assert structs.replace(one, ended=np.zeros(100, bool)).size - one.size >= 100
    assert one.size > len(one.to_bytes()) / 2


def with_array(*array: Any) -> bytes:
    """The bytes of a record with this in the place of an array."""
    data = msgspec.msgpack.decode(record().to_bytes())
    data["state"]["1/0"] = list(array)
    return msgspec.msgpack.encode(data)


@pytest.mark.parametrize(
    "array",
    [
        ("|O", [1], b"12345678"),
        ("<U1", [1], b"1234"),
        ("float32", [1], b"1234"),
        (">f4", [1], b"1234"),
        ("<f4,<f4", [1], b"12345678"),
        ("<f4", [-1], b"1234"),
        ("<f4", [2], b"1234"),
        ("<f4", [0, 2**31 + 1], b""),
        ("<f4", [1] * 33, b"1234"),
        ("<f4", [1]),
        ("<f4", 1, b"1234"),
        ("<f4", ["1"], b"1234"),
    ],
)
def test_what_is_no_array_of_ours_is_refused(array: tuple[Any, ...]) -> None:
    assert Record.from_bytes(with_array("<f4", [1], b"1234")).state["1/0"].shape == (1,)
    with pytest.raises(msgspec.DecodeError):
        Record.from_bytes(with_array(*array))


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xc1", b"\x93 no record", b"\x81\xa1z" + b"\x91" * 100_000 + b"\x01"])
def test_bytes_that_are_no_record_are_refused(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        Record.from_bytes(data)


def test_a_record_that_was_cut_off_is_refused() -> None:
    data = record().to_bytes()
    for end in range(0, len(data), 7):
        with pytest.raises(msgspec.DecodeError):
            Record.from_bytes(data[:end])
