"""The body of a predict request → a request to a policy, by the function that its signature name stands for.

A model is a policy, a signature one of its functions, and a version a train step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import msgspec
import orjson
from msgspec import UNSET, UnsetType

from app.batching.rule import INITIAL_STATE, Result
from app.dialects.calls import ForeignRequest, Reply, outputs_of
from app.dialects.tensorflow_serving.answers import head_of, write
from app.dialects.tensorflow_serving.inputs import INPUTS, INSTANCES, InputParser
from app.dialects.tensorflow_serving.models import not_served, values_of
from app.errors import DoesNotFit, Malformed, Problem
from app.inference.policy import Policy
from app.inference.request_parser import InferenceRequest, RequestParser
from app.inputs.options import Options
from app.inputs.typed import TypedDecoder
from app.inputs.validate import Inputs
from app.sessions.record import Answer
from app.wire import json_body
from app.wire.codecs import JSON
from app.wire.limits import SHORT_BODY_BYTES
from app.wire.tensors import show

SIGNATURE, OPTIONS = "signature_name", "options"
DEFAULT_SIGNATURES = ("", "serving_default")
_ASKED = ("action", "distribution")
_FIXED = ("get_train_step", "get_metadata")
_BATCH_SIZE = "batch_size"
_OPTIONS = b'"options"'
_Read = Callable[[TypedDecoder, bytes], tuple[Inputs, Options] | None]


class _Body(msgspec.Struct):
    """A body whose parts are not read yet; what else it has counts for nothing, as in TensorFlow Serving."""

    signature_name: str | UnsetType = UNSET
    instances: msgspec.Raw | UnsetType = UNSET
    inputs: msgspec.Raw | UnsetType = UNSET
    options: msgspec.Raw | UnsetType = UNSET


_DECODER = msgspec.json.Decoder(_Body)


class PredictParser:
    """Reads the bodies of predict requests to one policy."""

    def __init__(self, parser: RequestParser, policy: Policy) -> None:
        self.policy = policy
        self._parser = parser
        limit = policy.reader.rows_limit
        self._flat = TypedDecoder(policy.spec, rows_limit=limit, flattened=True)
        self._inputs = InputParser(policy)
        self._before = b"{%b:" % orjson.dumps(self._inputs.only)

    def read(self, body: bytes, train_step: int | None = None) -> ForeignRequest | Answer:
        """Reads a short body; `train_step`: of the version that is asked, None for any.

        Raises:
          NotJson: it is no JSON object.
          Malformed: it is no predict request.
          DoesNotFit: the inputs are not what the spec says.
          Unsupported: the policy has no such function, or an option cannot be honoured.
        """
        return self._read_usual(body, train_step, TypedDecoder.read) or self._read(json_body.decode(body), train_step)

    def at_once(self, body: bytes, train_step: int | None = None) -> ForeignRequest | None:
        """Reads a large body where that takes a few milliseconds; returns None where it may take longer."""
        if len(body) > SHORT_BODY_BYTES:
            return None
        return self._read_usual(body, train_step, TypedDecoder.read_known)

    def large(self, body: bytes, train_step: int | None = None) -> ForeignRequest | Answer:
        """Reads a large body, in a thread of its own; raises as `read` does."""
        found = None
        if len(body) <= SHORT_BODY_BYTES:
            found = self._read_usual(body, train_step, TypedDecoder.read_new)
        return found or self._read(JSON.decode_any(body, self.policy.reader.most_keys), train_step)

    def _read_usual(self, body: bytes, train_step: int | None, read: _Read) -> ForeignRequest | None:
        """Reads what clients mostly send; returns None where that does not work."""
        try:
            found = _DECODER.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        name = found.signature_name
        function = "action" if name is UNSET or name in DEFAULT_SIGNATURES else name
        in_rows = found.instances is not UNSET
        raw = found.instances if in_rows else found.inputs
        if raw is UNSET or (in_rows and found.inputs is not UNSET) or found.options is not UNSET:
            return None
        if function not in _ASKED:
            return None
        value = bytes(raw)
        batched = True
        if value[:1] == b"[" and value[1:].lstrip()[:1] != b"{":
            if not self._inputs.only:
                return None
            decoder, value = self.policy.typed_decoder, b"%b%b}" % (self._before, value)
        else:
            decoder = self._flat
            if in_rows:  # one object: of more than one, this is no JSON
                value, batched = value[1:-1], False
            if _OPTIONS in value:  # which are no input
                return None
        decoded = read(decoder, value)
        if decoded is None or decoded[0].batched is not batched:
            return None
        inputs, options = decoded
        return self._request(function, msgspec.structs.replace(inputs, batched=True), options, in_rows, train_step)

    def _read(self, body: dict[str, Any], train_step: int | None) -> ForeignRequest | Answer:
        name = body.get(SIGNATURE, "")
        if not isinstance(name, str):
            raise Malformed(f"'{SIGNATURE}' key must be a string value, not {show(name)}")
        function = "action" if name in DEFAULT_SIGNATURES else name
        in_rows = INSTANCES in body
        if in_rows and INPUTS in body:
            raise Malformed(f"expecting only one of '{INPUTS}' or '{INSTANCES}' keys to exist")
        if function in _ASKED:
            options = self.policy.reader.take_options({OPTIONS: body[OPTIONS]} if OPTIONS in body else {})
            if not in_rows and INPUTS not in body:
                raise Malformed(f"Missing '{INPUTS}' or '{INSTANCES}' key")
            inputs = self._inputs.rows(body[INSTANCES]) if in_rows else self._inputs.columns(body[INPUTS])
            return self._request(function, inputs, options, in_rows, train_step)
        if function == INITIAL_STATE or function in _FIXED:
            if in_rows:
                raise Malformed(f"{function} takes no rows: expecting '{INPUTS}', not '{INSTANCES}'")
            given = body.get(INPUTS, {})
            return (
                self._fixed(function, given, train_step)
                if function in _FIXED
                else self._initial_state(given, train_step)
            )
        known = ", ".join([*_ASKED, INITIAL_STATE, *_FIXED])
        raise Malformed(f'Serving signature name: "{name[:200]}" not found in signature def; there are {known}')

    def _request(
        self, function: str, inputs: Inputs, options: Options, in_rows: bool, train_step: int | None
    ) -> ForeignRequest:
        policy = self.policy
        named = self._parser.function(policy, function, options)
        asked = self._parser.request(policy, named, inputs, options, policy.templates)
        return _answered(asked, in_rows, train_step)

    def _initial_state(self, inputs: Any, train_step: int | None) -> ForeignRequest:
        spec, limit = self.policy.spec, self.policy.reader.rows_limit
        fields = inputs if isinstance(inputs, dict) else {_BATCH_SIZE: inputs}
        if not fields and spec.batch_size is not None:
            fields = {_BATCH_SIZE: spec.batch_size}
        size = fields.get(_BATCH_SIZE)
        if fields.keys() != {_BATCH_SIZE} or type(size) is not int or not 1 <= size <= limit:
            came = show(size) if fields.keys() == {_BATCH_SIZE} else show(inputs)
            raise DoesNotFit([Problem(INPUTS, came, f'{{"{_BATCH_SIZE}": an integer from 1 to {limit}}}')])
        asked = self._parser.initial_state(self.policy, JSON, b'{"batch_size":%d}' % size)
        return _answered(asked, False, train_step)

    def _fixed(self, function: str, inputs: Any, train_step: int | None) -> Answer:
        if inputs not in ({}, []):
            raise DoesNotFit([Problem(INPUTS, show(inputs), f"none: {function} takes no inputs")])
        version = self.policy.versions.active.version
        reply = Reply(
            head_of(version.name, version.train_step), write(values_of(self.policy, function, train_step), False)
        )
        return Answer(JSON.media_type, cast(bytes, reply))


def _answered(asked: InferenceRequest, in_rows: bool, train_step: int | None) -> ForeignRequest:
    """Returns the request with its answer in rows or columns, by weights of that train step where one is given."""

    def reply(result: Result) -> Reply:
        if train_step not in (None, result.train_step):  # they were swapped meanwhile
            raise not_served(asked.policy.name, train_step)
        return Reply(head_of(result.version, result.train_step), write(outputs_of(asked, result), in_rows))

    return ForeignRequest.of(asked, reply)
