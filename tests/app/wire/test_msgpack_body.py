import math
import random
import struct
from typing import Any

import ml_dtypes
import msgspec
import numpy as np
import pytest

from app.errors import DoesNotFit, NotMsgpack
from app.inputs.options import read_options
from app.inputs.validate import InputValidator
from app.wire.msgpack_body import DTYPES, decode, encode
from saver.artifact import Leaf
from tests.support.specs import LSTM_STATE, NESTED, policy_spec

pack = msgspec.msgpack.encode


def tensor(array: np.ndarray) -> dict[str, Any]:
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return {"dtype": array.dtype.name, "shape": list(array.shape), "data": little.tobytes()}


def arrays_to_lists(structure: Any) -> Any:
    if isinstance(structure, dict):
        return {key: arrays_to_lists(value) for key, value in structure.items()}
    if isinstance(structure, list):
        return [arrays_to_lists(value) for value in structure]
    return structure.tolist() if isinstance(structure, np.ndarray | np.generic) else structure


IMAGE = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
ROW = np.array([0.1, -2, 3e8, 0], np.float32)


@pytest.mark.parametrize(
    "structure",
    [
        {},
        {"observation": [0.5, 1, True, None, "text", -(2**63), 2**64 - 1]},
        {"observation": [[1.5, 2.5], [3.5, 4.5]], "options": {"seed": 7, "mode": "greedy"}},
        {"é": {"ü": {"0": 1}}},
        {"data": 1, "shape": [2]},
        {"dtype": 1, "shape": [2], "data": 3, "more": 4},
    ],
)
def test_what_holds_no_tensor_is_as_any_msgpack(structure):
    assert decode(pack(structure)) == structure


def test_nothing_is_an_empty_map():
    assert decode(b"") == decode(b"\x80") == {}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (2, 0, 3), (1,) * 32])
def test_tensor_of_every_dtype_and_rank_is_an_array(dtype, shape):
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    found = decode(pack({"x": tensor(array)}))["x"]
    assert isinstance(found, np.ndarray)
    assert (found.dtype, found.shape) == (array.dtype, shape)
    np.testing.assert_array_equal(found, array)


def test_bytes_are_little_endian_and_rows_come_first():
    data = struct.pack("<6h", 1, 2, 3, 4, 5, -6)
    found = decode(pack({"x": {"dtype": "int16", "shape": [2, 3], "data": data}}))["x"]
    assert found.tolist() == [[1, 2, 3], [4, 5, -6]]


@pytest.mark.parametrize(
    ("field", "path"),
    [
        (tensor(IMAGE), ()),
        ({"camera": {"left": tensor(IMAGE)}}, ("camera", "left")),
        ([7, tensor(IMAGE), [0.5, [tensor(IMAGE)]]], (2, 1, 0)),
        ({"camera": [tensor(IMAGE)]}, ("camera", 0)),
    ],
)
def test_tensors_are_views_of_the_body_that_cannot_be_written(field, path):
    body = pack({"before": "x" * 3, "observation": field})
    found: Any = decode(body)["observation"]
    for key in path:
        found = found[key]
    assert np.shares_memory(found, np.frombuffer(body, np.uint8))
    assert not found.flags.writeable
    np.testing.assert_array_equal(found, IMAGE)


def test_tensors_in_maps_in_lists_are_read_too():
    found = decode(pack({"observation": [{"camera": tensor(IMAGE)}, 1, {"deep": [tensor(ROW), "x"]}]}))["observation"]
    np.testing.assert_array_equal(found[0]["camera"], IMAGE)
    np.testing.assert_array_equal(found[2]["deep"][0], ROW)
    assert (found[1], found[2]["deep"][1]) == (1, "x")


def test_a_view_outlives_the_request():
    found = decode(pack({"x": tensor(ROW)}))["x"]
    assert [bytes(100) for _ in range(1000)]
    np.testing.assert_array_equal(found, ROW)


