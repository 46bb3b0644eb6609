"""JSON bytes → Python structure; structure of NumPy arrays → JSON bytes."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import orjson

from app.errors import NotJson

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY


def decode(body: bytes) -> dict[str, Any]:
    """The object in a request's body; an empty body is an empty object.

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
        data = _decode_loosely(body, str(error))
    if not isinstance(data, dict):
        raise NotJson(f"the body is a JSON {_kind(data)}, expected an object")
    return data


def encode(structure: Any) -> bytes:
    """Nested dicts and lists with arrays at the leaves → JSON. Floats keep their shortest exact form.

    JSON has no non-finite numbers: they become the strings "NaN", "Infinity" and "-Infinity".
    """
    return orjson.dumps(_plain(structure), option=_OPTIONS)


def _decode_loosely(body: bytes, problem: str) -> Any:
    try:
        data = json.loads(body.decode())
        # Half of a surrogate pair is no text: it could not be repeated in an answer.
        json.dumps(data, ensure_ascii=False).encode()
        return data
    except (ValueError, RecursionError):
        raise NotJson(f"the body is not JSON: {problem}") from None


def _plain(structure: Any) -> Any:
    """Arrays that orjson writes as they should be stay arrays; the others become lists."""
    if isinstance(structure, dict):
        return {key: _plain(value) for key, value in structure.items()}
    if isinstance(structure, list):
        return [_plain(value) for value in structure]
    if isinstance(structure, np.ndarray | np.generic):
        return _plain_array(np.asarray(structure))
    if isinstance(structure, float) and not math.isfinite(structure):
        return _word(structure)
    return structure


def _plain_array(array: np.ndarray[Any, Any]) -> Any:
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
    """Nested lists of strings, as text throughout."""
    if isinstance(value, list):
        return [texts(item) for item in value]
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _kind(data: Any) -> str:
    if data is None:
        return "null"
    return {list: "array", str: "string", bool: "boolean"}.get(type(data), "number")
