"""Bodies of the Open Inference Protocol v2 over HTTP: JSON, perhaps with raw tensors behind it ⇄ a call and its answer.

Clients send the same JSON again and again, with other numbers in it or behind it. What such a request asks is kept, so
that only its numbers are read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from app.batching.rule import INITIAL_STATE, Job
from app.dialects.open_inference import (
    Model,
    SequenceStep,
    array_in,
    check_tensor,
    field_of,
    fields_in,
    leaf_of,
    options_in,
    wants_log_prob,
)
from app.dialects.open_inference_answer import Form
from app.errors import DoesNotFit, NotJson, Problem, Refusal, Unsupported
from app.inputs.bounds import limits_of
from app.inputs.options import Options, read_options
from app.wire.codecs import JSON
from app.wire.limits import SHORT_BODY_BYTES
from app.wire.long_lists import LongList, LongString, read_long
from app.wire.tensors import Arrays, Unfit, outline, read_tensor, show
from saver.artifact import Leaf

# Each client sends a few kinds of requests. Where there are more, those go that were kept first.
_MOST_KNOWN = 256
_LONGEST_KNOWN = 4096
_DATA = b'"data":'
# KServe's client repeats the model, which the path says.
_FIELDS = {"id", "parameters", "inputs", "outputs", "model_name", "model_version"}


class Place(NamedTuple):
    """An array in a body: `items` from byte `at` on, to be of this shape. `sent`: the shape of JSON's lists."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    at: int
    items: int
    sent: tuple[int, ...] = ()


class Call(NamedTuple):
    """A request that was understood: the fields of our own route, its options, and how it wants its answer.

    `places`: of the arrays that are raw; or of the only input, whose JSON is `data`.
    """

    fields: dict[str, Any]
    options: dict[str, Any]
    form: Form
    sequence: SequenceStep | None = None
    places: Sequence[Place] = ()
    data: list[Any] | None = None


class Kept(NamedTuple):
    """What a kind of requests asks.

    `numbers`: decodes the JSON of its only input; `size`: of bodies with raw tensors.
    """

    function: str
    options: Options
    form: Form
    rows: int
    places: Sequence[Place]
    numbers: Callable[[bytes], Any] | None
    size: int


