"""The typed decoder beside the validator: it reads the same, or nothing."""

import json
import random

import pytest

from app.errors import DoesNotFit
from app.inputs import typed
from app.inputs.options import Options
from app.inputs.typed import TypedDecoder
from app.inputs.validate import InputValidator
from saver.artifact import Leaf
from tests.support.request_bodies import ROW, SPECS, bodies, check_alike, decoded, validated
from tests.support.specs import custom_spec, policy_spec

UNTYPED = {
    "text": policy_spec(Leaf("0/observation", "string", ())),
    "any size": policy_spec(Leaf("0/observation", "float32", (None,))),
    "large numbers": policy_spec(Leaf("0/observation", "uint64", ())),
    "bounds of each pixel": policy_spec(Leaf("0/observation", "int32", (2, 2), 0, [[1, 2], [3, 4]])),
    "an input named options": custom_spec({"options": Leaf("options", "float32", ())}),
}


@pytest.mark.parametrize("name", SPECS)
def test_usual_requests_are_decoded_and_alike(name: str) -> None:
    spec, draw = SPECS[name], random.Random(name)
    reader = TypedDecoder(spec, rows_limit=100)
    for _ in range(60):
        body = json.dumps(bodies(spec, draw)).encode()
        found = reader.read(body)
        assert found is not None, body
        check_alike(found, validated(spec, body))


@pytest.fixture(params=["long bodies", "all bodies"])
def made_known(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "all bodies":
        monkeypatch.setattr(typed, "LEAST_BYTES", 0)


@pytest.mark.usefixtures("made_known")
@pytest.mark.parametrize("name", SPECS)
def test_whatever_is_decoded_is_read_alike(name: str) -> None:
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
            check_alike(found, validated(spec, bytes(body)))
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
def test_what_is_not_usual_is_left_to_the_validator(spec: str, body: dict) -> None:
    assert decoded(SPECS[spec], json.dumps(body).encode()) is None


@pytest.mark.parametrize("body", [b"", b"[", b"null", b"\xff", b'{"observation":[1,2,3,NaN]}', b"{" * 10_000])
def test_no_json_is_left_to_the_validator(body: bytes) -> None:
    assert decoded(SPECS["flat"], body) is None


@pytest.mark.parametrize("name", UNTYPED)
def test_specs_that_types_cannot_say_are_left_to_the_validator(name: str) -> None:
    assert decoded(UNTYPED[name], b'{"observation": 1}') is None


def test_request_without_state_starts_an_episode_and_one_with_state_does_not() -> None:
    row = json.dumps({"observation": ROW}).encode()
    state = json.dumps({"observation": ROW, "policy_state": [[0, 0, 0], [1, 1, 1]]}).encode()
    assert [decoded(SPECS["recurrent"], body)[0].needs_state for body in (row, state)] == [True, False]


def test_floats_out_of_bounds_pass_and_are_counted_by_the_validator() -> None:
    inputs, _ = validated(SPECS["cart"], json.dumps({"observation": [5.0, 0, 0, 0]}).encode())
    assert inputs.outside_bounds == 1
    with pytest.raises(DoesNotFit):
        InputValidator(SPECS["cart"], rows_limit=1, strict_bounds=True).read({"observation": [5.0, 0, 0, 0]})


def test_options_that_are_not_given_are_the_defaults() -> None:
    assert decoded(SPECS["flat"], json.dumps({"observation": ROW, "options": {}}).encode())[1] == Options()


def test_integers_too_large_for_a_float_are_rounded_alike() -> None:
    body = json.dumps({"observation": [2**60 + 2**36 + 1, 10**30, -(2**53) - 1, 3]}).encode()
    check_alike(decoded(SPECS["flat"], body), validated(SPECS["flat"], body))


@pytest.mark.parametrize("size", [1, 4, 9, 376])
def test_no_rows_are_left_to_the_validator(size: int) -> None:
    reader = TypedDecoder(policy_spec(Leaf("0/observation", "float32", (size,))), rows_limit=100)
    assert reader.read(b'{"observation":[]}') is None
