"""The quick reader beside the patient one: it reads the same, or says nothing."""

import json
import random
import re
from typing import Any

import numpy as np
import orjson
import pytest

from app.errors import DoesNotFit
from app.inputs import skeletons
from app.inputs.options import Options, read_options
from app.inputs.typed import TypedDecoder
from app.inputs.validate import InputValidator
from saver.artifact import Leaf, PolicySpec
from tests.support.specs import LSTM_STATE, NESTED, custom_spec, policy_spec

FLOATS = Leaf("0/observation/x", "float32", (4,))
ROW = [0.1, -0.2, 0.3, -0.4]
SPECS = {
    "flat": policy_spec(),
    "nested": policy_spec(NESTED),
    "recurrent": policy_spec(state=LSTM_STATE),
    "cart": policy_spec(Leaf("0/observation", "float32", (4,), [-4.8, -3e38, -0.4, -3e38], [4.8, 3e38, 0.4, 3e38])),
    "number": policy_spec(Leaf("0/observation", "int64", (), -5, 5)),
    "switches": policy_spec(Leaf("0/observation", "bool", (2, 3))),
    "image": policy_spec(Leaf("0/observation", "uint8", (4, 4, 2), 0, 255)),
    "half": policy_spec(Leaf("0/observation", "float16", (3,))),
    "double": policy_spec(Leaf("0/observation", "float64", (3,), -1.0, 1.0)),
    "custom": custom_spec({"pos x": Leaf("pos x", "float32", (2,)), "a/b": Leaf("a/b", "int8", ())}),
    "twins": custom_spec({"a b": Leaf("a b", "float32", ()), "a_b": Leaf("a_b", "float32", ())}),
}
UNTYPED = {
    "text": policy_spec(Leaf("0/observation", "string", ())),
    "any size": policy_spec(Leaf("0/observation", "float32", (None,))),
    "large numbers": policy_spec(Leaf("0/observation", "uint64", ())),
    "bounds of each pixel": policy_spec(Leaf("0/observation", "int32", (2, 2), 0, [[1, 2], [3, 4]])),
    "an input named options": custom_spec({"options": Leaf("options", "float32", ())}),
}


def quick(spec: PolicySpec, body: bytes, rows_limit: int = 100) -> Any:
    return TypedDecoder(spec, rows_limit=rows_limit).read(body)


def patient(spec: PolicySpec, body: bytes) -> Any:
    fields = orjson.loads(body)
    options = read_options(fields.pop("options", {}))
    return InputValidator(spec, rows_limit=100, strict_bounds=False).read(fields), options


def check_alike(found: Any, expected: Any) -> None:
    (inputs, options), (wanted, wanted_options) = found, expected
    assert options == wanted_options
    assert inputs[1:] == wanted[1:]
    assert inputs.arrays.keys() == wanted.arrays.keys()
    for name, array in wanted.arrays.items():
        assert inputs.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(inputs.arrays[name], array)


def value_of(nest: Any, rows: int | None, draw: random.Random) -> Any:
    if isinstance(nest, dict):
        return {key: value_of(child, rows, draw) for key, child in nest.items()}
    if isinstance(nest, tuple):
        return [value_of(child, rows, draw) for child in nest]
    shape = nest.shape if rows is None else (rows, *nest.shape)
    low = 0 if nest.minimum is None or isinstance(nest.minimum, list) else nest.minimum
    high = 1 if nest.maximum is None or isinstance(nest.maximum, list) else nest.maximum

    def item() -> Any:
        if nest.dtype == "bool":
            return draw.random() < 0.5
        return draw.randint(low, high) if nest.is_integer else draw.choice([draw.uniform(low, high) / 3, 0, 1e-30])

    def filled(sizes: tuple[int, ...]) -> Any:
        return [filled(sizes[1:]) for _ in range(sizes[0])] if sizes else item()

    return filled(shape)


def bodies(spec: PolicySpec, draw: random.Random) -> Any:
    """An ordinary request: with or without what may be left out."""
    rows = draw.choice([None, 1, 2, 7, 30])
    needed = [name for name in spec.inputs if not spec.takes_time_step or name == "observation"]
    optional = [name for name in spec.inputs if name not in needed and name != "step_type" and draw.random() < 0.4]
    body = {name: value_of(spec.inputs[name], rows, draw) for name in (*needed, *optional)}
    if spec.takes_time_step and draw.random() < 0.4:
        body["step_type"] = draw.randint(0, 2) if rows is None else [draw.randint(0, 2) for _ in range(rows)]
    if draw.random() < 0.4:
        body["options"] = {"seed": draw.randint(0, 2**63 - 1), "mode": "greedy", "timeout_ms": 50}
    return body


@pytest.mark.parametrize("name", SPECS)
def test_usual_requests_are_read_quickly_and_alike(name: str) -> None:
    spec, draw = SPECS[name], random.Random(name)
    reader = TypedDecoder(spec, rows_limit=100)
    for _ in range(60):
        body = json.dumps(bodies(spec, draw)).encode()
        found = reader.read(body)
        assert found is not None, body
        check_alike(found, patient(spec, body))


