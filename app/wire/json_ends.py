"""A JSON body and the start of a list, an object or a string in it → where that ends.

Brackets and quotes are searched with NumPy in slices, so that no call takes long and nothing is made of what lies
between them.
"""

from __future__ import annotations

import numpy as np

from app.errors import NotJson
from app.offload import let_others_run
from app.wire.tensors import Array

# Most values end soon: the first slice is short, and each has twice the size of the one before, up to the longest.
_FIRST_STEP = 256
_STEP = 64 * 1024
_OPEN, _CLOSE, _QUOTE = 0x7B, 0x7D, 0x22


def end_of(body: bytes, at: int) -> int:
    """Returns where the list or object that starts at `at` ends.

    Raises:
      NotJson: it does not.
    """
    depth, inside = 0, 0
    size = min(_FIRST_STEP, _STEP)
    while at < len(body):
        let_others_run()
        stop = _step_end(body, at, size)
        chunk = body[at:stop]
        marks, inside = _marks(chunk, inside)
        places = np.flatnonzero((marks == _OPEN) | (marks == _CLOSE))
        if places.size:
            depths = depth + np.cumsum(np.where(marks[places] == _OPEN, 1, -1))
            ends = np.flatnonzero(depths <= 0)
            if ends.size:
                return at + int(places[ends[0]]) + 1
            depth = int(depths[-1])
        at, size = stop, min(2 * size, _STEP)
    raise NotJson(f"the body is not JSON: it ends within a list or an object, after {len(body)} bytes")


def end_of_string(body: bytes, at: int) -> int:
    """Returns where the string that starts at `at` ends; raises as `end_of` does."""
    at += 1
    size = min(_FIRST_STEP, _STEP)
    while at < len(body):
        let_others_run()
        stop = _step_end(body, at, size)
        place = _without_escapes(body[at:stop]).find(b'"')
        if place >= 0:
            return at + place + 1
        at, size = stop, min(2 * size, _STEP)
    raise NotJson(f"the body is not JSON: it ends within a string, after {len(body)} bytes")


def _step_end(body: bytes, at: int, size: int) -> int:
    """Returns the end of a slice of `size` bytes, or one more, from `at` on: never before what a backslash escapes."""
    stop = min(at + size, len(body))
    chunk = body[at:stop]
    backslashes = len(chunk) - len(chunk.rstrip(b"\\"))
    return min(stop + backslashes % 2, len(body))


def _without_escapes(chunk: bytes) -> bytes:
    """Replaces escaped quotes and backslashes, and keeps the length."""
    if b"\\" not in chunk:
        return chunk
    return chunk.replace(b"\\\\", b"__").replace(b'\\"', b"__")


def _marks(chunk: bytes, inside: int) -> tuple[Array, int]:
    """Returns the bytes with all brackets as braces and 0 within strings; `inside`: 1 where the chunk starts in one."""
    if inside or b'"' in chunk:
        raw = np.frombuffer(_without_escapes(chunk), np.uint8)
        parity = (np.cumsum(raw == _QUOTE, dtype=np.uint8) + np.uint8(inside)) & 1
        return np.where(parity, 0, raw | 0x20), int(parity[-1])
    return np.frombuffer(chunk, np.uint8) | 0x20, 0
