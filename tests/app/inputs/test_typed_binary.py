"""The typed decoder of msgpack beside the validator: it reads the same, or nothing."""

import math
import random
import struct
from typing import Any

import msgspec
import numpy as np
import pytest

from app.errors import PolicyServerError
from app.inputs.options import read_options
from app.inputs.typed import TypedDecoder
from app.inputs.validate import InputValidator
from app.sessions.fields import STEP_FIELDS
from app.wire import msgpack_body
from saver.artifact import Leaf, PolicySpec
from tests.support.request_bodies import SPECS, bodies, check_alike, value_of
from tests.support.specs import custom_spec, policy_spec

ROW = np.array([0.1, -0.2, 0.3, -0.4], np.float32)
UNTYPED = {
    "text": policy_spec(Leaf("0/observation", "string", ())),
    "any size": policy_spec(Leaf("0/observation", "float32", (None,))),
    "bounds of each pixel": policy_spec(Leaf("0/observation", "int32", (2, 2), 0, [[1, 2], [3, 4]])),
    "an input named options": custom_spec({"options": Leaf("options", "float32", ())}),
    "an input like a tensor": custom_spec(
        {"x": {name: Leaf(f"x/{name}", "float32", ()) for name in ("dtype", "shape", "data")}}
    ),
}


ONE_LEAF = [name for name, spec in SPECS.items() if isinstance(spec.inputs.get("observation"), Leaf)]


def tensor(array: Any, dtype: str = "") -> dict[str, Any]:
    array = np.asarray(array)
    return {"dtype": dtype or array.dtype.name, "shape": list(array.shape), "data": array.tobytes()}


def as_tensors(nest: Any, value: Any) -> Any:
    if isinstance(nest, dict):
        return {key: as_tensors(child, value[key]) for key, child in nest.items()}
    if isinstance(nest, tuple):
        return [as_tensors(child, item) for child, item in zip(nest, value, strict=True)]
    return tensor(np.array(value, nest.storage))


def body_of(spec: PolicySpec, draw: random.Random) -> bytes:
    fields = bodies(spec, draw)
    return msgspec.msgpack.encode(
        {name: value if name == "options" else as_tensors(spec.inputs[name], value) for name, value in fields.items()}
    )


def validated(spec: PolicySpec, body: bytes) -> Any:
    fields = msgpack_body.decode(body)
    options = read_options(fields.pop("options", {}))
    return InputValidator(spec, rows_limit=100).read(fields), options


def read(spec: PolicySpec, fields: Any) -> Any:
    return TypedDecoder(spec, rows_limit=100).read_binary(msgspec.msgpack.encode(fields))


@pytest.mark.parametrize("name", SPECS)
def test_usual_requests_are_decoded_and_alike(name: str) -> None:
    spec, draw = SPECS[name], random.Random(name)
    reader = TypedDecoder(spec, rows_limit=100)
    for _ in range(60):
        body = body_of(spec, draw)
        found = reader.read_binary(body)
        assert found is not None, body
        check_alike(found, validated(spec, body))


@pytest.mark.parametrize("name", SPECS)
def test_whatever_is_decoded_is_read_alike(name: str) -> None:
    """Bodies with something changed anywhere: mostly wrong, sometimes just unusual."""
    spec, draw = SPECS[name], random.Random(name)
    reader = TypedDecoder(spec, rows_limit=100)
    taken = refused = 0
    for _ in range(1000):
        body = bytearray(body_of(spec, draw))
        for _ in range(draw.randint(1, 2)):
            place = draw.randrange(len(body))
            body[place : place + draw.randint(0, 4)] = draw.choice(
                [
                    b"",
                    b"\x01",
                    b"\x00",
                    b"\x7f",
                    b"\x80",
                    b"\xff",
                    b"\xc0",
                    b"\xc3",
                    b"\x00\x00\x80\x7f",
                    b"\x00\xc0\xff",
                ]
            )
        found = reader.read_binary(bytes(body))
        if found is not None:
            taken += 1
            check_alike(found, validated(spec, bytes(body)))
        else:
            refused += 1
    assert taken > 5
    assert refused > 20