@pytest.fixture(params=["long bodies", "all bodies"])
def made_known(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "all bodies":
        monkeypatch.setattr(skeletons, "_LEAST_BYTES", 0)


NUMBERS = [
    "0",
    "-0",
    "-0.0",
    "1",
    "0.5",
    "-1",
    "2",
    "1e-400",
    "4.9e-324",
    "1e0",
    "1E+0",
    "255",
    "256",
    "-129",
    "3.4e38",
    "3.5e38",
]
NO_NUMBERS = [
    "1e400",
    str(2**63),
    str(2**64),
    "1" * 30,
    "01",
    "1.",
    ".5",
    "+1",
    "-",
    "1 1",
    "",
    "1,1",
    "e",
    "1e",
    "--1",
    "1.1.1",
]


@pytest.mark.parametrize("name", SPECS)
def test_familiar_bodies_are_read_alike_whatever_their_numbers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bodies like one before but for the characters of numbers, among them what is no number."""
    monkeypatch.setattr(skeletons, "_LEAST_BYTES", 0)
    spec, draw = SPECS[name], random.Random(name)
    reader = TypedDecoder(spec, rows_limit=100)
    by_simdjson = 0
    for _ in range(40):
        fields = bodies(spec, draw)
        fields.pop("options", None)
        body = json.dumps(fields).encode()
        assert reader.read(body) is not None
        for _ in range(20):
            pieces = re.split(rb"(?<=[\[,: ])(-?[0-9][^,\]} ]*)", body)
            place = draw.randrange(1, len(pieces), 2) if len(pieces) > 1 else 0
            pieces[place] = draw.choice(NUMBERS * 3 + NO_NUMBERS).encode()
            changed = b"".join(pieces)
            found = reader.read(changed)
            by_simdjson += reader._skeletons.read(changed) is not None
            if found is not None:
                check_alike(found, patient(spec, changed))
    assert by_simdjson > 20 or name == "switches"


@pytest.mark.parametrize(
    ("learned", "body"),
    [
        ('{"a": [1], "a2": [2]}', '{"a": [1], "a": [2]}'),
        ('{"a": [1], "a2": [2]}', '{"a2": [1], "a2": [2]}'),
        ('{"a": [1], "a2": [2]}', '{"a": [1], "a3": [2]}'),
        ('{"a": [1], "a2": [2]}', '{"a": [1], "ae2": [2]}'),
        ('{"a": [1], "a2": [2]}', '{"a": [1], "a2": [2e]}'),
        ('{"a": [1], "a2": [2]}', '{"a": [1], "a2": []}'),
        ('{"a": [1], "a2": [2], "a2": [3]}', '{"a": [1], "a": [2], "a2": [3]}'),
    ],
)
def test_names_of_which_digits_and_e_are_taken_are_still_told_apart(
    learned: str, body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(skeletons, "_LEAST_BYTES", 0)
    spec = custom_spec({"a": Leaf("a", "float32", ()), "a2": Leaf("a2", "float32", ())})
    reader = TypedDecoder(spec, rows_limit=100)
    assert reader.read(learned.encode()) is not None
    found = reader.read(body.encode())
    assert found is None or json.loads(body).keys() == {"a", "a2"}
    assert reader._skeletons.read(body.encode()) is None


def test_what_has_names_that_only_digits_tell_apart_is_read_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skeletons, "_LEAST_BYTES", 0)
    nested = {"a1": Leaf("0/observation/a1", "float32", (4,)), "a2": Leaf("0/observation/a2", "float32", (2, 2))}
    for spec, wrap in (
        (policy_spec(nested), '{"observation": %s}'),
        (custom_spec({"a1": Leaf("a1", "float32", (4,)), "a2": Leaf("a2", "float32", (2, 2))}), "%s"),
    ):
        reader = TypedDecoder(spec, rows_limit=100)
        assert reader.read((wrap % '{"a1": [1, 2, 3, 4], "a2": [[1, 2], [3, 4]]}').encode()) is not None
        swapped = (wrap % '{"a2": [1, 2, 3, 4], "a1": [[1, 2], [3, 4]]}').encode()
        assert reader.read(swapped) is None
        with pytest.raises(DoesNotFit):
            patient(spec, swapped)


def test_fields_without_numbers_are_not_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skeletons, "_LEAST_BYTES", 0)
    reader = TypedDecoder(policy_spec({"x": FLOATS, "none": {}}), rows_limit=100)
    assert reader.read(b'{"observation": {"x": [1, 2, 3, 4], "none": {}}}') is not None
    assert reader.read(b'{"observation": {"x": [1, 2, 3, 4], "nonee": {}}}') is None


def test_no_more_skeletons_are_kept_than_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skeletons, "_LEAST_BYTES", 0)
    reader = TypedDecoder(SPECS["flat"], rows_limit=10_000)
    for rows in range(1, 2 * skeletons._MOST_SKELETONS):
        assert reader.read(json.dumps({"observation": [ROW] * rows}).encode()) is not None
    assert len(reader._skeletons._known) == skeletons._MOST_SKELETONS
    assert reader._skeletons._bytes == sum(map(len, reader._skeletons._known))
    assert reader._skeletons.read(json.dumps({"observation": [ROW] * (2 * skeletons._MOST_SKELETONS - 1)}).encode())


def test_a_body_larger_than_what_a_parser_keeps_is_read_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skeletons, "_MOST_KEPT_BYTES", 1000)
    reader = TypedDecoder(SPECS["flat"], rows_limit=100)
    for rows in (40, 90, 40, 90):
        body = json.dumps({"observation": [ROW] * rows}).encode()
        check_alike(reader.read(body), patient(SPECS["flat"], body))


@pytest.mark.usefixtures("made_known")
@pytest.mark.parametrize("name", SPECS)
def test_whatever_is_read_quickly_is_read_alike(name: str) -> None:
    """Bodies with something changed anywhere: mostly wrong, sometimes just unusual."""
    spec, draw = SPECS[name], random.Random(name)
    reader = TypedDecoder(spec, rows_limit=100)
    read = 0
    for _ in range(600):
        body = bytearray(json.dumps(bodies(spec, draw)).encode())
        for _ in range(draw.randint(1, 2)):
            place = draw.randrange(len(body))
            body[place : place + draw.randint(0, 2)] = draw.choice(
                [
                    b"",
                    b"1",
                    b"-",
                    b".",
                    b"e9",
                    b"[",
                    b"]",
                    b",",
                    b" ",
                    b'"',
                    b"0",
                    b"true",
                    b"null",
                    b"1e39",
                    b"[[",
                    b"NaN",
                ]
            )
        found = reader.read(bytes(body))
        if found is not None:
            read += 1
            check_alike(found, patient(spec, bytes(body)))
    assert read > 20


@pytest.mark.parametrize(
    ("spec", "body"),
    [
        ("flat", {"observation": [1, 2, 3]}),
        ("flat", {"observation": [1, 2, 3, True]}),
        ("flat", {"observation": [1, 2, 3, 1e39]}),
        ("flat", {"observation": []}),
        ("flat", {"observation": [ROW] * 101}),
        ("flat", {"observation": [ROW, ROW[:3]]}),
        ("flat", {"observation": [ROW, ROW], "reward": 1.0}),
        ("flat", {"observation": [ROW, ROW], "reward": [1.0]}),
        ("flat", {"observation": ROW, "step_type": 3}),
        ("flat", {"observation": ROW, "colour": 1}),
        ("flat", {"observation": ROW, "options": {"seed": -1}}),
        ("flat", {"observation": ROW, "options": {"sead": 1}}),
        ("flat", {"observation": ROW, "options": None}),
        ("number", {"observation": 6}),
        ("number", {"observation": 1.0}),
        ("image", {"observation": [[[0, 256]] * 4] * 4}),
        ("recurrent", {"observation": ROW, "policy_state": [[0, 0, 0]]}),
        ("cart", {"observation": [5.0, 0, 0, 0]}),
        ("flat", {"0/observation": ROW}),
        ("flat", {}),
    ],
)
def test_what_takes_a_closer_look_is_left_to_it(spec: str, body: dict) -> None:
    assert quick(SPECS[spec], json.dumps(body).encode()) is None


@pytest.mark.parametrize("body", [b"", b"[", b"null", b"\xff", b'{"observation":[1,2,3,NaN]}', b"{" * 10_000])
def test_no_json_is_left_to_the_closer_look(body: bytes) -> None:
    assert quick(SPECS["flat"], body) is None


@pytest.mark.parametrize("name", UNTYPED)
def test_specs_that_types_cannot_say_are_left_to_the_closer_look(name: str) -> None:
    assert quick(UNTYPED[name], b'{"observation": 1}') is None


def test_request_without_state_begins_an_episode_and_one_with_state_does_not() -> None:
    row = json.dumps({"observation": ROW}).encode()
    state = json.dumps({"observation": ROW, "policy_state": [[0, 0, 0], [1, 1, 1]]}).encode()
    assert [quick(SPECS["recurrent"], body)[0].needs_state for body in (row, state)] == [True, False]


def test_floats_out_of_bounds_pass_and_are_counted_by_the_closer_look() -> None:
    inputs, _ = patient(SPECS["cart"], json.dumps({"observation": [5.0, 0, 0, 0]}).encode())
    assert inputs.outside_bounds == 1
    with pytest.raises(DoesNotFit):
        InputValidator(SPECS["cart"], rows_limit=1, strict_bounds=True).read({"observation": [5.0, 0, 0, 0]})


def test_options_that_are_not_given_are_the_defaults() -> None:
    assert quick(SPECS["flat"], json.dumps({"observation": ROW, "options": {}}).encode())[1] == Options()


def test_integers_too_large_for_a_float_are_rounded_alike() -> None:
    body = json.dumps({"observation": [2**60 + 2**36 + 1, 10**30, -(2**53) - 1, 3]}).encode()
    check_alike(quick(SPECS["flat"], body), patient(SPECS["flat"], body))
