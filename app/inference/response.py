"""What an engine gave for one request → the answer: as a structure of arrays, or as JSON by a template."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
import numpy as np
import orjson

from app.batching.rows import Row, parted
from app.batching.rule import INITIAL_STATE, Result
from app.wire import json_body
from app.wire.limits import FEW_NUMBERS
from app.wire.tensors import Arrays
from saver.artifact import LOG_PROB, Leaf, PolicySpec, ServingInfo, TensorInfo, leaves, pack

# NumPy's letters of booleans, integers, and floats of 32 and 64 bits.
_PLAIN = "?bBhHiIlLqQfd"
# The name of an output → its value; what a template is filled with.
ValueOf = Callable[[str], Any]
# The templates of one policy's answers, by the function that gives them and whether they have its log-probability.
ResponseTemplates: TypeAlias = "Mapping[tuple[str, bool], ResponseTemplate]"


class ResponseTemplate:
    """The template of one kind of answer: a structure that has an output of the engine at each leaf.

    Args:
      build: makes the structure, from a function that gives the value of each output by its name.
      with_version: whether version and train step stand at the end.
      shapes: of one row of each output.
    """

    def __init__(
        self,
        build: Callable[[ValueOf], dict[str, Any]],
        with_version: bool = True,
        shapes: Mapping[str, tuple[int | None, ...]] | None = None,
    ) -> None:
        self._build = build
        self._with_version = with_version
        self._pieces = _pieces(build(_Slot))
        # Of the outputs that it has, in their order.
        self.names = tuple(str(piece) for piece in self._pieces if isinstance(piece, _Slot))
        found = [(shapes or {}).get(name, ()) for name in self.names]
        # How many it has in each row.
        self.numbers = sum(math.prod(size or 1 for size in shape) for shape in found)

    def structure(self, result: Result, batched: bool) -> dict[str, Any]:
        """Returns the answer with arrays at its leaves."""
        outputs = result.outputs
        filled = self._build(lambda name: outputs[name] if batched else outputs[name][0, ...])
        return filled | {"version": result.version, "train_step": result.train_step} if self._with_version else filled

    def json(self, result: Result, batched: bool) -> bytes:
        """Returns the answer as JSON: what `json_body.encode` makes of its structure, sooner where all is finite."""
        outputs = result.outputs
        if type(outputs) is Row and not batched:
            written = outputs.together.written.get(self)
            if written is None:
                written = outputs.together.written[self] = self._all_json(
                    outputs.together.outputs, itertools.repeat(self._end(result))
                )
            if written:
                return written[outputs.place]
        parts = []
        for piece in self._pieces:
            part = piece if isinstance(piece, bytes) else numbers_json(outputs[piece], batched)
            if part is None:
                return json_body.encode(self.structure(result, batched))
            parts.append(part)
        parts.append(self._end(result))
        return b"".join(parts)

    def json_of_each(self, results: Sequence[Result], counts: Sequence[int]) -> Sequence[bytes]:
        """Returns the answers to requests of one row each, which are the rows of some results, in their order.

        The template has at least one output. `counts`: of the rows of each result.
        """
        ends: list[bytes] = []
        for result, count in zip(results, counts, strict=True):
            ends += [self._end(result)] * count
        outputs = _together([result.outputs for result in results], self.names)
        written = self._all_json(outputs, ends) if outputs is not None else ()
        if written:
            return written
        rows = [
            msgspec.structs.replace(result, outputs=row)
            for result, count in zip(results, counts, strict=True)
            for row in parted(result.outputs, count)
        ]
        return [self.json(row, batched=False) for row in rows]

    def _all_json(self, outputs: Arrays, ends: Iterable[bytes]) -> Sequence[bytes]:
        """The answers to several rows that each come unbatched; () where they have to be written one by one."""
        columns: list[Iterable[bytes]] = []
        for piece in self._pieces:
            column = itertools.repeat(piece) if isinstance(piece, bytes) else rows_json(outputs[piece])
            if column is None:
                return ()
            columns.append(column)
        return [b"".join(parts) for parts in zip(*columns, ends, strict=False)] if self.names else ()

    def _end(self, result: Result) -> bytes:
        return _version(result.version, result.train_step) if self._with_version else b"}"


def response_templates(spec: PolicySpec, serving: ServingInfo) -> ResponseTemplates:
    """Returns the response templates for every function of one policy."""
    templates = {**action_templates(spec, serving), (INITIAL_STATE, False): initial_state_template(spec)}
    if "distribution" in serving.signatures:
        templates["distribution", False] = distribution_template(spec, serving)
    return templates


def action_templates(spec: PolicySpec, serving: ServingInfo, with_state: bool = True) -> ResponseTemplates:
    """Returns the templates of the answers with an action; `with_state`: with the policy state after it."""
    templates = {}
    by_name = {"action": spec.signatures["action"].outputs}
    by_name |= {name: serving.signatures[name].outputs for name in ("greedy", "sample") if name in serving.signatures}
    state = {leaf.name for _, leaf in leaves(spec.state)}
    for name, outputs in by_name.items():
        outputs = {name: output for name, output in outputs.items() if with_state or name not in state}
        templates[name, False] = action_template(spec, outputs, log_prob=False)
        if LOG_PROB in outputs and LOG_PROB in serving.signatures:
            templates[name, True] = action_template(spec, outputs, log_prob=True)
    return templates


def action_template(spec: PolicySpec, outputs: Mapping[str, Any], log_prob: bool) -> ResponseTemplate:
    """Returns that of {"action", "log_prob"?, "policy_state"?, "info"?}; `outputs`: of the function that answers."""

    def build(value: ValueOf) -> dict[str, Any]:
        action = {"action": pack(spec.action, lambda leaf: value(leaf.name))}
        return action | ({LOG_PROB: value(LOG_PROB)} if log_prob else {}) | _rest(spec, outputs, value)

    return ResponseTemplate(build, shapes=_row_shapes(outputs))


def distribution_template(spec: PolicySpec, serving: ServingInfo) -> ResponseTemplate:
    """Returns that of {"distribution": a nest of {"family", …}, "policy_state"?, "info"?}."""

    def build(value: ValueOf) -> dict[str, Any]:
        def described(leaf: Leaf) -> dict[str, Any]:
            info = serving.distributions[leaf.name]
            parameters = {name: value(f"{leaf.name}/{name}") for name in info.parameters}
            statistics = {name: value(f"{leaf.name}/{name}") for name in info.statistics}
            return {"family": info.family, **info.details, "parameters": parameters, **statistics}

        return {"distribution": pack(spec.action, described)} | _rest(spec, outputs, value)

    outputs = serving.signatures["distribution"].outputs
    return ResponseTemplate(build, shapes=_row_shapes(outputs))


def initial_state_template(spec: PolicySpec) -> ResponseTemplate:
    """Returns that of {"policy_state"}, the same for every version."""
    shapes = {leaf.name: leaf.shape for _, leaf in leaves(spec.initial_state)}
    return ResponseTemplate(
        lambda value: {"policy_state": pack(spec.initial_state, lambda leaf: value(leaf.name))}, False, shapes
    )


def _row_shapes(outputs: Mapping[str, Any]) -> dict[str, tuple[int | None, ...]]:
    return {name: tuple(tensor.shape[1:]) for name, tensor in outputs.items() if isinstance(tensor, TensorInfo)}


def _rest(spec: PolicySpec, outputs: Mapping[str, Any], value: ValueOf) -> dict[str, Any]:
    rest = {}
    for key, nest in (("policy_state", spec.state), ("info", spec.info)):
        names = [leaf.name for _, leaf in leaves(nest)]
        if names and all(name in outputs for name in names):
            rest[key] = pack(nest, lambda leaf: value(leaf.name))
    return rest


class _Slot(str):
    """Stands in a template where an output goes; it is the output's name."""

    __slots__ = ()