def test_tensor_of_the_specs_dtype_reaches_the_engine_uncopied():
    body = pack({"observation": tensor(IMAGE)})
    reader = InputValidator(policy_spec(Leaf("0/observation", "uint8", (3, 4))), rows_limit=9, strict_bounds=False)
    inputs = reader.read(decode(body))
    assert (inputs.rows, inputs.batched) == (2, True)
    assert np.shares_memory(inputs.arrays["0/observation"], np.frombuffer(body, np.uint8))


@pytest.mark.parametrize(
    ("change", "where", "problem", "expected"),
    [
        ({"dtype": "f4"}, "x.dtype", "the string 'f4'", "one of float16"),
        ({"dtype": "bfloat16"}, "x.dtype", "the string 'bfloat16'", "uint64"),
        ({"dtype": 7}, "x.dtype", "7", "one of float16"),
        ({"dtype": ["int8"]}, "x.dtype", "a list of 1 items", "one of float16"),
        ({"shape": 4}, "x.shape", "4", "at most 32 integers"),
        ({"shape": [4.0]}, "x.shape", "a list of 1 items", "at most 32 integers"),
        ({"shape": [True]}, "x.shape", "a list of 1 items", "at most 32 integers"),
        ({"shape": [-4]}, "x.shape", "a list of 1 items", "none below 0"),
        ({"shape": [1] * 33}, "x.shape", "a list of 33 items", "at most 32 integers"),
        ({"shape": [5]}, "x.data", "16 bytes", "20 bytes: float32 of shape [5]"),
        ({"shape": []}, "x.data", "16 bytes", "4 bytes"),
        ({"shape": [2**64 - 1] * 32}, "x.data", "16 bytes", "bytes: float32"),
        ({"shape": [2**62, 2**62, 0], "data": b""}, "x.shape", "[46116", "smaller"),
        ({"shape": [2**64 - 1, 0], "data": b""}, "x.shape", "[18446", "smaller"),
        ({"data": b""}, "x.data", "0 bytes", "16 bytes"),
        ({"data": "x" * 16}, "x.data", "the string", "raw bytes"),
        ({"data": [1, 2, 3, 4]}, "x.data", "a list of 4 items", "raw bytes"),
        ({"data": None}, "x.data", "null", "raw bytes"),
        ({"dtype": "bool", "data": b"\0\1\2\0"}, "x.data[2]", "the byte 2", "0 or 1"),
    ],
)
@pytest.mark.parametrize(("around", "at"), [("{}", ""), ("[{}]", "[0]"), ("map", ".y"), ("[map]", "[0].y")])
def test_tensor_that_is_none_is_explained(change, where, problem, expected, around, at):
    value: Any = tensor(ROW) | change
    if "map" in around:
        value = {"y": value}
    if "[" in around:
        value = [value]
    with pytest.raises(DoesNotFit) as caught:
        decode(pack({"x": value}))
    [found] = caught.value.problems
    assert found.where == where.replace("x", f"x{at}")
    assert problem in found.problem
    assert expected in found.expected


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"\xc1", "0xc1, no msgpack"),
        (b'{"observation": 1}', "0x7b, a number, expected a map"),
        (b"\x90", "0x90, an array"),
        (b"\xdd\xff\xff\xff\xff", "0xdd, an array"),
        (b"\xa1a", "a string"),
        (b"\xd9\x01a", "a string"),
        (b"\xca\0\0\0\0", "a number"),
        (b"\xff", "a number"),
        (b"\xc0", "nil"),
        (b"\xc3", "a boolean"),
        (b"\xc4\x00", "raw bytes"),
        (b"\xd4\x01\x00", "an extension"),
        (b"\xc7\x00\x01", "an extension"),
        (b"\x81", "ends within a value, after 1 bytes"),
        (b"\x81\xa1a", "ends within a value, after 3 bytes"),
        (b"\x81\xa1a\xc4\x05abc", "ends within a value, after 8 bytes"),
        (b"\x81\xa1a\xdd\xff\xff\xff\xff\x01", "ends within a value"),
        (b"\xdf\xff\xff\xff\xff", "ends within a value"),
        (b"\x80\x80", "trailing characters (byte 1)"),
        (b"\x81\xa1a\xc1", "'\\xc1' (byte 3)"),
        (b"\x81\xa1a\x91\xc1", "'\\xc1' (byte 4)"),
        (b"\x81\x01\x02", "a map with a key that is no string"),
        (b"\x81\xa1a\x81\x01\x02", "in the value of 'a': a map with a key that is no string"),
        (b"\x81\xa1a\x91\x81\x80\x02", "in the value of 'a': map keys must be hashable"),
        (b"\x81\xa1\xff\x01", "a string that is not UTF-8"),
        (b"\x81\xa1a\x92\x01\xa1\xff", "in the value of 'a': a string that is not UTF-8"),
        (b"\x81\xa1a" + b"\x91" * 100_000 + b"\xc0", "nested too deep"),
        (b"\x81\xa1a" * 100_000 + b"\xc0", "nested too deep"),
        (b"\x81\xa1a" * 18 + b"\x00", "a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a is nested too deep"),
        (b"\x81\xa1a" + b"\x91\x81\xa1a" * 450 + b"\xc0", "nested too deep"),
    ],
)
def test_anything_else_is_refused_with_the_place(body, says):
    with pytest.raises(NotMsgpack) as caught:
        decode(body)
    assert says in str(caught.value)


