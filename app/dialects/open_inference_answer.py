"""Outputs of a policy → an answer of the Open Inference Protocol v2 over HTTP: JSON, with raw tensors behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from app.dialects.calls import Reply
from app.dialects.open_inference import Model, datatype_of, raw_bytes
from app.inference.response import numbers_json
from app.wire import json_body
from app.wire.tensors import Arrays

_JSON_HEAD = b"application/json"
_BINARY_HEAD = b"application/octet-stream\r\ninference-header-content-length: %d"


class Form:
    """How a request wants its answer. `names`: of the outputs; None for all. `binary`: those that come as raw bytes."""

    def __init__(self, model: Model, id_: str | None, outputs: Mapping[str, bool] | None, binary: bool) -> None:
        self._model = model
        self.id = id_
        self.names = None if outputs is None else tuple(outputs)
        self._binary = outputs or {}
        self._all_binary = binary
        self._key: Any = None
        self._pieces: tuple[list[bytes], Reply] = ([], Reply(b"", b""))

    def reply(self, outputs: Arrays, version: str, train_step: int) -> Reply:
        """Returns the answer with these outputs, which are those that were asked for."""
        arrays = outputs.values()
        key = (version, train_step, *[(array.shape, array.dtype) for array in arrays])
        if key != self._key:
            self._pieces, self._key = self._pieces_of(outputs, version, train_step), key
        before, last = self._pieces
        if not before:
            return Reply(last.head, b"".join([last.body, *map(raw_bytes, arrays)]))
        parts, blobs = [], []
        for piece, (name, array) in zip(before, outputs.items(), strict=True):
            parts.append(piece)
            if self._is_binary(name):
                blobs.append(raw_bytes(array))
                parts.append(b"%d" % len(blobs[-1]))
            else:
                flat = array.reshape(-1)
                parts.append(numbers_json(flat, True) or json_body.encode(flat))
        text = b"".join([*parts, last.body])
        return Reply(_BINARY_HEAD % len(text) if blobs else _JSON_HEAD, b"".join([text, *blobs]))

    def _is_binary(self, name: str) -> bool:
        return self._binary.get(name, self._all_binary)

    def _pieces_of(self, outputs: Arrays, version: str, train_step: int) -> tuple[list[bytes], Reply]:
        """Returns the JSON before each output's data, and its end; all in one where it says all but raw bytes."""
        start: dict[str, Any] = {"model_name": self._model.name, "model_version": version}
        if self.id is not None:
            start["id"] = self.id
        start["parameters"] = {"train_step": train_step}
        pieces, text, sized = [], orjson.dumps(start)[:-1] + b',"outputs":[', True
        for name, array in outputs.items():
            tensor = {"name": name, "datatype": datatype_of(array), "shape": array.shape}
            is_raw = self._is_binary(name)
            sized &= is_raw and array.dtype.kind not in "OSU"
            pieces.append(
                text + orjson.dumps(tensor)[:-1] + (b',"parameters":{"binary_data_size":' if is_raw else b',"data":')
            )
            text = b"}}," if is_raw else b"},"
        end = (text[:-1] if outputs else text) + b"]}"
        if not sized or not outputs:
            return pieces, Reply(_JSON_HEAD, end)
        sizes = [b"%d" % array.nbytes for array in outputs.values()]
        whole = b"".join([part for pair in zip(pieces, sizes, strict=True) for part in pair]) + end
        return [], Reply(_BINARY_HEAD % len(whole), whole)