@pytest.mark.parametrize("name", ONE_LEAF)
def test_numbers_that_need_a_look_are_left_to_the_validator(name: str) -> None:
    """One number of a request that fits is not finite, or lies outside, wherever it stands."""
    spec, draw = SPECS[name], random.Random(name)
    leaf: Any = spec.inputs["observation"]
    wrong = {"f": [math.nan, math.inf, -math.inf], "b": [2, 255]}.get(leaf.storage.kind, [])
    if leaf.storage.kind in "iu" and leaf.maximum is not None and leaf.maximum < np.iinfo(leaf.dtype).max:
        wrong = [leaf.maximum + 1, leaf.minimum - 1]
    kind = np.uint8 if leaf.dtype == "bool" else leaf.storage
    for rows in (None, 1, 2, 3, 40):
        good = np.array(value_of(leaf, rows, draw), leaf.storage)
        assert read(spec, {"observation": tensor(good)}) is not None
        for number in wrong:
            for place in {0, good.size // 2, good.size - 1}:
                bad = good.reshape(-1).view(kind).copy()
                bad[place] = number
                fields = {"observation": tensor(bad.reshape(good.shape), leaf.dtype)}
                assert read(spec, fields) is None
                if leaf.storage.kind != "f" or name != "cart":
                    with pytest.raises(PolicyServerError):
                        validated(spec, msgspec.msgpack.encode(fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"observation": tensor(ROW[:3])},
        {"observation": tensor(ROW.astype(np.float64))},
        {"observation": tensor(ROW.astype(np.int32))},
        {"observation": tensor(ROW.view(">f4"), "float32 ")},
        {"observation": tensor(np.zeros((0, 4), np.float32))},
        {"observation": tensor(np.zeros((101, 4), np.float32))},
        {"observation": tensor(np.zeros((1, 1, 4), np.float32))},
        {"observation": {**tensor(ROW), "shape": [-1, 4]}},
        {"observation": {**tensor(ROW), "data": ROW.tobytes()[:-1]}},
        {"observation": {**tensor(ROW), "more": 1}},
        {"observation": {"dtype": "float32", "shape": [4]}},
        {"observation": tensor([ROW, ROW]), "reward": tensor(np.float32(1))},
        {"observation": tensor([ROW, ROW]), "reward": tensor(np.ones(1, np.float32))},
        {"observation": tensor(ROW), "step_type": tensor(np.int32(3))},
        {"observation": tensor(ROW), "reward": 1.0},
        {"observation": tensor(ROW), "policy_state": None},
        {"observation": tensor(ROW), "colour": 1},
        {"observation": tensor(ROW), "options": {"seed": -1}},
        {"observation": tensor(ROW), "options": None},
        {"observation": ROW.tolist()},
        {"0/observation": tensor(ROW)},
        {},
        [1],
        None,
    ],
)
def test_what_is_not_usual_is_left_to_the_validator(fields: Any) -> None:
    assert read(SPECS["flat"], fields) is None


@pytest.mark.parametrize("body", [b"", b"\x81", b"\xc1", b"{}", b"\x80\x80", struct.pack("B", 0x81) * 10_000])
def test_no_msgpack_is_left_to_the_validator(body: bytes) -> None:
    assert TypedDecoder(SPECS["flat"], rows_limit=100).read_binary(body) is None


@pytest.mark.parametrize("name", UNTYPED)
def test_specs_that_types_cannot_say_are_left_to_the_validator(name: str) -> None:
    spec, draw = UNTYPED[name], random.Random(0)
    fields = (
        {key: as_tensors(nest, value_of(nest, None, draw)) for key, nest in spec.inputs.items()}
        if (name == "an input like a tensor")
        else {"observation": tensor(ROW)}
    )
    assert read(spec, fields) is None


@pytest.mark.parametrize("rows", [1, 10])
def test_numbers_whose_squares_are_too_large_are_read(rows: int) -> None:
    body = msgspec.msgpack.encode({"observation": tensor(np.full((rows, 4), 3e38, np.float32))})
    check_alike(TypedDecoder(SPECS["flat"], rows_limit=100).read_binary(body), validated(SPECS["flat"], body))


def test_state_that_is_sent_continues_an_episode() -> None:
    state = [tensor(np.zeros(3, np.float32)), tensor(np.ones(3, np.float32))]
    found = [read(SPECS["recurrent"], {"observation": tensor(ROW)} | more) for more in ({}, {"policy_state": state})]
    assert [inputs.needs_state for inputs, _ in found] == [True, False]
    assert read(SPECS["recurrent"], {"observation": tensor(ROW), "policy_state": state[:1]}) is None


def test_the_fields_of_a_session_are_decoded_as_from_json() -> None:
    more = {name: field.kind.decoded() for name, field in STEP_FIELDS.items()}
    reader = TypedDecoder(SPECS["flat"], rows_limit=100, more=more)
    fields: dict[str, Any] = {"step": 3, "run_id": "a", "first": [True]}
    binary = reader.read_more_binary(msgspec.msgpack.encode({"observation": tensor([ROW]), **fields}))
    plain = reader.read_more(msgspec.json.encode({"observation": [ROW.tolist()], **fields}))
    assert binary is not None
    assert plain is not None
    check_alike(binary[:2], plain[:2])
    assert binary[2] == plain[2] == fields
    assert reader.read_more_binary(msgspec.msgpack.encode({"observation": tensor(ROW), "step": -1})) is None
    assert reader.read_more_binary(msgspec.msgpack.encode({"observation": tensor(ROW), "step": True})) is None
