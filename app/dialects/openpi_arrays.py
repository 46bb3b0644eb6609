"""OpenPI's values: msgpack in which arrays are maps, as its clients write them ⇄ nests of NumPy arrays.

An array is a map with bytes as keys: `__ndarray__`, `data`, `dtype` (NumPy's `dtype.str`), `shape`; a NumPy scalar
has `__npgeneric__`.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from msgspec import Raw
from msgspec.msgpack import Decoder, Encoder

from app.errors import DoesNotFit, NotMsgpack, Problem
from app.wire.limits import SMALL_BYTES
from app.wire.msgpack_body import DTYPES, array_over, inside, kind_of, numbers_or_texts, plain_of, reason
from app.wire.tensors import show

# Maps and lists inside each other: deeper than any policy's nest.
_MOST_LEVELS = 16
# Of lists of numbers in one message: each number becomes an object.
_LIST_BYTES = 2**20
# Strings in the arrays of one message: each becomes an object, in calls that nothing else runs beside.
_MOST_TEXTS = 2**14
# Bytes of a shape, or of a dtype's name.
_LONGEST_PART = 256
_ARRAY, _SCALAR = b"__ndarray__", b"__npgeneric__"
_PARTS = {_ARRAY, b"data", b"dtype", b"shape"}
_DTYPES = {dtype.str: dtype for dtype in DTYPES.values()}
_DTYPES |= {dtype.newbyteorder(">").str: dtype.newbyteorder(">") for dtype in DTYPES.values()}
_TEXT = re.compile(r"(?:[<>]U|\|S)[1-9]\d{0,5}")

_LAST_CHARACTER, _SURROGATES = 0x10FFFF, 0xD800 >> 11

_BY_TEXT = Decoder(dict[str, Raw])
_BY_BYTES = Decoder(dict[bytes, Raw])
_LIST = Decoder(list[Raw])
_ANYTHING = Decoder()
_DATA = Decoder(memoryview)  # of the message itself, where bytes would be a copy


def encode(structure: Any) -> bytes:
    """Encodes nested dicts and lists with arrays at the leaves."""
    return _ENCODER.encode(structure)


def _array_map(leaf: Any) -> Any:
    array = numbers_or_texts(leaf)
    if not isinstance(array, np.ndarray):
        return array
    head, tail = around(array.dtype.newbyteorder("<"), array.shape)
    return Raw(b"".join((head, array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes(), tail)))


@functools.lru_cache(maxsize=256)
def around(dtype: np.dtype[Any], shape: tuple[int, ...]) -> tuple[bytes, bytes]:
    """Returns what stands before and behind the bytes of an array."""
    size = math.prod(shape) * dtype.itemsize
    data = Encoder().encode(bytes(size))
    head = b"\x84" + b"".join(map(Encoder().encode, (_ARRAY, True, b"data"))) + data[: len(data) - size]
    return head, b"".join(map(Encoder().encode, (b"dtype", dtype.str, b"shape", shape)))


_ENCODER = Encoder(enc_hook=_array_map)


def decoded(body: bytes, most_keys: int) -> Any:
    """Returns the value of a message; `most_keys`: the most that all its maps may have together.

    Raises:
      NotMsgpack: the bytes are none.
      DoesNotFit: an array that is none, or too much of something.
    """
    if not body:
        raise NotMsgpack("the message is empty, expected a map of the observation")
    try:
        return _Values(most_keys).value(Raw(body), "", 0)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotMsgpack(f"the message is not msgpack: {reason(error, body, '')}") from None


class _Values:
    """Decodes the values of one message; `most_keys`: in all its maps together, where none of them is an array."""

    def __init__(self, most_keys: int) -> None:
        self._most_keys = self._left = most_keys
        self._list_bytes = _LIST_BYTES
        self._texts = _MOST_TEXTS

    def value(self, raw: Raw, where: str, level: int) -> Any:
        """Returns a value; raises as `MessageReader.read` does, or msgspec's errors."""
        view = memoryview(raw)
        kind = kind_of(view[0])
        if kind == "a map":
            return self._map(raw, view, where, level)
        if kind == "an array":
            return self._list(raw, view, where, level)
        return _ANYTHING.decode(raw)

    def _map(self, raw: Raw, view: memoryview, where: str, level: int) -> Any:
        if level > _MOST_LEVELS:
            raise NotMsgpack(f"{where} is nested too deep, expected at most {_MOST_LEVELS} levels")
        count, at = _counted(view)
        if len(view) > at and 0xC4 <= view[at] <= 0xC6:
            if count > len(_PARTS):
                raise _unfit(where, f"a map of {count} entries with bytes as keys", "an array, or names as keys")
            return self._of_numpy(_BY_BYTES.decode(raw), where)
        self._left -= count
        if self._left < 0:
            raise _unfit(where or "the message", "too many entries", f"at most {self._most_keys} in all maps")
        fields = _BY_TEXT.decode(raw)
        return {key: self.value(item, inside(where, key) if where else key, level + 1) for key, item in fields.items()}

    def _list(self, raw: Raw, view: memoryview, where: str, level: int) -> Any:
        if len(view) > SMALL_BYTES and _counted(view)[0] > self._most_keys:
            raise _unfit(where or "observation", f"a list of {len(view)} bytes", "an array for so many numbers")
        if level > _MOST_LEVELS:
            raise NotMsgpack(f"{where} is nested too deep, expected at most {_MOST_LEVELS} levels")
        if len(view) <= SMALL_BYTES and view.tobytes().find(b"\xc4") < 0:  # no map of ours, so that no item is one
            self._list_bytes -= len(view)
            if self._list_bytes < 0:
                raise _unfit(
                    where or "observation", f"more than {_LIST_BYTES} bytes of lists", "arrays for so many numbers"
                )
            return plain_of(raw)
        return [self.value(item, f"{where}[{index}]", level + 1) for index, item in enumerate(_LIST.decode(raw))]

    def _of_numpy(self, parts: dict[bytes, Raw], where: str) -> Any:
        """Returns the array, or the number, that a map with bytes as keys stands for."""
        if _SCALAR in parts:
            _dtype(parts, where)
            value = _part(parts, b"data", where)
            if not isinstance(value, int | float | str):
                raise _unfit(f"{where}.data", show(value), "a number, a boolean or a string")
            return value
        if parts.keys() != _PARTS:
            found = ", ".join(sorted(ascii(key[:40]) for key in parts))
            raise _unfit(where, f"a map with the keys {found}", "b'__ndarray__', b'data', b'dtype', b'shape'")
        dtype = _dtype(parts, where)
        shape = _part(parts, b"shape", where)
        raw = parts[b"data"]
        data = _DATA.decode(raw) if 0xC4 <= memoryview(raw)[0] <= 0xC6 else _part(parts, b"data", where)
        if dtype.kind in "US":
            array = array_over(data, dtype, shape, where)
            self._texts -= array.size
            if self._texts < 0:
                raise _unfit(where, f"strings, more than {_MOST_TEXTS} in one message", "fewer, or numbers")
            return _texts(data, array, where)
        return array_over(data, dtype, shape, where)


