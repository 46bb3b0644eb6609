"""Msgpack bytes → Python structure with tensors as views of those bytes; structure of arrays → msgpack bytes.

A tensor is a map of exactly `dtype`, `shape` and `data`; docs/reference/binary.md shows it byte by byte.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import msgspec
import numpy as np
from msgspec import Raw
from msgspec.msgpack import Decoder, Encoder

from app.errors import DoesNotFit, NotMsgpack, Problem
from app.wire.json_body import texts
from app.wire.tensors import Array, show

_SIZED = [f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)]
DTYPES = {name: np.dtype(name).newbyteorder("<") for name in ("float16", "float32", "float64", *_SIZED, "bool")}
# More dimensions than NumPy has, and deeper maps than any policy's nest: each level is gone through once more.
_MOST_DIMENSIONS = 32
_MOST_LEVELS = 16
# More lists and maps in a field than any nest has, whose tensors are searched in Python.
_MOST_NESTS = 1024


class RawTensor(msgspec.Struct, forbid_unknown_fields=True):
    """A tensor as it is sent."""

    dtype: str
    shape: list[int]
    data: memoryview  # of the body itself, where bytes would be a copy


def _nested(*items: Any) -> Any:
    """The type of such an item, or of lists of them."""
    kind: Any = int | float | bool | str | None
    for item in items:
        kind |= item
    scalar = kind
    for _ in range(_MOST_DIMENSIONS):
        kind = scalar | list[kind]
    return kind


_FIELDS = Decoder(dict[str, Raw])
_TENSORS = Decoder(dict[str, RawTensor | int | float | bool | str | None])
_TENSOR = Decoder(RawTensor)
_PLAIN = Decoder(_nested())
_WITH_TENSORS = Decoder(_nested(RawTensor))
_ANYTHING = Decoder()


def decode(body: bytes) -> dict[str, Any]:
    """Decodes the map in a request's body, its tensors as read-only arrays over `body`; an empty body is an empty map.

    Raises:
      NotMsgpack: no msgpack, or no map; the message says where.
      DoesNotFit: a tensor that is none: unknown dtype, a shape of something else, too few bytes or too many.
    """
    if not body:
        return {}
    if kind_of(body[0]) != "a map":
        raise NotMsgpack(f"the body begins with 0x{body[0]:02x}, {kind_of(body[0])}, expected a map")
    where = ""
    try:
        fields = _FIELDS.decode(body)
        found = {}
        for where, raw in fields.items():
            found[where] = value_of(raw, where, 1)
        return found
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotMsgpack(f"the body is not msgpack: {reason(error, body, where)}") from None


def decode_tensors(body: bytes) -> dict[str, Any] | None:
    """Decodes a body of a few tensors and single values; None of any other. Never takes long."""
    if not 0x80 <= body[0] <= 0x8F:
        return None
    try:
        tensors = _TENSORS.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return {
        name: _array(value.dtype, value.shape, value.data, name) if isinstance(value, RawTensor) else value
        for name, value in tensors.items()
    }


def tensor_in(fields: dict[str, Any], where: str) -> Array | None:
    """Returns the tensor that a map stands for; None where it is just a map. Raises as `decode` does."""
    if fields.keys() != set(RawTensor.__struct_fields__):
        return None
    return _array(fields["dtype"], fields["shape"], fields["data"], where)


def plain_of(raw: bytes) -> Any:
    """Decodes numbers, booleans and strings in nested lists; maps among them stay as they are."""
    with suppress(msgspec.ValidationError):
        return _PLAIN.decode(raw)
    return _ANYTHING.decode(raw)


def encode(structure: Any) -> bytes:
    """Encodes nested dicts and lists with arrays at the leaves as msgpack.

    Arrays with dimensions become tensors; single values and strings are msgpack's own.
    """
    return _ENCODER.encode(structure)


def value_of(raw: Raw, where: str, level: int = 1) -> Any:
    """Returns the value of one field. Only maps inside lists are copied on the way."""
    kind = kind_of(memoryview(raw)[0])
    if kind == "a map":
        with suppress(msgspec.ValidationError):
            tensor = _TENSOR.decode(raw)
            return _array(tensor.dtype, tensor.shape, tensor.data, where)
        return _map(raw, where, level)
    if kind == "an array":
        with suppress(msgspec.ValidationError):
            return _PLAIN.decode(raw)
        with suppress(msgspec.ValidationError):
            return _with_arrays(_WITH_TENSORS.decode(raw), where)
    return _with_arrays(_ANYTHING.decode(raw), where)


def _map(raw: Raw, where: str, level: int) -> Any:
    if level > _MOST_LEVELS:
        raise NotMsgpack(f"{where} is nested too deep, expected at most {_MOST_LEVELS} levels")
    fields = _FIELDS.decode(raw)
    if fields.keys() == set(RawTensor.__struct_fields__):
        return _with_arrays(_ANYTHING.decode(raw), where)  # says what is wrong with it
    return {key: value_of(value, inside(where, key), level + 1) for key, value in fields.items()}


def _with_arrays(value: Any, where: str) -> Any:
    """Puts arrays in the place of tensors."""
    return _Replaced().of(value, where)


class _Replaced:
    """Puts arrays in the place of tensors, as far as there are as many lists and maps as a nest may have."""

    def __init__(self) -> None:
        self._left = _MOST_NESTS

    def of(self, value: Any, where: str) -> Any:
        """Returns the value, or what it becomes; what lies beyond the bound stays as it is: it fits no spec."""
        if not isinstance(value, list | dict | RawTensor):
            return value
        self._left -= 1
        if self._left < 0:
            return value
        if isinstance(value, list):
            return self._list(value, where)
        if isinstance(value, RawTensor):
            return _array(value.dtype, value.shape, value.data, where)
        if value.keys() == set(RawTensor.__struct_fields__):
            return _array(value["dtype"], value["shape"], value["data"], where)
        for key in list(value)[: self._left]:
            value[key] = self.of(value[key], inside(where, key))
        return value

    def _list(self, value: list[Any], where: str) -> list[Any]:
        for index, item in enumerate(value):
            if isinstance(item, list | dict | RawTensor):
                if self._left <= 0:
                    break
                value[index] = self.of(item, f"{where}[{index}]")
        return value


def _array(dtype: Any, shape: Any, data: Any, where: str) -> Array:
    """Makes a view of `data`.

    Raises:
      DoesNotFit: the three do not make an array.
    """
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _unfit(f"{where}.dtype", show(dtype), f"one of {', '.join(DTYPES)}")
    return array_over(data, DTYPES[dtype], shape, where)


def array_over(data: Any, dtype: np.dtype[Any], shape: Any, where: str) -> Array:
    """Makes a view of `data`, which is to be so many bytes as the array has.

    Raises:
      DoesNotFit: the three do not make an array.
    """
    if not _is_shape(shape):
        raise _unfit(f"{where}.shape", show(shape), f"a list of at most {_MOST_DIMENSIONS} integers, none below 0")
    if not isinstance(data, bytes | memoryview):
        raise _unfit(f"{where}.data", show(data), "raw bytes (msgpack's bin)")
    size = math.prod(shape) * dtype.itemsize
    if len(data) != size:
        raise _unfit(f"{where}.data", f"{len(data)} bytes", f"{size} bytes: {dtype.name} of shape {shape}")
    try:
        array: Array = np.ndarray(shape, dtype, data)
    except ValueError:  # of no size, but with dimensions beyond all memory
        raise _unfit(f"{where}.shape", str(shape), "smaller dimensions") from None
    if dtype.kind == "b":
        _check_booleans(array.view(np.uint8), where)
    return array


def _is_shape(shape: Any) -> bool:
    return (
        isinstance(shape, list)
        and len(shape) <= _MOST_DIMENSIONS
        and all(type(size) is int and size >= 0 for size in shape)
    )


def _check_booleans(array: Array, where: str) -> None:
    if array.size and array.max() > 1:
        at = int((array.reshape(-1) > 1).argmax())
        raise _unfit(f"{where}.data[{at}]", f"the byte {array.reshape(-1)[at]}", "0 or 1, for false or true")


def _unfit(where: str, problem: str, expected: str) -> DoesNotFit:
    return DoesNotFit([Problem(where, problem, expected)])


def inside(where: str, key: Any) -> str:
    """Returns the name of an entry's place, for messages."""
    return f"{where}.{key}"[:200]


