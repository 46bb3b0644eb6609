import json
import math

import ml_dtypes
import numpy as np
import orjson
import pytest

from app.errors import NotJson
from app.wire import json_body
from app.wire.json_body import decode, encode


@pytest.mark.parametrize(
    ("body", "data"),
    [
        (b"", {}),
        (b"{}", {}),
        (b' {"observation": [1, 2.5]} ', {"observation": [1, 2.5]}),
        ('{"é": "ü"}'.encode(), {"é": "ü"}),
    ],
)
def test_object_is_decoded_and_nothing_is_an_empty_object(body, data):
    assert decode(body) == data


@pytest.mark.parametrize(("word", "test"), [("NaN", math.isnan), ("Infinity", math.isinf), ("-Infinity", math.isinf)])
def test_words_that_are_no_json_are_read_so_that_the_field_can_be_named(word, test):
    assert test(decode(f'{{"observation": {word}}}'.encode())["observation"])


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"observation": [1, 2', "line 1 column"),
        (b'{"observation": 1,}', "line 1 column"),
        (b"observation=1", "line 1 column"),
        (b"   ", "line 1 column"),
        (b'{"a": "\xff"}', "not JSON"),
        (b'{"\\ud800": 1}', "not JSON"),
        (b'{"a": NaN, "b": "\\udfff"}', "not JSON"),
        ('{"a": 1}'.encode("utf-16"), "not JSON"),
        (b'{"a":' + b"[" * 100_000, "not JSON"),
        (b'{"a": ' + b"[" * 2000 + b"]" * 2000 + b"}", "not JSON"),
        (b"[1]", "a JSON array, expected an object"),
        (b'"a"', "a JSON string, expected an object"),
        (b"1", "a JSON number, expected an object"),
        (b"NaN", "a JSON number, expected an object"),
        (b"true", "a JSON boolean, expected an object"),
        (b"null", "a JSON null, expected an object"),
    ],
)
def test_anything_else_is_refused_with_the_reason(body, says):
    with pytest.raises(NotJson) as caught:
        decode(body)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.float32(0.1), b"0.1"),
        (np.array(0.1, np.float32), b"0.1"),
        (np.array([0.1, 1 / 3], np.float32), b"[0.1,0.33333334]"),
        (np.float64(0.1), b"0.1"),
        (np.array([1 / 3], np.float64), b"[0.3333333333333333]"),
        (np.array([1.5, -0.25], ml_dtypes.bfloat16), b"[1.5,-0.25]"),
        (np.array(1.5, ml_dtypes.bfloat16), b"1.5"),
        (np.array([1.5, 2], np.float16), b"[1.5,2.0]"),
        (np.float16(1.5), b"1.5"),
        (np.float32(np.nan), b'"NaN"'),
        (np.array([np.nan, np.inf, -np.inf, 1], np.float32), b'["NaN","Infinity","-Infinity",1.0]'),
        (np.array([[np.inf]], np.float64), b'[["Infinity"]]'),
        (np.array([np.nan, 1.5], ml_dtypes.bfloat16), b'["NaN",1.5]'),
        (np.array([-np.inf], np.float16), b'["-Infinity"]'),
        (math.nan, b'"NaN"'),
        (-math.inf, b'"-Infinity"'),
        (np.bool_(True), b"true"),
        (np.array([[True], [False]]), b"[[true],[false]]"),
        (np.array(2**64 - 1, np.uint64), b"18446744073709551615"),
        (np.array([2**63, 1], np.uint64), b"[9223372036854775808,1]"),
        (np.int64(-(2**63)), b"-9223372036854775808"),
        (np.array([-128, 127], np.int8), b"[-128,127]"),
        (np.array([0, 255], np.uint8), b"[0,255]"),
        (np.array([-1], np.int16), b"[-1]"),
        (np.array([65535], np.uint16), b"[65535]"),
        (np.array([[1, 2], [3, 4]], np.int32).T, b"[[1,3],[2,4]]"),
        (np.arange(6, dtype=np.float32)[::2], b"[0.0,2.0,4.0]"),
        (np.zeros((0, 3), np.float32), b"[]"),
        (np.zeros((2, 0), np.float32), b"[[],[]]"),
        (np.array([b"up", b"d\xc3\xa9"], object), '["up","dé"]'.encode()),
        (np.array(b"up", object), b'"up"'),
        (np.array([b"\xff"], object), b'["\\\\xff"]'),
        (np.array(["a", "b"]), b'["a","b"]'),
        (None, b"null"),
        ("text", b'"text"'),
        (7, b"7"),
    ],
)
def test_every_kind_of_leaf_has_its_json(value, text):
    assert encode({"a": value}) == b'{"a":' + text + b"}"


def test_nested_structure_keeps_its_form():
    structure = {
        "action": {"move": np.int64(1), "grip": [np.array([0.5], np.float32), {"x": np.array([True])}]},
        "info": [],
        "version": "export",
    }
    assert json.loads(encode(structure)) == {
        "action": {"move": 1, "grip": [[0.5], {"x": [True]}]},
        "info": [],
        "version": "export",
    }


def test_arrays_that_are_not_contiguous_are_written_in_their_order():
    array = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    for view in (array.T, array[:, ::-1], array[1:3, ::2, 4], np.broadcast_to(array[0], (3, 5, 6))):
        np.testing.assert_array_equal(np.array(orjson.loads(encode({"a": view}))["a"], np.float32), view)


def test_random_float32_arrays_come_back_bit_for_bit():
    bits = np.random.default_rng(1).integers(0, 2**32, 20_000, np.uint32)
    array = bits.view(np.float32)
    array = array[np.isfinite(array)]
    text = encode({"a": array})
    back = np.array(json.loads(text)["a"], np.float32)
    np.testing.assert_array_equal(back.view(np.uint32), array.view(np.uint32))
    assert len(text) < 17 * array.size  # a float32 needs nine digits at most, a double would take seventeen


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_single_floats_come_back_exactly_from_every_dtype(dtype):
    values = np.random.default_rng(2).normal(size=200).astype(dtype)
    for value in values:
        assert dtype(json.loads(encode({"a": value}))["a"]) == value


@pytest.mark.parametrize("kind", ["float32", "float64", "int64", "uint8", "bool", "float16"])
def test_a_large_array_is_written_as_a_small_one_is(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    array = (np.random.default_rng(0).standard_normal((50, 3, 2)) * 40).clip(0, 99).astype(kind)
    whole = encode({"a": array, "b": [array[0]]})
    monkeypatch.setattr(json_body, "FEW_NUMBERS", 20)
    assert encode({"a": array, "b": [array[0]]}) == whole
    assert json_body.in_pieces(array) == encode(array)
    assert json_body.in_pieces(array[::2]) == encode(array[::2])


def test_what_is_not_finite_in_a_large_array_is_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.random.default_rng(0).standard_normal((50, 3, 2)).astype(np.float32)
    array[7, 1, 0], array[30, 0, 1], array[31, 2, 0] = np.nan, np.inf, -np.inf
    monkeypatch.setattr(json_body, "FEW_NUMBERS", 20)
    read = json.loads(encode(array))
    assert [read[7][1][0], read[30][0][1], read[31][2][0]] == ["NaN", "Infinity", "-Infinity"]
    np.testing.assert_array_equal(np.array(read, np.float64).astype(np.float32), array)
