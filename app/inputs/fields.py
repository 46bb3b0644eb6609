"""What a request may say beside its inputs, one row a field: checker, compiled decoder and JSON Schema come from it.

A table is a class whose annotations contain the rows, so that a field is declared in one place:
`seed: Annotated[int | None, RequestField(Integer(0, 9), …)] = None`.
"""

from __future__ import annotations

import re
import typing
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from msgspec import Meta

from app.errors import Problem
from app.wire.tensors import show

Schema = dict[str, Any]


class Kind(Protocol):
    """The values that a field may have. What the three methods take is the same, which a test shows."""

    def takes(self, value: Any) -> bool:
        """Returns whether a decoded value is one of them."""

    def decoded(self) -> Any:
        """Returns the type from which msgspec compiles a decoder of them."""

    def schema(self, rows_limit: int, /) -> Schema:
        """Returns the JSON Schema of them; `rows_limit`: the most rows in one request."""


@dataclass(frozen=True)
class Choice:
    """One of some strings."""

    values: tuple[str, ...]

    def takes(self, value: Any) -> bool:
        """See `Kind`."""
        return isinstance(value, str) and value in self.values

    def decoded(self) -> Any:
        """See `Kind`."""
        return Literal[self.values]

    def schema(self, _: int, /) -> Schema:
        """See `Kind`."""
        return {"enum": list(self.values)}


@dataclass(frozen=True)
class Integer:
    """An integer from `low` to `high`, both included; it fits into 64 bits with a sign."""

    low: int
    high: int

    def takes(self, value: Any) -> bool:
        """See `Kind`."""
        return type(value) is int and self.low <= value <= self.high

    def decoded(self) -> Any:
        """See `Kind`."""
        return Annotated[int, Meta(ge=self.low, le=self.high)]

    def schema(self, _: int, /) -> Schema:
        """See `Kind`."""
        return {"type": "integer", "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True)
class Boolean:
    """True or false."""

    def takes(self, value: Any) -> bool:
        """See `Kind`."""
        return type(value) is bool

    def decoded(self) -> Any:
        """See `Kind`."""
        return bool

    def schema(self, _: int, /) -> Schema:
        """See `Kind`."""
        return {"type": "boolean"}


@dataclass(frozen=True)
class Text:
    """A string of 1 to `longest` characters; `pattern`: a regular expression for all of it, "" for any."""

    longest: int
    pattern: str = ""

    def takes(self, value: Any) -> bool:
        """See `Kind`."""
        if not isinstance(value, str) or not 1 <= len(value) <= self.longest:
            return False
        return not self.pattern or re.fullmatch(self.pattern, value) is not None

    def decoded(self) -> Any:
        """See `Kind`."""
        # `$` would let a line break follow.
        pattern = rf"^(?:{self.pattern})\Z" if self.pattern else None
        return Annotated[str, Meta(min_length=1, max_length=self.longest, pattern=pattern)]

    def schema(self, _: int, /) -> Schema:
        """See `Kind`."""
        pattern = {"pattern": f"^{self.pattern}$"} if self.pattern else {}
        return {"type": "string", "minLength": 1, "maxLength": self.longest, **pattern}


@dataclass(frozen=True)
class RowFlags:
    """A boolean for all rows, or a list of one for each; that these are as many is seen beside the inputs."""

    def takes(self, value: Any) -> bool:
        """See `Kind`; msgpack may bring an array, [rows] booleans."""
        if isinstance(value, list):
            return all(type(item) is bool for item in value)
        return type(value) is bool or (isinstance(value, np.ndarray) and value.dtype == bool and value.ndim <= 1)

    def decoded(self) -> Any:
        """See `Kind`."""
        return bool | list[bool]

    def schema(self, rows_limit: int, /) -> Schema:
        """See `Kind`."""
        listed = {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": rows_limit}
        return {"anyOf": [{"type": "boolean"}, listed]}


@dataclass(frozen=True)
class RequestField:
    """A row of the table. `expected`: what a refusal says beside what came; `description`: for the OpenAPI document."""

    kind: Kind
    expected: str
    description: str

    def problem(self, where: str, value: Any) -> Problem | None:
        """Returns what is wrong with a decoded value; None where nothing is."""
        return None if self.kind.takes(value) else Problem(where, show(value), self.expected)

    def schema(self, rows_limit: int) -> Schema:
        """Returns its JSON Schema; `rows_limit`: the most rows in one request."""
        return {**self.kind.schema(rows_limit), "description": self.description}


def fields_of(table: type) -> dict[str, RequestField]:
    """Returns the rows of a table by their names, in order; annotations without one are no part of it."""
    rows: dict[str, RequestField] = {}
    for name, hint in typing.get_type_hints(table, include_extras=True).items():
        for row in getattr(hint, "__metadata__", ()):
            if isinstance(row, RequestField):
                rows[name] = row
    return rows
