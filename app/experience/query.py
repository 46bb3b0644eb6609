"""The parameters of a request for experience → what is asked of the recorder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from app.errors import DoesNotFit, Problem
from app.experience.cursor import END, read_cursor

MOST_ROWS, DEFAULT_ROWS = 65_536, 4096
# Load balancers close connections that are silent for 60 s.
MOST_WAIT_MS = 50_000
_MOST_STEP = 2**63 - 1


@dataclass(frozen=True)
class Query:
    """What is asked. `cursor`: "" for the oldest row there is; `least_train_step`: None for rows of any version.

    `as_msgpack`: the form of the answer, which is JSON else.
    """

    cursor: str = ""
    max_rows: int = DEFAULT_ROWS
    wait_ms: int = 0
    least_train_step: int | None = None
    complete_episodes: bool = False
    as_msgpack: bool = False


@dataclass(frozen=True)
class Parameter:
    """A parameter of the query: the field of `Query` that it sets, what it may be, and how it is read.

    `read` raises ValueError.
    """

    field: str
    expected: str
    read: Callable[[str], Any]
    schema: dict[str, Any]


def _integer(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        number = int(text) if text.isascii() and text.lstrip("-").isdigit() and len(text) <= 20 else most + 1
        if not least <= number <= most:
            raise ValueError
        return number

    return read


def _boolean(text: str) -> bool:
    return {"true": True, "1": True, "false": False, "0": False}[text.lower()]


def _cursor(text: str) -> str:
    if text not in ("", END):
        read_cursor(text)
    return text


def _number(field: str, least: int, most: int, default: int | None = None) -> Parameter:
    schema: dict[str, Any] = {"type": "integer", "minimum": least, "maximum": most}
    if default is not None:
        schema["default"] = default
    return Parameter(field, f"an integer from {least} to {most}", _integer(least, most), schema)


PARAMETERS = {
    "cursor": Parameter("cursor", "", _cursor, {"type": "string"}),
    "max_rows": _number("max_rows", 1, MOST_ROWS, DEFAULT_ROWS),
    "wait_ms": _number("wait_ms", 0, MOST_WAIT_MS, 0),
    "min_train_step": _number("least_train_step", -1, _MOST_STEP),
    "complete_episodes": Parameter(
        "complete_episodes", "true or false", _boolean, {"type": "boolean", "default": False}
    ),
}


def read_query(given: Iterable[tuple[str, str]], *, as_msgpack: bool) -> Query:
    """Reads the parameters of a request.

    Raises:
      DoesNotFit: an unknown one, one that is there twice, or a value that it may not have.
    """
    values: dict[str, Any] = {}
    for name, text in given:
        parameter = PARAMETERS.get(name)
        if parameter is None:
            raise DoesNotFit([Problem(name[:60], "no such parameter", f"one of {', '.join(PARAMETERS)}")])
        if parameter.field in values:
            raise DoesNotFit([Problem(name, "is there twice", "one value")])
        try:
            values[parameter.field] = parameter.read(text)
        except (ValueError, KeyError):
            raise DoesNotFit([Problem(name, repr(text[:60]), parameter.expected)]) from None
    return Query(**values, as_msgpack=as_msgpack)
