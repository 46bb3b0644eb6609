"""A parameter may be what its schema says and nothing else; what is refused is shown, but not at length."""

from typing import Any

import pytest

from app.errors import DoesNotFit
from app.experience.cursor import Cursor
from app.experience.query import PARAMETERS, Query, read_query

NUMBERS = [name for name, parameter in PARAMETERS.items() if parameter.schema["type"] == "integer"]


def read(*given: tuple[str, str]) -> Query:
    return read_query(given, as_msgpack=False)


def test_without_parameters_it_asks_for_what_the_schemas_say() -> None:
    query = read()
    assert (query.cursor, query.least_train_step, query.as_msgpack) == ("", None, False)
    given = {name: parameter for name, parameter in PARAMETERS.items() if "default" in parameter.schema}
    assert given.keys() == {"max_rows", "wait_ms", "complete_episodes"}
    for parameter in given.values():
        assert getattr(query, parameter.field) == parameter.schema["default"]


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_may_be_the_least_and_the_most_of_its_schema_and_no_other_one_beside_these(name: str) -> None:
    parameter = PARAMETERS[name]
    least, most = parameter.schema["minimum"], parameter.schema["maximum"]
    for number in (least, most):
        assert getattr(read((name, str(number))), parameter.field) == number
    for number in (least - 1, most + 1):
        with pytest.raises(DoesNotFit, match=f"an integer from {least} to {most}"):
            read((name, str(number)))


@pytest.mark.parametrize("text", [" 5", "5 ", "+5", "5.0", "0x5", "1_000", "-", "5-", "None", "²"])
def test_a_number_is_written_in_digits_alone(text: str) -> None:
    with pytest.raises(DoesNotFit, match=r"^max_rows: .*; expected an integer from 1 to 65536$"):
        read(("max_rows", text))


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("TRUE", True), ("1", True), ("false", False), ("False", False), ("0", False)]
)
def test_a_truth_is_written_in_any_case_or_as_a_digit(text: str, value: bool) -> None:
    assert read(("complete_episodes", text)).complete_episodes is value


@pytest.mark.parametrize("text", ["", "end", Cursor(b"12345678", 3, b"reader").text()])
def test_a_cursor_is_passed_on_as_it_came(text: str) -> None:
    assert read(("cursor", text)).cursor == text


@pytest.mark.parametrize(
    ("name", "text", "where", "shown"),
    [
        ("x" * 500, "1", "x" * 60, "no such parameter"),
        ("max_rows", "y" * 500, "max_rows", repr("y" * 60)),
        ("complete_episodes", "\x00'", "complete_episodes", repr("\x00'")),
        ("cursor", "z" * 500, "cursor", repr("z" * 60)),
    ],
    ids=["name", "number", "truth", "cursor"],
)
def test_what_is_refused_is_shown_at_its_beginning(name: str, text: str, where: str, shown: Any) -> None:
    with pytest.raises(DoesNotFit) as refused:
        read((name, text))
    (problem,) = refused.value.problems
    assert (problem.where, problem.problem) == (where, shown)