class BodyReader:
    """Reads the bodies of one model's requests."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._known: dict[Any, Kept] = {}

    def known(self, body: bytes, json_length: int | None) -> tuple[Kept, Arrays] | None:
        """Reads a body that differs only in its numbers from one before; None where it is none, or does not fit."""
        if json_length is not None:
            kept = self._known.get(bytes(body[:json_length])) if json_length <= _LONGEST_KNOWN else None
            if kept is None or len(body) != kept.size:
                return None
            return kept, {
                name: np.frombuffer(body, dtype, count, at).reshape(shape)
                for name, dtype, shape, at, count, _ in kept.places
            }
        start, end = _data_in(body)
        if len(body) > SHORT_BODY_BYTES or start + len(body) - end > _LONGEST_KNOWN:
            return None
        kept = self._known.get((bytes(body[:start]), bytes(body[end:])))
        if kept is None or kept.numbers is None:
            return None
        ((name, dtype, shape, _, _, sent),) = kept.places
        try:
            array = np.array(kept.numbers(body[start:end]), dtype)
        except (ValueError, msgspec.DecodeError):
            return None
        return (kept, {name: array.reshape(shape)}) if array.shape == sent else None

    def learn(self, body: bytes, json_length: int | None, call: Call, job: Job) -> None:
        """Keeps what a body asks that was read as `call`, of which `job` was made: see `known`."""
        if call.sequence is not None or call.form.id is not None or self._model.function == INITIAL_STATE:
            return
        if not call.places or len(call.places) != len(call.fields):
            return
        key: Any = bytes(body[:json_length])
        numbers = None
        if call.data is not None:
            start, end = _data_in(body)
            key = before, after = bytes(body[:start]), bytes(body[end:])
            numbers = _decoder(self._model.leaves[call.places[0].name], call.places[0].sent)
            if len(call.fields) > 1 or not _reads(numbers, body[start:end], call.data):
                return
            if not self._are_data_between(before, after):
                return
        options = read_options(call.options)
        self._keep(key, Kept(job.function, options, call.form, job.rows, call.places, numbers, len(body)))

    def _are_data_between(self, before: bytes, after: bytes) -> bool:
        """Returns whether the only input's data stand between these, and not a list in another field of that name."""
        if len(before) + len(after) > _LONGEST_KNOWN:
            return False
        try:
            request = JSON.decode_any(before + b"null" + after, self._model.policy.reader.most_keys + 64)
        except Refusal:
            return False
        return bool(request["inputs"][0]["data"] is None)

    def _keep(self, key: Any, kept: Kept) -> None:
        if len(key if isinstance(key, bytes) else b"".join(key)) > _LONGEST_KNOWN:
            return
        self._known[key] = kept
        if len(self._known) > _MOST_KNOWN:
            del self._known[next(iter(self._known))]

    def read(self, body: bytes, json_length: int | None) -> Call:
        """Reads any body. `json_length`: of the JSON that it starts with, where it may go on; 0: it is one raw tensor.

        Raises:
          NotJson: it does not start with such JSON.
          DoesNotFit: it does not say what the model takes.
          Unsupported: it wants what this server does not have.
        """
        if json_length == 0:
            return self._raw(body)
        if json_length is not None and json_length > len(body):
            raise NotJson(f"the JSON has {json_length} bytes by Inference-Header-Content-Length, the body {len(body)}")
        text = body if json_length is None else body[:json_length]
        request = JSON.decode_any(text, self._model.policy.reader.most_keys + 64)
        unknown = sorted(request.keys() - _FIELDS)
        if unknown:
            raise _unfit(unknown[0][:200], "is no field of an inference request", "id, parameters, inputs, outputs")
        id_ = request.get("id")
        if id_ is not None and not isinstance(id_, str):
            raise _unfit("id", show(id_), "a string")
        parameters = request.get("parameters")
        options, sequence = options_in(parameters)
        form = self._form(id_, request.get("outputs"), (parameters or {}).get("binary_data_output", False))
        inputs = _Inputs(self._model, memoryview(body)[len(text) :], len(text))
        inputs.read(request.get("inputs", []))
        options = wants_log_prob(form.names) | options
        fields = fields_in(self._model, inputs.fields)
        return Call(fields, options, form, sequence, inputs.places, inputs.data)

    def _raw(self, body: bytes) -> Call:
        """Reads the one required input of a model; how many rows it has follows from its length."""
        required = [tensor for tensor in self._model.inputs if not tensor.optional]
        if len(required) != 1:
            names = ", ".join(tensor.name for tensor in required)
            raise _unfit("body", "is one raw tensor", f"JSON first: the model has the inputs {names}")
        leaf = self._model.leaves[required[0].name]
        if None in leaf.shape or leaf.dtype == "string":
            raise _unfit("body", "is one raw tensor", f"JSON first, with the shape of {leaf.name}")
        row = math.prod(size or 0 for size in leaf.shape) * leaf.storage.itemsize
        if not body or len(body) % row:
            raise _unfit(leaf.name, f"{len(body)} bytes", f"{row} for each row")
        array = array_in(leaf, (len(body) // row, *(size or 0 for size in leaf.shape)), body)
        return Call({leaf.name: array}, {}, Form(self._model, None, None, True))

    def _form(self, id_: str | None, outputs: Any, binary: Any) -> Form:
        if type(binary) is not bool:
            raise _unfit("parameters.binary_data_output", show(binary), "true or false")
        if not outputs and (outputs is None or isinstance(outputs, list)):
            return Form(self._model, id_, None, binary)
        if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
            raise _unfit("outputs", show(outputs), "a list of objects")
        return Form(self._model, id_, dict(_output(output, binary) for output in outputs), binary)


class _Inputs:
    """The inputs of one request. `blobs`: what follows the JSON, from byte `start` on.

    `fields`, `places`: as they are found. `data`: the lists of the last input in JSON.
    """

    def __init__(self, model: Model, blobs: memoryview, start: int) -> None:
        self._model = model
        self._blobs = blobs
        self._start = start
        self._at = 0
        self.fields: dict[str, Any] = {}
        self.places: list[Place] = []
        self.data: list[Any] | None = None

    def read(self, inputs: Any) -> None:
        """Reads the list of inputs."""
        if isinstance(inputs, LongList):
            inputs = inputs.children(len(self._model.inputs))
        if not isinstance(inputs, list) or not all(isinstance(each, dict) for each in inputs):
            expected = f"a list of at most {len(self._model.inputs)} objects with name, shape, datatype, data"
            raise _unfit("inputs", show(inputs), expected)
        for each in inputs:
            leaf = leaf_of(self._model, each.get("name"), self.fields)
            self.fields[leaf.name] = field_of(self._model, leaf, self._value(leaf, each))
        if self._at != len(self._blobs):
            raise _unfit("body", f"{len(self._blobs)} bytes behind the JSON", f"{self._at}, by its binary_data_size")

    def _value(self, leaf: Leaf, given: Mapping[str, Any]) -> Any:
        parameters = given.get("parameters") or {}
        if not isinstance(parameters, dict):
            raise _unfit(f"{leaf.name}.parameters", show(parameters), "an object")
        _check_memory(leaf.name, parameters)
        shape = given.get("shape")
        count = check_tensor(leaf, given.get("datatype"), shape)
        assert isinstance(shape, list), "it was checked"
        size = parameters.get("binary_data_size")
        if size is None:
            if "data" not in given:
                raise _unfit(leaf.name, "has no data", "data, or parameters.binary_data_size")
            return self._from_json(leaf, given["data"], shape, count)
        if "data" in given:
            raise _unfit(leaf.name, "has data and binary_data_size", "one of the two")
        if type(size) is not int or not 0 <= size <= len(self._blobs) - self._at:
            came = f"binary_data_size {show(size)}, and {len(self._blobs) - self._at} bytes are left in the body"
            raise _unfit(leaf.name, came, "as many bytes as it says")
        blob = self._blobs[self._at : self._at + size]
        array = array_in(leaf, shape, blob)
        if isinstance(array, np.ndarray) and leaf.dtype != "bool":
            self.places.append(Place(leaf.name, array.dtype, tuple(shape), self._start + self._at, count))
        self._at += size
        return array

    def _from_json(self, leaf: Leaf, data: Any, shape: Sequence[int], count: int) -> Any:
        value = _from_json(leaf, data, shape, count, self._model.policy.reader.non_finite)
        if isinstance(data, list) and leaf.storage.kind in "iuf":
            self.data = data
            self.places.append(Place(leaf.name, leaf.storage, tuple(shape), 0, count, outline(data)))
        return value


def _from_json(leaf: Leaf, data: Any, shape: Sequence[int], count: int, non_finite: bool) -> Any:
    """Returns data as the own route takes it: nested as they came, or from a flat list, row-major."""
    if isinstance(data, LongString):
        raise _unfit(leaf.name, data.shown, f"a list of {count} items")
    depth = data.depth(len(shape) + 1) if isinstance(data, LongList) else len(outline(data))
    if depth != 1 or len(shape) == 1:
        if isinstance(data, list) and outline(data) != tuple(shape):
            raise _unfit(leaf.name, f"data of shape {list(outline(data))}", f"shape {list(shape)}, as it says")
        return data
    item = Leaf(leaf.name, leaf.dtype, ())
    try:
        if isinstance(data, LongList):
            array = read_long(data, item, leaf.name, count, non_finite).array
        else:
            array = read_tensor(data, item, leaf.name, non_finite).array
    except Unfit as unfit:
        raise DoesNotFit([unfit.problem]) from None
    if len(array) != count:
        raise _unfit(leaf.name, f"{len(array)} items", f"{count}, by its shape {list(shape)}")
    whole = array.reshape(shape)
    return whole.tolist() if leaf.dtype == "string" else whole


def _output(output: Mapping[str, Any], binary: bool) -> tuple[str, bool]:
    """Returns the name of a wanted output, and whether it comes as raw bytes."""
    name, parameters = output.get("name"), output.get("parameters") or {}
    if not isinstance(name, str):
        raise _unfit("outputs.name", show(name), "a string")
    if not isinstance(parameters, dict):
        raise _unfit(f"outputs.{name}.parameters"[:200], show(parameters), "an object")
    _check_memory(name, parameters)
    is_binary = parameters.get("binary_data", binary)
    if type(is_binary) is not bool:
        raise _unfit(f"outputs.{name}.parameters.binary_data"[:200], show(is_binary), "true or false")
    return name, is_binary


def _check_memory(name: str, parameters: Mapping[str, Any]) -> None:
    for word in ("shared_memory_region", "classification"):
        if parameters.get(word):
            raise Unsupported(f"{name[:200]}: parameter {word}: this server has none")


def _data_in(body: bytes) -> tuple[int, int]:
    """Returns where the first input's data start and end, where they are numbers and nothing follows them."""
    start = body.find(_DATA) + len(_DATA)
    return start, body.find(b"}", start)


def _decoder(leaf: Leaf, shape: Sequence[int]) -> Callable[[bytes], Any]:
    """Returns what decodes lists of this shape."""
    least, most = limits_of(leaf, None, None)
    kind: Any = Annotated[type(least), Meta(ge=least, le=most)]
    for _ in shape:
        kind = list[kind]
    return msgspec.json.Decoder(kind).decode


def _reads(numbers: Callable[[bytes], Any], text: bytes, data: Any) -> bool:
    try:
        return bool(numbers(text) == data)
    except msgspec.DecodeError:
        return False


def _unfit(where: str, problem: str, expected: str) -> DoesNotFit:
    return DoesNotFit([Problem(where, problem, expected)])