def reason(error: Exception, body: bytes, where: str) -> str:
    """Says where the fault lies: at a byte of the body, or of the value of the field `where`."""
    at = f"in the value of {where[:100]!r}: " if where else ""
    if isinstance(error, UnicodeDecodeError):
        return f"{at}a string that is not UTF-8"
    if isinstance(error, RecursionError):
        return f"{at}nested too deep"
    if isinstance(error, msgspec.ValidationError):  # all that `_FIELDS` asks for
        return f"{at}a map with a key that is no string"
    if "truncated" in str(error):
        return f"it ends within a value, after {len(body)} bytes"
    return at + str(error).removeprefix("MessagePack data is malformed: ")


def kind_of(tag: int) -> str:
    """Returns msgpack's name for a value that starts with this byte."""
    if tag < 0x80 or tag >= 0xE0 or 0xCA <= tag <= 0xD3:
        return "a number"
    if tag <= 0x8F or tag in (0xDE, 0xDF):
        return "a map"
    if tag <= 0x9F or tag in (0xDC, 0xDD):
        return "an array"
    if tag <= 0xBF or 0xD9 <= tag <= 0xDB:
        return "a string"
    if tag <= 0xC3:
        return ("nil", "no msgpack", "a boolean", "a boolean")[tag - 0xC0]
    return "raw bytes" if tag <= 0xC6 else "an extension"


def numbers_or_texts(leaf: Any) -> Array | Any:
    """Returns a leaf of an answer as an array of booleans or numbers that every NumPy has, or as lists of strings."""
    array = np.asarray(leaf)
    if array.dtype.kind in "OSU":
        return texts(array.tolist())
    if array.dtype.kind not in "biuf":  # bfloat16 has a kind of its own
        return array.astype(np.float32)
    return array


def _plain(leaf: Any) -> Any:
    """Returns what msgspec writes for an array, or a number of NumPy's."""
    array = numbers_or_texts(leaf)
    if not isinstance(array, np.ndarray):
        return array
    if array.ndim == 0:
        return array.item()
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return {"dtype": array.dtype.name, "shape": array.shape, "data": little.reshape(-1).view(np.uint8).data}


_ENCODER = Encoder(enc_hook=_plain)