def test_maps_may_be_nested_as_deep_as_any_policy():
    found: object = decode(b"\x81\xa1a" * 17 + b"\x07")
    for _ in range(17):
        assert isinstance(found, dict)
        found = found["a"]
    assert found == 7


def test_huge_claims_take_neither_time_nor_memory():
    for claim in (b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff"):
        with pytest.raises(NotMsgpack):
            decode(b"\x81\xa1a" + b"\xdd\x00\x00\x00\x01" * 20 + claim)


def test_raw_bytes_and_extensions_outside_a_tensor_are_named_as_what_they_are():
    reader = InputValidator(policy_spec(), rows_limit=9, strict_bounds=False)
    bodies = {
        b"\xc4\x10" + bytes(16): "16 raw bytes",
        b"\xd4\x01\x00": "a value of type Ext",
        b"\xd6\xff\x00\x00\x00\x00": "a value of type datetime",
    }
    for value, shown in bodies.items():
        for field, where in ((value, "observation"), (b"\x94\x01\x02\x03" + value, "observation[3]")):
            with pytest.raises(DoesNotFit) as caught:
                reader.read(decode(b"\x81\xabobservation" + field))
            [problem] = caught.value.problems
            assert (problem.where, problem.problem) == (where, shown)


# Answers


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.float32(0.1), float(np.float32(0.1))),
        (np.array(0.1, np.float64), 0.1),
        (np.array(1.5, ml_dtypes.bfloat16), 1.5),
        (np.float16(1.5), 1.5),
        (np.bool_(True), True),
        (np.array(2**64 - 1, np.uint64), 2**64 - 1),
        (np.int64(-(2**63)), -(2**63)),
        (np.float32(np.inf), math.inf),
        (-math.inf, -math.inf),
        (np.array([b"up", b"d\xc3\xa9"], object), ["up", "dé"]),
        (np.array([[b"\xff"], [b""]], object), [["\\xff"], [""]]),
        (np.array(b"up", object), "up"),
        (np.array(["a", "b"]), ["a", "b"]),
        (None, None),
        ("text", "text"),
        (7, 7),
        ([], []),
    ],
)
def test_single_values_and_strings_are_plain_msgpack(value, plain):
    assert msgspec.msgpack.decode(encode({"a": value})) == {"a": plain}


def test_single_nan_is_a_nan():
    assert math.isnan(msgspec.msgpack.decode(encode({"a": np.float32(np.nan)}))["a"])


@pytest.mark.parametrize(
    "array",
    [
        np.array([0.1, np.nan, -np.inf], np.float32),
        np.array([[1, 2], [3, 4]], np.int32).T,
        np.arange(6, dtype=np.float64)[::-2],
        np.array([1, 2], ">i4"),
        np.array([True, False]),
        np.zeros((0, 3), np.float32),
        np.zeros((2, 0), np.int8),
        np.broadcast_to(np.float16(1.5), (3, 2)),
    ],
)
def test_array_is_a_tensor(array):
    found = msgspec.msgpack.decode(encode({"a": array}))["a"]
    assert list(found) == ["dtype", "shape", "data"]
    assert found == tensor(array)


