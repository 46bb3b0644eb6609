"""Answers of one connection → OpenPI's results. What stands around their numbers is written once, as long as it stays.

From step to step of an episode only the numbers differ, until other weights answer.
"""

from __future__ import annotations

import os
import re
import struct
from typing import Any, NamedTuple

import numpy as np
from msgspec import Raw
from msgspec.msgpack import Encoder

from app.batching.rule import Result
from app.dialects.openpi import actions_of
from app.dialects.openpi_arrays import around, encode
from app.inference.response import ResponseTemplate
from app.wire.tensors import Arrays

# No client can guess it, so that it stands nowhere else in an answer.
_MARK = os.urandom(16)
_GAP = re.compile(re.escape(_MARK) + b"(.)", re.DOTALL)
_MOST_GAPS = 255
_TIME = struct.Struct(">d")


class ResultWriter:
    """Writes the results of one connection."""

    def __init__(self) -> None:
        self._pieces: _Pieces | None = None

    def write(self, template: ResponseTemplate, result: Result, batched: bool, infer_ms: float) -> bytes:
        """Returns the message with a result. `infer_ms`: how long it took."""
        known = self._pieces
        if (
            known is None
            or known.template is not template
            or known.batched is not batched
            or known.version != (result.version, result.train_step)
        ):
            known = self._pieces = _Pieces.of(template, result, batched)
        message = known.filled(result.outputs, infer_ms) if known is not None else None
        if message is None:
            self._pieces = None
            message = encode(actions_of(template.structure(result, batched), infer_ms, encode))
        return message


class _Gap:
    """Stands in an answer where the numbers of an output go, or the time that it took."""

    def __init__(self, number: int, around: tuple[bytes, bytes]) -> None:
        head, tail = around
        self.raw = Raw(b"".join((head, _MARK, bytes((number,)), tail)))

    def __getitem__(self, _: Any) -> _Gap:
        return self


class _Output(NamedTuple):
    """The output that goes into a gap: `shape` is [rows, …]."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class _Pieces(NamedTuple):
    """What stands before the first gap, and behind each one with what goes into it: an output; None is the time."""

    template: ResponseTemplate
    batched: bool
    version: tuple[str, int]
    first: bytes
    rest: list[tuple[_Output | None, bytes]]

    @classmethod
    def of(cls, template: ResponseTemplate, result: Result, batched: bool) -> _Pieces | None:
        """Returns the pieces of answers like this one; None where some of its outputs are no usual numbers."""
        outputs = [_Output(name, result.outputs[name].dtype, result.outputs[name].shape) for name in template.names]
        if len(outputs) > _MOST_GAPS or not all(dtype.kind in "biuf" and dtype.isnative for _, dtype, _ in outputs):
            return None
        gaps: dict[str, Any] = {}
        for number, (name, dtype, shape) in enumerate(outputs, start=1):
            gaps[name] = _Gap(number, around(dtype.newbyteorder("<"), shape if batched else shape[1:]))
        structure = template.structure(Result(gaps, result.version, result.train_step), batched)
        body = _ENCODER.encode(actions_of(structure, _Gap(0, (b"\xcb", b"")), _ENCODER.encode))
        first, *found = _GAP.split(body)
        numbers, rest = found[::2], found[1::2]
        filled = [outputs[number[0] - 1] if number[0] else None for number in numbers]
        return cls(template, batched, (result.version, result.train_step), first, list(zip(filled, rest, strict=True)))

    def filled(self, outputs: Arrays, infer_ms: float) -> bytes | None:
        """Returns the message; None where an output has changed its kind."""
        parts = [self.first]
        for output, behind in self.rest:
            if output is None:
                parts += (_TIME.pack(infer_ms), behind)
                continue
            name, dtype, shape = output
            array = outputs[name]
            if array.dtype != dtype or array.shape != shape:
                return None
            parts += (array.tobytes(), behind)
        return b"".join(parts)


def _raw(gap: _Gap) -> Raw:
    return gap.raw


_ENCODER = Encoder(enc_hook=_raw)
