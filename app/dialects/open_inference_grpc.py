"""Messages of the Open Inference Protocol over gRPC ⇄ a call and its answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from app.dialects.open_inference import (
    Model,
    array_in,
    check_tensor,
    datatype_of,
    field_of,
    fields_in,
    leaf_of,
    options_in,
    raw_bytes,
    wants_log_prob,
)
from app.dialects.open_inference_answer import Form
from app.dialects.open_inference_body import Call
from app.dialects.open_inference_messages import Messages
from app.errors import DoesNotFit, Problem, Unsupported
from app.offload import let_others_run
from app.wire.tensors import Arrays
from saver.artifact import Leaf

_UNSIGNED = ("uint8", "uint16", "uint32")
# dtype → the list of `InferTensorContents` that has its items, and how they are read.
_CONTENTS: dict[str, tuple[str, Any]] = {
    "bool": ("bool_contents", np.bool_),
    **dict.fromkeys(("int8", "int16", "int32"), ("int_contents", np.int64)),
    **dict.fromkeys(_UNSIGNED, ("uint_contents", np.int64)),
    "int64": ("int64_contents", np.int64),
    "uint64": ("uint64_contents", np.uint64),
    "float32": ("fp32_contents", np.float32),
    "float64": ("fp64_contents", np.float64),
    "string": ("bytes_contents", object),
}
# Of a list, between two looks at whether others want to run.
_ITEMS = 2**14


def parameters_in(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of a message's parameters by name."""
    found = {}
    for name, value in parameters.items():
        choice = value.WhichOneof("choice")
        found[name] = getattr(value, choice) if choice else None
    return found


def call_in(model: Model, request: Any) -> Call:
    """Reads a `ModelInferRequest`.

    Raises:
      DoesNotFit: it does not say what the model takes.
      Unsupported: it wants what this server does not have.
    """
    raws, inputs = request.raw_input_contents, request.inputs
    if raws and len(raws) != len(inputs):
        raise _unfit("raw_input_contents", f"{len(raws)} tensors", f"{len(inputs)}, one for each input, or none")
    fields: dict[str, Any] = {}
    for number, tensor in enumerate(inputs):
        leaf = leaf_of(model, tensor.name, fields)
        _check_memory(tensor)
        shape = list(tensor.shape)
        count = check_tensor(leaf, tensor.datatype, shape)
        if raws and tensor.HasField("contents"):
            raise _unfit(leaf.name, "has contents beside raw_input_contents", "one of the two")
        value = array_in(leaf, shape, raws[number]) if raws else _items(leaf, tensor.contents, shape, count)
        fields[leaf.name] = field_of(model, leaf, value)
    options, sequence = options_in(parameters_in(request.parameters))
    for output in request.outputs:
        _check_memory(output)
    outputs = {output.name: True for output in request.outputs} or None
    form = Form(model, request.id or None, outputs, True)
    return Call(fields_in(model, fields), wants_log_prob(form.names) | options, form, sequence)


def response_of(messages: Messages, model: Model, id_: str, outputs: Arrays, version: str, train_step: int) -> Any:
    """Returns the `ModelInferResponse` with these outputs, as raw tensors."""
    response = messages.named("ModelInferResponse")(model_name=model.name, model_version=version, id=id_)
    response.parameters["train_step"].int64_param = train_step
    for name, array in outputs.items():
        response.outputs.add(name=name, datatype=datatype_of(array), shape=array.shape)
        response.raw_output_contents.append(raw_bytes(array))
    return response


def _items(leaf: Leaf, contents: Any, shape: Sequence[int], count: int) -> Any:
    if leaf.dtype not in _CONTENTS:
        raise _unfit(leaf.name, f"contents of {leaf.dtype}", "raw_input_contents, as contents has no such items")
    name, kind = _CONTENTS[leaf.dtype]
    items = getattr(contents, name)
    if len(items) != count:
        raise _unfit(leaf.name, f"{len(items)} items in {name}", f"{count}, by its shape {list(shape)}")
    if kind is object:
        whole = np.empty(count, object)
        whole[:] = list(items)
        return whole.reshape(shape).tolist()
    array = np.empty(count, kind)
    for at in range(0, count, _ITEMS):
        let_others_run()
        piece = items[at : at + _ITEMS]
        array[at : at + _ITEMS] = np.fromiter(piece, kind, len(piece))
    return array.reshape(shape)


def _check_memory(tensor: Any) -> None:
    for word in ("shared_memory_region", "classification"):
        if word in tensor.parameters:
            raise Unsupported(f"{tensor.name[:200]}: parameter {word}: this server has none")


def _unfit(where: str, problem: str, expected: str) -> DoesNotFit:
    return DoesNotFit([Problem(where, problem, expected)])
