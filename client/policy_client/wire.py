"""Nests of arrays → msgpack bytes, and back. docs/reference/binary.md of the server describes the form of a tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

if TYPE_CHECKING:
    from typing_extensions import TypeAlias

MEDIA_TYPE = "application/msgpack"
Array: TypeAlias = np.ndarray[Any, Any]

_SIZED = [f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)]
_DTYPES = {name: np.dtype(name).newbyteorder("<") for name in ("float16", "float32", "float64", *_SIZED, "bool")}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_TENSOR = {"dtype", "shape", "data"}
_NUMBERS = (float, int, bool)


def plain(nest: Any) -> Any:
    """A nest as the server knows it: named tuples as maps of their fields, tuples as lists; leaves as they are."""
    if isinstance(nest, np.ndarray):
        return nest
    if isinstance(nest, dict):
        return {key: plain(child) for key, child in nest.items()}
    if isinstance(nest, tuple) and hasattr(nest, "_fields"):
        return {key: plain(child) for key, child in zip(nest._fields, nest)}
    if isinstance(nest, (list, tuple)):
        return [child if type(child) in _NUMBERS else plain(child) for child in nest]
    return nest


def encode(fields: dict[str, Any]) -> bytes:
    """A request's body: arrays become tensors, and so does whatever NumPy can make an array of.

    Raises:
      TypeError: a leaf of a kind that has no tensors (complex numbers, dates, objects that are no text).
    """
    return _ENCODER.encode(fields)


def decode(content: bytes) -> dict[str, Any]:
    """An answer's fields as msgpack has them.

    Raises:
      ValueError: it is no msgpack map.
    """
    try:
        return _FIELDS.decode(content)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from None


def arrays(value: Any) -> Any:
    """A field's nest with arrays at its leaves, each with memory of its own; text stays text.

    Single numbers come without a dtype: they are arrays without dimensions, of int64, float64 or bool.

    Raises:
      ValueError, TypeError: a tensor that is none.
    """
    if isinstance(value, dict):
        if value.keys() == _TENSOR:
            return np.frombuffer(bytearray(value["data"]), _dtype(value["dtype"])).reshape(value["shape"])
        return {key: arrays(child) for key, child in value.items()}
    if isinstance(value, list):
        return [arrays(child) for child in value]
    return value if isinstance(value, str) else np.asarray(value)


def _dtype(name: Any) -> np.dtype[Any]:
    if name not in _DTYPES:
        raise ValueError(f"a tensor of dtype {name!r}")
    return _DTYPES[name]


def _leaf(leaf: Any) -> Any:
    """What msgspec is to write for a leaf that it does not know."""
    array = leaf if isinstance(leaf, np.ndarray) else np.asarray(leaf)
    name = _NAMES.get(array.dtype)
    if name is None:
        return _leaf(_converted(array)) if array.dtype.kind not in "OSU" else _texts(array)
    if array.ndim == 0:
        return array.item()
    if not array.flags.c_contiguous:
        array = np.ascontiguousarray(array)
    return {"dtype": name, "shape": array.shape, "data": array.reshape(-1).view(np.uint8).data}


def _converted(array: Array) -> Array:
    """The same numbers in a dtype that tensors have."""
    if array.dtype.name in _DTYPES:  # of the other byte order
        return array.astype(_DTYPES[array.dtype.name])
    if array.dtype.name == "bfloat16":
        return array.astype(np.float32)
    raise TypeError(f"an array of dtype {array.dtype} cannot be sent; expected numbers, booleans or text")


def _texts(array: Array) -> Any:
    def text(value: Any) -> Any:
        if isinstance(value, list):
            return [text(item) for item in value]
        if isinstance(value, bytes):
            return value.decode()
        if isinstance(value, str):
            return value
        raise TypeError(f"a {type(value).__name__} cannot be sent; expected numbers, booleans or text")

    return text(array.tolist())


_FIELDS = msgspec.msgpack.Decoder(dict[str, Any])
_ENCODER = msgspec.msgpack.Encoder(enc_hook=_leaf)
