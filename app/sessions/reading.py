"""The body of a session's request → its fields, and the inputs of the policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from app.errors import DoesNotFit, NotJson, Problem
from app.inputs.names import top_level
from app.inputs.options import Options, read_options
from app.inputs.typed import TypedDecoder
from app.inputs.validate import Inputs, InputValidator
from app.wire.codecs import JSON, Codec
from app.wire.limits import SHORT_BODY_BYTES
from app.wire.long_lists import LongList
from app.wire.msgpack_body import decode_tensors
from app.wire.tensors import Array, show
from saver.artifact import PolicySpec, is_name, leaves

LONGEST_NAME = 128
STATE = "policy_state"
_LARGEST_STEP = 2**63 - 1
# A boolean for each of 65,536 rows, as it is usually written.
_MOST_FIRST_BYTES = 2**20


class BeginRequest(msgspec.Struct, frozen=True):
    """What a request to begin a session asks; None where it leaves it to the server."""

    inputs: Inputs
    options: Options
    id: str | None = None
    run_id: str | None = None
    weights: Literal["latest", "episode"] | None = None


class StepRequest(msgspec.Struct, frozen=True):
    """What a request for a step says. `first`: [rows] booleans, rows that begin a new episode."""

    inputs: Inputs
    options: Options
    step: int | None = None
    run_id: str | None = None
    first: Array | None = None


class SessionReader:
    """Reads the requests to the sessions of one policy. `reader`: for what takes a closer look."""

    def __init__(self, spec: PolicySpec, reader: InputValidator, *, rows_limit: int) -> None:
        self._reader = reader
        fields = {"step": _Step, "run_id": _Name, "first": bool | list[bool]}
        self._typed = TypedDecoder(spec, rows_limit=rows_limit, without={STATE}, more=fields)
        self._state = {leaf.name for _, leaf in leaves(top_level(spec).get(STATE, ()))}

    def beginning(self, codec: Codec, body: bytes) -> BeginRequest:
        """A request to begin a session.

        Raises:
          NotJson: the body is none of the codec's.
          DoesNotFit: it does not fit; lists every problem of the first kind found.
        """
        fields = self._decoded(codec, body)
        own = _own(fields, {"id": _check_id, "run_id": check_run_id, "weights": _check_weights})
        options = read_options(fields.pop("options", {}))
        return BeginRequest(self._inputs(fields), options, **own)

    def stepping(self, codec: Codec, body: bytes) -> StepRequest:
        """A request for a step; raises as `beginning` does."""
        decoded = self._typed.read_more(body) if codec is JSON and len(body) <= SHORT_BODY_BYTES else None
        return self._stepping(self._decoded(codec, body)) if decoded is None else _step_of(*decoded)

    def stepping_at_once(self, codec: Codec, body: bytes) -> StepRequest | None:
        """The same for a large body; None where it may take more than a few milliseconds to read."""
        if codec is JSON or len(body) > SHORT_BODY_BYTES:
            return None
        fields = decode_tensors(body)
        return None if fields is None else self._stepping(fields)

    def _stepping(self, fields: dict[str, Any]) -> StepRequest:
        own = _own(fields, {"step": _check_step, "run_id": check_run_id, "first": _check_first})
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
                raise DoesNotFit([Problem("first", "a very long list", _FIRST)])
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


def _own(fields: dict[str, Any], checks: Mapping[str, Callable[[Any], Problem | None]]) -> dict[str, Any]:
    """Takes the session's own fields out of `fields`; null counts as missing."""
    own = {name: fields.pop(name) for name in checks if name in fields}
    own = {name: value for name, value in own.items() if value is not None}
    problems = [problem for name, value in own.items() if (problem := checks[name](value))]
    if problems:
        raise DoesNotFit(problems)
    return own


def _check_id(value: Any) -> Problem | None:
    if isinstance(value, str) and is_id(value):
        return None
    return Problem(
        "id", show(value), f"1 to {LONGEST_NAME} letters, digits, '.', '_', '-', the first a letter or digit"
    )


def is_id(text: str) -> bool:
    """Whether a session may have this id."""
    return len(text) <= LONGEST_NAME and is_name(text)


def check_run_id(value: Any) -> Problem | None:
    """What is wrong with a `run_id`; None where nothing is."""
    if isinstance(value, str) and 1 <= len(value) <= LONGEST_NAME:
        return None
    return Problem("run_id", show(value), f"a string of 1 to {LONGEST_NAME} characters")


def _check_weights(value: Any) -> Problem | None:
    known = isinstance(value, str) and value in ("latest", "episode")
    return None if known else Problem("weights", show(value), '"latest" or "episode"')


def _check_step(value: Any) -> Problem | None:
    if type(value) is int and 0 <= value <= _LARGEST_STEP:
        return None
    return Problem("step", show(value), "an integer, 0 or more")


def _check_first(value: Any) -> Problem | None:
    listed = isinstance(value, list) and all(type(item) is bool for item in value)
    tensor = isinstance(value, np.ndarray) and value.dtype == bool and value.ndim <= 1
    return None if type(value) is bool or listed or tensor else Problem("first", show(value), _FIRST)


def _rows_of(first: Any, inputs: Inputs) -> Array:
    """Which rows are first, where that fits the rows of the observation."""
    array = np.asarray(first, bool)
    if array.ndim == 0:
        return np.full(inputs.rows, array)
    if not inputs.batched or len(array) != inputs.rows:
        expected = f"{inputs.rows} booleans, one a row, or one for all" if inputs.batched else "true or false"
        raise DoesNotFit([Problem("first", f"{len(array)} booleans", expected)])
    return array


_FIRST = "true, false, or a list of them, one a row"
_Step = Annotated[int, Meta(ge=0, le=_LARGEST_STEP)]
_Name = Annotated[str, Meta(min_length=1, max_length=LONGEST_NAME)]
