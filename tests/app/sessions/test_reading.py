"""The body of a session's request: the same fields from JSON and from msgpack, or every problem by name."""

import json
from typing import Any

import numpy as np
import pytest

from app.errors import DoesNotFit, NotJson, NotMsgpack
from app.inputs.options import Options
from app.inputs.validate import InputValidator
from app.sessions.reading import SessionReader, check_run_id, is_id
from app.wire.codecs import JSON, MSGPACK, Codec
from app.wire.limits import SHORT_BODY_BYTES
from tests.support.session_policy import SPEC

READER = SessionReader(SPEC, InputValidator(SPEC, rows_limit=4), rows_limit=4)
ROW = [0.5]


def encoded(codec: Codec, fields: Any) -> bytes:
    return json.dumps(fields).encode() if codec is JSON else codec.encode(fields)


@pytest.fixture(params=[JSON, MSGPACK], ids=["json", "msgpack"])
def codec(request: pytest.FixtureRequest) -> Codec:
    found: Codec = request.param
    return found


def test_all_fields_of_a_step_are_read(codec: Codec) -> None:
    fields = {"observation": [ROW] * 3, "step": 7, "run_id": "r", "first": [True, False, True], "options": {"seed": 5}}
    request = READER.read_step(codec, encoded(codec, fields))
    assert (request.step, request.run_id, request.options) == (7, "r", Options(seed=5))
    assert request.first is not None
    assert request.first.tolist() == [True, False, True]
    assert (request.inputs.rows, request.inputs.batched) == (3, True)
    assert request.inputs.arrays["0/observation"].tolist() == [ROW] * 3


def test_all_fields_of_a_start_are_read(codec: Codec) -> None:
    fields = {"observation": ROW, "id": "a.b", "run_id": "r", "weights": "episode", "options": {"mode": "greedy"}}
    request = READER.read_begin(codec, encoded(codec, fields))
    assert (request.id, request.run_id, request.weights) == ("a.b", "r", "episode")
    assert request.options == Options(mode="greedy")


def test_what_is_left_out_or_null_is_left_to_the_server(codec: Codec) -> None:
    for fields in ({"observation": ROW}, {"observation": ROW, "step": None, "run_id": None, "first": None}):
        request = READER.read_step(codec, encoded(codec, fields))
        assert (request.step, request.run_id, request.first) == (None, None, None)
    request_to_start = READER.read_begin(codec, encoded(codec, {"observation": ROW, "id": None, "weights": None}))
    assert (request_to_start.id, request_to_start.weights) == (None, None)


@pytest.mark.parametrize("first", [True, False])
def test_one_boolean_is_for_all_rows(codec: Codec, first: bool) -> None:
    request = READER.read_step(codec, encoded(codec, {"observation": [ROW] * 3, "first": first}))
    assert request.first is not None
    assert request.first.tolist() == [first] * 3


@pytest.mark.parametrize(
    ("more", "where"),
    [
        ({"step": -1, "run_id": "", "first": "x"}, ["step", "run_id", "first"]),
        ({"first": [True, False]}, ["first"]),
        ({"first": []}, ["first"]),
        ({"policy_state": [[0.0]]}, ["policy_state"]),
        ({"1/0": [0.0]}, ["policy_state"]),
        ({"id": "a"}, ["id"]),
        ({"options": {"seed": -1}}, ["options.seed"]),
    ],
)
def test_what_does_not_fit_is_named(codec: Codec, more: dict[str, Any], where: list[str]) -> None:
    with pytest.raises(DoesNotFit) as raised:
        READER.read_step(codec, encoded(codec, {"observation": ROW, **more}))
    assert [problem.where for problem in raised.value.problems] == where


def test_state_that_is_null_is_none(codec: Codec) -> None:
    assert READER.read_step(codec, encoded(codec, {"observation": ROW, "policy_state": None})).inputs.needs_state


def test_what_is_no_object_is_refused(codec: Codec) -> None:
    for body in (b"\xc1", encoded(codec, [1])):
        with pytest.raises((NotJson, NotMsgpack)):
            READER.read_step(codec, body)


def test_arrays_in_short_msgpack_are_read_at_once_and_all_else_is_not() -> None:
    fields = {"observation": np.ones((2, 1), np.float32), "first": np.array([True, False]), "step": 1}
    request = READER.read_step_at_once(MSGPACK, MSGPACK.encode(fields))
    assert request is not None
    assert request.first is not None
    assert request.first.tolist() == [True, False]
    assert READER.read_step_at_once(JSON, b'{"observation":[0.5]}') is None
    assert READER.read_step_at_once(MSGPACK, bytes(SHORT_BODY_BYTES + 1)) is None


def test_names() -> None:
    assert [is_id(text) for text in ("a", "a" * 128, "a" * 129, "", "-a", "a/b")] == [
        True,
        True,
        False,
        False,
        False,
        False,
    ]
    assert check_run_id("a/b") is None
    problem = check_run_id("")
    assert problem is not None
    assert problem.where == "run_id"
