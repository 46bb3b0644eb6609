"""The outputs of a policy → the body of a predict answer: `predictions` in rows, or `outputs` in columns."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from app.dialects.tensorflow_serving.inputs import B64
from app.offload import let_others_run
from app.wire import json_body
from app.wire.tensors import Array

# Strings in outputs of such names are bytes.
_BYTES = "_bytes"


def head_of(version: str, train_step: int) -> bytes:
    """Returns the head of an answer: its content type, and the version that has answered."""
    return b"application/json\r\npolicy-version: %b\r\npolicy-train-step: %d" % (version.encode(), train_step)


def write(outputs: Mapping[str, Any], in_rows: bool) -> bytes:
    """Writes the body of an answer: bare values where there is one output, else objects.

    Floats have their shortest exact form; those that are not finite are the bare words of TensorFlow Serving.
    """
    if len(outputs) == 1:
        ((name, value),) = outputs.items()
        return b'{"%b":%b}' % (b"predictions" if in_rows else b"outputs", _text(name, value))
    if not in_rows:
        named = [b"%b:%b" % (orjson.dumps(name), _text(name, value)) for name, value in outputs.items()]
        return b'{"outputs":{%b}}' % b",".join(named)
    columns = [_row_texts(name, value) for name, value in outputs.items()]
    rows = [b"{%b}" % b",".join(row) for row in zip(*columns, strict=True)]
    return b'{"predictions":[%b]}' % b",".join(rows)


def _row_texts(name: str, array: Array) -> list[bytes]:
    """Returns the text of an output in each row, behind its name."""
    before = orjson.dumps(name) + b":"
    if array.ndim == 1 and array.dtype.kind in "biuf":
        return [before + text for text in _text(name, array)[1:-1].split(b",")]
    texts = []
    for row in array:
        texts.append(before + _text(name, np.asarray(row)))
        let_others_run()
    return texts


def _text(name: str, value: Any) -> bytes:
    if not isinstance(value, np.ndarray):
        return json.dumps(value).encode()  # metadata, which may be integers of any size
    if value.dtype.kind in "OSU":
        return orjson.dumps(_encoded(value.tolist()) if name.endswith(_BYTES) else json_body.texts(value.tolist()))
    text = json_body.encode(value)
    return text.replace(b'"', b"") if b'"' in text else text


def _encoded(value: Any) -> Any:
    """Puts {"b64": …} in the place of all strings in nested lists."""
    if isinstance(value, list):
        return [_encoded(item) for item in value]
    raw = value if isinstance(value, bytes) else str(value).encode()
    return {B64: base64.b64encode(raw).decode()}
