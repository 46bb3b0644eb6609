"""JSON bytes → Python structure; structure of NumPy arrays → JSON bytes."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import orjson

from app.errors import NotJson
from app.offload import let_others_run
from app.wire.limits import FEW_NUMBERS

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY


def decode(body: bytes) -> dict[str, Any]:
    """Decodes the object in a request's body; an empty body is an empty object.

    The words NaN, Infinity and -Infinity are no JSON, but Python and C++ clients write them: they are read
    here as floats, so that the refusal can name the field.

    Raises:
      NotJson: no JSON, or JSON of another kind than an object; the message says where.
    """
    if not body:
        return {}
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        data = decode_loosely(body, str(error))
    if not isinstance(data, dict):
        raise no_object(data)
    return data


def no_object(data: Any) -> NotJson:
    """Returns the error for a body that is JSON of another kind."""
    return NotJson(f"the body is a JSON {_kind(data)}, expected an object", is_json=True)


def decode_string(text: memoryview) -> str:
    """Decodes a JSON string with its quotes.

    Raises:
      NotJson: it is none.
    """
    try:
        found: str = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise NotJson(f"the body is not JSON: {error}") from None
    return found


def encode(structure: Any) -> bytes:
    """Encodes nested dicts and lists with arrays at the leaves as JSON. Floats keep their shortest exact form.

    JSON has no non-finite numbers: they become the strings "NaN", "Infinity" and "-Infinity".
    """
    return orjson.dumps(_plain(structure), option=_OPTIONS)


def decode_loosely(body: bytes, problem: str) -> Any:
    """Decodes JSON that may have Python's words for non-finite numbers; `problem`: why it is none without them.

    Raises:
      NotJson: it is none with them.
    """
    try:
        data = json.loads(body.decode())
        # Half of a surrogate pair is no text: it could not be repeated in an answer.
        json.dumps(data, ensure_ascii=False).encode()
        return data
    except (ValueError, RecursionError):
        raise NotJson(f"the body is not JSON: {problem}") from None


def _plain(structure: Any) -> Any:
    """Makes lists of the arrays that orjson would not write as they should be."""
    if isinstance(structure, dict):
        return {key: _plain(value) for key, value in structure.items()}
    if isinstance(structure, list):
        return [_plain(value) for value in structure]
    if isinstance(structure, np.ndarray | np.generic):
        return _plain_array(np.asarray(structure))
    if isinstance(structure, float) and not math.isfinite(structure):
        return _word(structure)
    return structure


def in_pieces(array: np.ndarray[Any, Any]) -> bytes:
    """Encodes an array with many rows as `encode` does, without a call that takes long."""
    rows = max(1, FEW_NUMBERS * len(array) // array.size)
    pieces = []
    for at in range(0, len(array), rows):
        pieces.append(orjson.dumps(_plain_array(array[at : at + rows]), option=_OPTIONS)[1:-1])
        let_others_run()
    return b"[" + b",".join(pieces) + b"]"


def _plain_array(array: np.ndarray[Any, Any]) -> Any:
    if array.size > 2 * FEW_NUMBERS and array.ndim and len(array) > 1:
        return orjson.Fragment(in_pieces(array))
    if array.dtype.kind in "OSU":
        return texts(array.tolist())
    if array.dtype.kind not in "biuf" or array.dtype == np.float16:  # bfloat16 has a kind of its own
        array = array.astype(np.float32)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return _words(array.astype(np.float64).tolist())
    if array.ndim == 0:
        # orjson writes a float32 scalar as a double; through an array of one it keeps its shortest form.
        return orjson.Fragment(orjson.dumps(array.reshape(1), option=_OPTIONS)[1:-1])
    return np.ascontiguousarray(array)


def _words(value: Any) -> Any:
    if isinstance(value, list):
        return [_words(item) for item in value]
    return value if math.isfinite(value) else _word(value)


def _word(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def texts(value: Any) -> Any:
    """Makes text of all strings in nested lists."""
    if isinstance(value, list):
        return [texts(item) for item in value]
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _kind(data: Any) -> str:
    if data is None:
        return "null"
    return {list: "array", str: "string", bool: "boolean"}.get(type(data), "number")
