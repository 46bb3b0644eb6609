"""What each row of the tables says is what the checker, the compiled decoder and the JSON Schema take."""

import json
from typing import Annotated, Any

import msgspec
import numpy as np
import pytest
from jsonschema import Draft202012Validator

from app.inputs.fields import Boolean, Choice, Integer, RequestField, RowFlags, Text, fields_of
from app.inputs.options import Options
from app.sessions.fields import BeginRequest, StepRequest
from tests.support.field_values import FIELDS

ROWS = 3
CASES = [
    (table, name, value, ok) for (table, name), both in FIELDS.items() for ok in (True, False) for value in both[not ok]
]


def test_every_row_is_tried_here() -> None:
    rows = {(table, name) for table in (Options, BeginRequest, StepRequest) for name in fields_of(table)}
    assert rows == FIELDS.keys()


@pytest.mark.parametrize(("table", "name", "value", "ok"), CASES)
def test_checker_decoder_and_schema_agree(table: type, name: str, value: Any, ok: bool) -> None:
    row = fields_of(table)[name]
    assert (row.problem(name, value) is None) is ok
    assert Draft202012Validator(row.schema(ROWS)).is_valid(value) is ok
    decoder = msgspec.json.Decoder(row.kind.decoded())
    if ok:
        assert decoder.decode(json.dumps(value).encode()) == value
    else:
        with pytest.raises(msgspec.DecodeError):
            decoder.decode(json.dumps(value).encode())


def test_problem_names_field_value_and_what_was_expected() -> None:
    problem = fields_of(Options)["seed"].problem("options.seed", -1)
    assert problem is not None
    assert (problem.where, problem.problem, problem.expected) == ("options.seed", "-1", "an integer from 0 to 2^63 - 1")


@pytest.mark.parametrize("kind", [Choice(("a",)), Integer(0, 1), Boolean(), Text(3), Text(3, "[a-z]*"), RowFlags()])
def test_every_kind_has_a_schema_that_is_one(kind: Any) -> None:
    Draft202012Validator.check_schema(RequestField(kind, "", "what it is").schema(ROWS))
    assert RequestField(kind, "", "what it is").schema(ROWS)["description"] == "what it is"


def test_a_line_break_at_the_end_is_part_of_a_name() -> None:
    kind = Text(3, "[a-z]*")
    assert not kind.takes("a\n")
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'"a\\n"', type=kind.decoded())


def test_flags_of_rows_may_be_an_array_and_as_many_as_the_rows_of_a_request() -> None:
    kind = RowFlags()
    assert kind.takes(np.array([True, False]))
    assert not kind.takes(np.array([1, 0]))
    assert not kind.takes(np.ones((2, 2), bool))
    check = Draft202012Validator(kind.schema(ROWS))
    assert [check.is_valid([True] * rows) for rows in (0, 1, ROWS, ROWS + 1)] == [False, True, True, False]


def test_a_table_is_read_from_the_annotations_of_its_class() -> None:
    row = RequestField(Boolean(), "true or false", "")
    table = type("Table", (), {"__annotations__": {"other": int, "one": Annotated[bool | None, row]}})
    assert fields_of(table) == {"one": row}