def _counted(view: memoryview) -> tuple[int, int]:
    """Returns how many entries a map or a list has, and where the first one starts."""
    tag = view[0]
    if tag < 0xC0:
        return tag & 0x0F, 1
    size = 2 if tag in (0xDC, 0xDE) else 4
    return int.from_bytes(view[1 : 1 + size], "big"), 1 + size


def _texts(data: Any, array: np.ndarray[Any, Any], where: str) -> Any:
    if array.dtype.kind == "U" and array.size:
        codes = np.frombuffer(data, f"{array.dtype.str[0]}u4")
        if ((codes > _LAST_CHARACTER) | ((codes >> 11) == _SURROGATES)).any():  # NumPy makes a bug of them
            raise _unfit(f"{where}.data", "a character that is none", "strings")
    return array.tolist()


def _dtype(parts: Mapping[bytes, Raw], where: str) -> np.dtype[Any]:
    text = _part(parts, b"dtype", where)
    if isinstance(text, str):
        found = _DTYPES.get(text)
        if found is not None:
            return found
        if _TEXT.fullmatch(text):
            return np.dtype(text)
    raise _unfit(f"{where}.dtype", show(text), f"NumPy's dtype.str: one of {', '.join(_DTYPES)}, or of strings")


def _part(parts: Mapping[bytes, Raw], key: bytes, where: str) -> Any:
    raw = parts.get(key)
    if raw is None:
        raise _unfit(where, f"has no {key.decode()}", "b'data' and b'dtype'")
    if len(memoryview(raw)) > _LONGEST_PART:
        raise _unfit(f"{where}.{key.decode()}", f"{len(memoryview(raw))} bytes", f"at most {_LONGEST_PART}")
    return _ANYTHING.decode(raw)


def _unfit(where: str, problem: str, expected: str) -> DoesNotFit:
    return DoesNotFit([Problem(where or "the message", problem, expected)])