def test_bfloat16_has_no_name_here_and_is_written_as_float32():
    found = msgspec.msgpack.decode(encode({"a": np.array([1.5, -0.25], ml_dtypes.bfloat16)}))["a"]
    assert found == tensor(np.array([1.5, -0.25], np.float32))


def random_structure(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(9 if depth < 4 else 5)
    if kind == 0:
        return rng.choice([None, True, False, "", "é" * rng.randrange(40), "dtype"])
    if kind == 1:
        return rng.choice([rng.randrange(-(2**63), 2**64), rng.randrange(-40, 300)])
    if kind == 2:
        return rng.choice([rng.uniform(-1e9, 1e9), math.inf, 0.0])
    if kind < 5:
        shape = [rng.randrange(4) for _ in range(rng.randrange(1, 5))]
        bits = np.frombuffer(rng.randbytes(8 * math.prod(shape)), np.uint64).reshape(shape)
        return (bits % 2 if rng.random() < 0.5 else bits >> 54).astype(rng.choice(list(DTYPES)))
    if kind < 7:
        return {rng.choice("abcdefg") * rng.randrange(9): random_structure(rng, depth + 1) for _ in range(4)}
    return [random_structure(rng, depth + 1) for _ in range(rng.randrange(5))]


def test_random_structures_come_back_and_msgspec_sees_the_same():
    rng = random.Random(20240)
    for _ in range(500):
        structure = {f"field {i}": random_structure(rng) for i in range(3)}
        body = encode(structure)
        np.testing.assert_equal(decode(body), structure)
        as_tensors = msgspec.msgpack.decode(body)
        assert pack(as_tensors) == body
        assert arrays_to_lists(decode(pack(as_tensors))) == arrays_to_lists(structure)


def mutated(rng: random.Random, body: bytes) -> bytes:
    found = bytearray(body)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(found))
        how = rng.randrange(5)
        if how == 0:
            found[at] = rng.randrange(256)
        elif how == 1:
            found[at] ^= 1 << rng.randrange(8)
        elif how == 2:
            del found[at : at + rng.randrange(1, 9)]
        elif how == 3:
            found[at:at] = rng.randbytes(rng.randrange(1, 5))
        else:
            begin = rng.randrange(len(found))
            found[at:at] = found[begin : begin + rng.randrange(40)]
        if not found:
            break
    return bytes(found)


def test_garbage_is_refused_and_never_anything_worse():
    spec = policy_spec(NESTED, LSTM_STATE)
    reader = InputValidator(spec, rows_limit=9, strict_bounds=True)
    camera = tensor(np.zeros((2, 2, 2), np.uint8))
    joints = [tensor(np.zeros((2, 2), np.float64)), tensor(np.array([1, 2], np.int64))]
    body = pack(
        {
            "observation": {"camera": camera, "speed": [0.5, -0.5], "joints": joints},
            "policy_state": [tensor(np.ones((2, 3), np.float32)), [[1, 2, 3.5], [4, 5, 6]]],
            "step_type": tensor(np.array([1, 1], np.int32)),
            "options": {"seed": 7, "mode": "greedy", "log_prob": True},
        }
    )
    rng = random.Random(7)
    outcomes = {"read": 0, "NotMsgpack": 0, "DoesNotFit": 0}
    for mutant in [body, *(mutated(rng, body) for _ in range(20_000))]:
        try:
            fields = decode(mutant)
            read_options(fields.pop("options", {}))
            inputs = reader.read(fields)
        except (NotMsgpack, DoesNotFit) as refusal:
            outcomes[type(refusal).__name__] += len(str(refusal).encode()) > 0
        else:
            outcomes["read"] += 1
            assert all(len(array) == inputs.rows for array in inputs.arrays.values())
    assert min(outcomes.values()) > 500, outcomes