def _pieces(structure: dict[str, Any]) -> list[bytes | _Slot]:
    """The JSON of the structure without its last brace, cut at each slot."""
    pieces: list[bytes | _Slot] = []
    _write(structure, pieces)
    merged: list[bytes | _Slot] = []
    for piece in pieces:
        if isinstance(piece, bytes) and merged and isinstance(merged[-1], bytes):
            merged[-1] += piece
        else:
            merged.append(piece)
    last = merged.pop()
    assert isinstance(last, bytes), "a structure ends with a brace"
    return [*merged, last[:-1]] if last != b"}" else merged


def _write(value: Any, pieces: list[bytes | _Slot]) -> None:
    if isinstance(value, _Slot):
        pieces.append(value)
    elif isinstance(value, dict):
        for index, (key, child) in enumerate(value.items()):
            pieces.append((b"," if index else b"{") + orjson.dumps(key) + b":")
            _write(child, pieces)
        pieces.append(b"}" if value else b"{}")
    elif isinstance(value, list):
        for index, child in enumerate(value):
            pieces.append(b"," if index else b"[")
            _write(child, pieces)
        pieces.append(b"]" if value else b"[]")
    else:
        pieces.append(orjson.dumps(value))


def _together(outputs: Sequence[Arrays], names: Sequence[str]) -> Arrays | None:
    """The rows of all, one below the other; None where they differ in their shapes or dtypes."""
    if len(outputs) == 1:
        return outputs[0]
    together = {}
    for name in names:
        arrays = [one[name] for one in outputs]
        try:
            together[name] = np.concatenate(arrays, dtype=arrays[0].dtype, casting="no")
        except (TypeError, ValueError):
            return None
    return together


def numbers_json(array: np.ndarray[Any, Any], batched: bool) -> bytes | None:
    """Returns an output's rows, or its only one; None where orjson alone would not write what `json_body` does."""
    if array.dtype.char not in _PLAIN:
        return None
    try:
        # The list of one number rather than the number: orjson writes a float32 by itself as if it were a double.
        listed = batched or array.ndim == 1
        if array.size > FEW_NUMBERS and batched:
            return json_body.in_pieces(array)
        text = orjson.dumps(array if listed else array[0], option=orjson.OPT_SERIALIZE_NUMPY)
    except orjson.JSONEncodeError:  # not contiguous
        return None
    if array.dtype.kind == "f" and b"n" in text:  # null, which stands for what is not finite
        return None
    return text if batched or array.ndim > 1 else text[1:-1]


def rows_json(array: np.ndarray[Any, Any]) -> list[bytes] | None:
    """Returns each row of an output, as `numbers_json` returns the only one; None where it would, or of many numbers.

    All are written at once: for rows of one number that takes a tenth of what it takes one by one.
    """
    text = numbers_json(array, batched=True) if 0 < array.size <= FEW_NUMBERS else None
    if text is None:
        return None
    depth = array.ndim - 1
    opens, closes = b"[" * depth, b"]" * depth
    rows = text[depth + 1 : -depth - 1].split(closes + b"," + opens)
    return [opens + row + closes for row in rows] if depth else rows


@functools.lru_cache(maxsize=256)
def _version(name: str, train_step: int) -> bytes:
    return b',"version":' + orjson.dumps(name) + b',"train_step":%d}' % train_step
