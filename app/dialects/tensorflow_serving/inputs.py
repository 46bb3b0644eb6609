"""The `instances` or `inputs` of a predict request → arrays that fit the policy's spec.

Rows are values of the only input that a policy needs, or objects with every input that they give; columns are objects
of batches.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from app.errors import DoesNotFit, Problem
from app.inference.policy import Policy
from app.inputs.names import DEFAULTED, names_of, top_level
from app.inputs.validate import Inputs
from app.offload import let_others_run
from app.wire import json_body
from app.wire.large_json import LongText
from app.wire.long_lists import LongList, LongString
from app.wire.tensors import Unfit, show
from saver.artifact import Leaf, leaves

INSTANCES, INPUTS = "instances", "inputs"
B64 = "b64"
_B64_KEY = b'"b64"'


class InputParser:
    """Reads the inputs of one policy. `only`: the input that may stand for all, "" where there is none."""

    def __init__(self, policy: Policy) -> None:
        self._validator = policy.reader
        self._rows_limit = policy.reader.rows_limit
        self._leaves = [leaf for _, leaf in leaves(policy.spec.inputs)]
        self._strings = _strings(policy)
        self.only = _only_input(policy)

    def rows(self, rows: Any) -> Inputs:
        """Reads a list of rows: of values of the only input, or of objects with every input that they give."""
        if isinstance(rows, LongText):
            objects = rows.begins_with_object()
            return self._in_pieces(rows.objects()) if objects else self.columns(rows)
        if not isinstance(rows, list):
            raise DoesNotFit([Problem(INSTANCES, show(rows), "a list of rows")])
        if not rows:
            raise DoesNotFit([Problem(INSTANCES, "a batch of zero rows", "at least one row")])
        if _is_object(rows[0]):
            return self._batch(_columns_of(rows, 0))
        return self.columns(rows)

    def columns(self, columns: Any) -> Inputs:
        """Reads an object of columns, or the column of the only input; raises DoesNotFit."""
        if isinstance(columns, dict) and not _is_base64(columns):
            return self._batch(columns)
        if not self.only:
            names = ", ".join(leaf.name for leaf in self._leaves)
            raise DoesNotFit([Problem(INPUTS, show(columns), f"objects with the inputs by name, of {names}")])
        if isinstance(columns, list) and any(_is_object(row) for row in columns):
            raise DoesNotFit([Problem(INSTANCES, "some rows are objects, and some are not", "rows of one kind")])
        return self._batch({self.only: columns})

    def _batch(self, columns: dict[str, Any]) -> Inputs:
        inputs = self._read_inputs(columns)
        if not inputs.batched:
            where = ", ".join(columns)
            raise DoesNotFit([Problem(where[:200], "a single value", "a batch: one dimension more, rows first")])
        return inputs

    def _read_inputs(self, columns: dict[str, Any]) -> Inputs:
        if self._strings:
            columns = {name: self._with_bytes(name, value) for name, value in columns.items()}
        return self._validator.read(columns)

    def _with_bytes(self, name: str, value: Any) -> Any:
        leaf = self._strings.get(name)
        return value if leaf is None else _decoded(value, leaf, self._rows_limit, name)

    def _in_pieces(self, pieces: Iterator[list[Any]]) -> Inputs:
        """Reads many rows, or large ones, without a Python object for each of their numbers at once."""
        found: list[Inputs] = []
        at = 0
        for rows in pieces:
            if at + len(rows) > self._rows_limit:
                raise DoesNotFit([Problem(INSTANCES, "more rows", f"at most {self._rows_limit} rows in one request")])
            is_long = isinstance(rows[0], dict) and any(isinstance(value, LongList) for value in rows[0].values())
            found.append(self._piece(rows, at, is_long))
            at += len(rows)
            let_others_run()
        return _joined(found)

    def _piece(self, rows: list[Any], at: int, is_long: bool) -> Inputs:
        columns = _columns_of(rows, at)
        try:
            inputs = self._read_inputs({name: values[0] for name, values in columns.items()} if is_long else columns)
            if inputs.batched is is_long:
                raise DoesNotFit([Problem(INSTANCES, "a batch in one row", "one value of each input in a row")])
        except DoesNotFit as error:
            if not at:
                raise
            moved = [replace(problem, where=f"{INSTANCES}[{at}:].{problem.where}"[:200]) for problem in error.problems]
            raise DoesNotFit(moved) from None
        return msgspec.structs.replace(inputs, batched=True)


def _decoded(value: Any, leaf: Leaf, rows_limit: int, where: str, levels: int = 8) -> Any:
    """Puts bytes in the place of each {"b64": …} in nested lists of at most so many levels."""
    if isinstance(value, LongText) and value.has(_B64_KEY):
        value = value.children(rows_limit)
    if isinstance(value, list) and levels:
        return [_decoded(item, leaf, rows_limit, where, levels - 1) for item in value]
    if not _is_base64(value):
        return value
    text = value[B64]
    if isinstance(text, LongString):
        try:
            text = text.read(leaf, where, json_body.decode_string)
        except Unfit as unfit:
            raise DoesNotFit([unfit.problem]) from None
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise DoesNotFit([Problem(where, show(text), "base64")]) from None


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {B64} and isinstance(value[B64], str | LongString)


def _is_object(row: Any) -> bool:
    return isinstance(row, dict) and not _is_base64(row)


def _columns_of(rows: list[Any], start: int) -> dict[str, list[Any]]:
    """Makes columns of rows that are objects with the same keys; `start`: the number of the first one."""
    keys = rows[0].keys() if _is_object(rows[0]) else None
    for number, row in enumerate(rows, start):
        if not _is_object(row):
            raise DoesNotFit([Problem(f"{INSTANCES}[{number}]", show(row), "an object, as the first row is one")])
        if row.keys() != keys:
            expected = f"the inputs of the first row: {', '.join(rows[0])}"[:400]
            raise DoesNotFit([Problem(f"{INSTANCES}[{number}]", f"has {', '.join(row) or 'none'}"[:400], expected)])
    return {key: [row[key] for row in rows] for key in rows[0]}


def _joined(pieces: list[Inputs]) -> Inputs:
    first = pieces[0]
    if any(piece.arrays.keys() != first.arrays.keys() for piece in pieces):
        raise DoesNotFit([Problem(INSTANCES, "rows with other inputs than the first one", "the same in all rows")])
    arrays = {name: np.concatenate([piece.arrays[name] for piece in pieces]) for name in first.arrays}
    outside = sum(piece.outside_bounds for piece in pieces)
    return Inputs(arrays, sum(piece.rows for piece in pieces), True, first.needs_state, outside)


def _only_input(policy: Policy) -> str:
    """Returns the name of the input that stands for all, the others having defaults; "" where there is none."""
    nests = top_level(policy.spec)
    required = [top for top in nests if not (policy.spec.takes_time_step and top in DEFAULTED)]
    found = [leaf.name for top in required for _, leaf in leaves(nests[top])]
    if len(found) != 1:
        return ""
    return required[0] if len(required) == 1 and isinstance(nests[required[0]], Leaf) else found[0]


def _strings(policy: Policy) -> dict[str, Leaf]:
    """Returns the leaves of strings, by every name that they may have in a request."""
    nests = names_of(top_level(policy.spec))
    return {name: leaf for name, leaf in nests.items() if isinstance(leaf, Leaf) and leaf.dtype == "string"}
