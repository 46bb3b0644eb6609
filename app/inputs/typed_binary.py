"""The bytes of a usual msgpack request, all of tensors → arrays, decoded and checked in one go; or None.

What does not fit is not refused here, but by `InputValidator`, as in `typed.py`. What both take, they read alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET

from app.inputs.bounds import ends_of, lie_between
from app.inputs.options import Options
from app.inputs.typed_fields import NO_OPTIONS, Field, NotTypable, nest_type, options_of, request_type
from app.inputs.validate import Inputs
from app.wire.msgpack_body import DTYPES, RawTensor
from app.wire.tensors import Array, Arrays, all_finite
from saver.artifact import Leaf, Nest

# So many numbers are looked at one by one, in less time than a call of NumPy's takes.
_FEW = 16
_BOOLEANS = b"\0\1"


class BinaryDecoder:
    """Reads requests of `action` and `distribution` for one policy.

    Args:
      fields: those of the spec.
      more: fields beside them, by their attributes in the decoded struct: their names and types.
      rows_limit: no more are read in one request.
    """

    def __init__(self, fields: Sequence[Field], more: Mapping[str, tuple[str, Any]], rows_limit: int) -> None:
        self._rows_limit = rows_limit
        self._has_state = any(field.is_state and field.parts for field in fields)
        self._decoder: msgspec.msgpack.Decoder[Any] | None = None
        try:
            self._fields = [
                (field, [(get, _TypedTensor(leaf, field.is_step_type)) for leaf, get in field.parts])
                for field in fields
            ]
            self._decoder = msgspec.msgpack.Decoder(request_type(fields, more, _type_of))
        except NotTypable:
            pass

    def read(self, body: bytes) -> tuple[Inputs, Options, Any] | None:
        """Reads a body; the third is what was decoded, with the extra fields as its attributes."""
        if self._decoder is None:
            return None
        try:
            request = self._decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        inputs = self._inputs_of(request)
        if inputs is None:
            return None
        return inputs, NO_OPTIONS if request.options is UNSET else options_of(request.options), request

    def _inputs_of(self, request: Any) -> Inputs | None:
        arrays: Arrays = {}
        rows, batched, needs_state = 0, False, self._has_state
        for field, tensors in self._fields:
            value = getattr(request, field.key)
            if value is UNSET:
                continue
            if field.is_state:
                needs_state = False
            for get, tensor in tensors:
                raw = get(value)
                is_batch = len(raw.shape) > tensor.rank
                if not rows:
                    rows, batched = raw.shape[0] if is_batch else 1, is_batch
                    if not 0 < rows <= self._rows_limit:
                        return None
                array = tensor.array(raw, rows, batched)
                if array is None:
                    return None
                arrays[tensor.name] = array
        return Inputs(arrays, rows, batched, needs_state, 0) if rows else None


class _TypedTensor:
    """The tensors of one leaf: of its own dtype, with numbers that need no further look."""

    def __init__(self, leaf: Leaf, step_type: bool) -> None:
        self.name = leaf.name
        self.rank = len(leaf.shape)
        if DTYPES.get(leaf.dtype) != leaf.storage or not all(leaf.shape):
            raise NotTypable
        self._dtype = leaf.dtype
        self._storage = DTYPES[leaf.dtype]
        self._shape = tuple(size or 0 for size in leaf.shape)
        self._numbers = math.prod(self._shape)
        self._is_float, self._is_bool = leaf.is_float, leaf.dtype == "bool"
        self._is_bounded = False
        if not self._is_bool:
            self._low, self._high = _ends(leaf, step_type)
            least, most = ends_of(Leaf(leaf.name, leaf.dtype, leaf.shape), False)
            self._is_bounded = bool(np.any(self._low > least) or np.any(self._high < most))

    def array(self, raw: RawTensor, rows: int, batched: bool) -> Array | None:
        """Returns [rows, …] over the bytes of a tensor that fits."""
        shape = (rows, *self._shape)
        if raw.dtype != self._dtype or tuple(raw.shape) != (shape if batched else self._shape):
            return None
        count = rows * self._numbers
        if len(raw.data) != count * self._storage.itemsize:
            return None
        array: Array = np.ndarray(shape, self._storage, raw.data)
        if self._is_bool:
            fits = not bytes(raw.data).strip(_BOOLEANS)
        elif count <= _FEW and not isinstance(self._low, np.ndarray):
            fits = self._are_fit(array.reshape(-1).tolist())
        else:
            fits = self._is_fit(array, shape)
        return array if fits else None

    def _are_fit(self, numbers: list[Any]) -> bool:
        """Few numbers. The sum of finite ones may be none, which sends them to the validator."""
        if self._is_float and not math.isfinite(sum(numbers)):
            return False
        return not self._is_bounded or (self._low <= min(numbers) and max(numbers) <= self._high)

    def _is_fit(self, array: Array, shape: tuple[int, ...]) -> bool:
        """[rows, …] numbers."""
        if not all_finite(array):
            return False
        return not self._is_bounded or lie_between(self._low, self._high, array.reshape(-1), shape)


def _ends(leaf: Leaf, step_type: bool) -> tuple[Any, Any]:
    is_listed = isinstance(leaf.minimum, list) or isinstance(leaf.maximum, list)
    if is_listed and len(leaf.shape) != 1:
        raise NotTypable
    return ends_of(leaf, step_type)


def _type_of(nest: Nest, step_type: bool) -> Any:  # noqa: ARG001
    if _is_like_tensor(nest):
        raise NotTypable
    return nest_type(nest, lambda _: RawTensor)


def _is_like_tensor(nest: Nest) -> bool:
    """Whether it has the names of a tensor's parts, anywhere: its map would be taken for one."""
    if isinstance(nest, Leaf):
        return False
    children = nest.values() if isinstance(nest, dict) else nest
    return (isinstance(nest, dict) and nest.keys() == set(RawTensor.__struct_fields__)) or any(
        map(_is_like_tensor, children)
    )
