"""The body of a session's request → its fields, and the inputs of the policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from app.errors import DoesNotFit, NotJson, Problem
from app.inputs.fields import RequestField
from app.inputs.names import top_level
from app.inputs.options import Options, read_options
from app.inputs.typed import TypedDecoder
from app.inputs.validate import Inputs, InputValidator
from app.sessions.fields import BEGIN_FIELDS, FIRST, ID, RUN_ID, STEP_FIELDS, BeginRequest, StepRequest
from app.wire.codecs import JSON, Codec
from app.wire.limits import SHORT_BODY_BYTES
from app.wire.long_lists import LongList
from app.wire.msgpack_body import decode_tensors
from app.wire.tensors import Array
from saver.artifact import PolicySpec, leaves

STATE = "policy_state"
# A boolean for each of 65,536 rows, as it is usually written.
_MOST_FIRST_BYTES = 2**20


class SessionReader:
    """Reads the requests to the sessions of one policy. `reader`: for what the typed decoder does not take."""

    def __init__(self, spec: PolicySpec, reader: InputValidator, *, rows_limit: int) -> None:
        self._reader = reader
        more = {name: field.kind.decoded() for name, field in STEP_FIELDS.items()}
        self._typed = TypedDecoder(spec, rows_limit=rows_limit, without={STATE}, more=more)
        self._state = {leaf.name for _, leaf in leaves(top_level(spec).get(STATE, ()))}

    def read_begin(self, codec: Codec, body: bytes) -> BeginRequest:
        """Reads a request to start a session.

        Raises:
          NotJson: the body is none of the codec's.
          DoesNotFit: the request does not fit; lists every problem of the first kind found.
        """
        fields = self._decoded(codec, body)
        own = _own(fields, BEGIN_FIELDS)
        options = read_options(fields.pop("options", {}))
        return BeginRequest(self._inputs(fields), options, **own)

    def read_step(self, codec: Codec, body: bytes) -> StepRequest:
        """Reads a request for a step; raises as `read_begin` does."""
        typed = self._typed
        decoded = None
        if len(body) <= SHORT_BODY_BYTES:
            decoded = typed.read_more(body) if codec is JSON else typed.read_more_binary(body)
        return self._step(self._decoded(codec, body)) if decoded is None else _step_of(*decoded)

    def read_step_at_once(self, codec: Codec, body: bytes) -> StepRequest | None:
        """Reads a large body as `read_step` does; returns None where that may take more than a few milliseconds."""
        if codec is JSON or len(body) > SHORT_BODY_BYTES:
            return None
        fields = decode_tensors(body)
        return None if fields is None else self._step(fields)

    def _step(self, fields: dict[str, Any]) -> StepRequest:
        own = _own(fields, STEP_FIELDS)
        options = read_options(fields.pop("options", {}))
        return _step_of(self._inputs(fields), options, own)

    def _decoded(self, codec: Codec, body: bytes) -> dict[str, Any]:
        try:
            fields = codec.decode_any(body, self._reader.most_keys)
        except NotJson as error:
            raise (self._reader.hint.no_object(error) if error.is_json else error) from None
        first = fields.get("first")
        if isinstance(first, LongList):
            fields["first"] = first.plain(_MOST_FIRST_BYTES)
            if fields["first"] is None:
                raise DoesNotFit([Problem("first", "a very long list", FIRST.expected)])
        return fields

    def _inputs(self, fields: dict[str, Any]) -> Inputs:
        state = fields.get(STATE)
        if isinstance(state, LongList) or (isinstance(state, list | dict) and state):
            raise _keeps_state()
        inputs = self._reader.read(fields)
        if inputs.arrays.keys() & self._state:
            raise _keeps_state()
        return inputs


def _step_of(inputs: Inputs, options: Options, own: dict[str, Any]) -> StepRequest:
    first = own.get("first")
    if first is not None:
        own = {**own, "first": _rows_of(first, inputs)}
    return StepRequest(inputs, options, **own)


def _keeps_state() -> DoesNotFit:
    return DoesNotFit([Problem(STATE, "is given, but a session keeps its own", "a request without it")])


def _own(fields: dict[str, Any], table: Mapping[str, RequestField]) -> dict[str, Any]:
    """Takes the session's own fields out of `fields`; null counts as missing."""
    own = {name: fields.pop(name) for name in table if name in fields}
    own = {name: value for name, value in own.items() if value is not None}
    problems = [problem for name, value in own.items() if (problem := table[name].problem(name, value))]
    if problems:
        raise DoesNotFit(problems)
    return own


def is_id(text: str) -> bool:
    """Returns whether a session may have this id."""
    return ID.kind.takes(text)


def check_run_id(value: Any) -> Problem | None:
    """Returns what is wrong with a `run_id`; None where nothing is."""
    return RUN_ID.problem("run_id", value)


def _rows_of(first: Any, inputs: Inputs) -> Array:
    """Which rows are first, where that fits the rows of the observation."""
    array = np.asarray(first, bool)
    if array.ndim == 0:
        return np.full(inputs.rows, array)
    if not inputs.batched or len(array) != inputs.rows:
        expected = f"{inputs.rows} booleans, one a row, or one for all" if inputs.batched else "true or false"
        raise DoesNotFit([Problem("first", f"{len(array)} booleans", expected)])
    return array
