"""The bytes of a usual request → arrays, decoded and checked in one go; or None, where that does not work.

msgspec compiles a decoder from types, so that a policy's spec is made into types here: names, shapes, the range of each
dtype, and bounds. What does not fit is not refused here: `InputValidator`, which takes longer, finds out what is
wrong, or that nothing is. What both take, they read alike.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta

from app.inputs.bounds import bounds_of, limits_of, pairs_of
from app.inputs.options import Options
from app.inputs.skeletons import SkeletonCache
from app.inputs.typed_binary import BinaryDecoder
from app.inputs.typed_fields import (
    NO_OPTIONS,
    NotTypable,
    fields_of_spec,
    nest_type,
    options_of,
    request_type,
)
from app.inputs.typed_json import JsonField
from app.inputs.typed_rows import rows_decoder
from app.inputs.validate import Inputs
from app.wire.tensors import Arrays
from saver.artifact import Leaf, Nest, PolicySpec

# A shorter body is read as fast without a skeleton.
LEAST_BYTES = 600
# Of more entries than these, types for each would take long to compile.
_MOST_BOUNDS = 256


class TypedDecoder:
    """Reads requests of `action` and `distribution` for one policy.

    Args:
      spec: of the policy.
      rows_limit: no more are read in one request.
      without: fields that are left to `InputValidator`.
      flattened: whether each leaf is a field of its own, by its flattened name.
      more: fields beside those of the spec, none of which has to be there, by their types.

    `rows`: reads many requests at once; None where it cannot.
    """

    def __init__(
        self,
        spec: PolicySpec,
        *,
        rows_limit: int,
        without: Collection[str] = (),
        flattened: bool = False,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        self._fields = [JsonField(*field) for field in fields_of_spec(spec, without, flattened)]
        self._state_fields = sum(field.is_state for field in self._fields)
        self._more = {f"m{i}": (name, kind) for i, (name, kind) in enumerate((more or {}).items())}
        self.has_state = any(field.is_state and field.leaves for field in self._fields)
        self._rows_limit = rows_limit
        self._batch_mark = _mark_of_batch(self._fields)
        self._skeletons = SkeletonCache(field.in_body for field in self._fields)
        self._binary = BinaryDecoder(self._fields, self._more, rows_limit)
        self._one: msgspec.json.Decoder[Any] | None = None
        try:
            self._one = msgspec.json.Decoder(request_type(self._fields, self._more, _type_of))
            self._batch = msgspec.json.Decoder(request_type(self._fields, self._more, _batch_type_of))
        except NotTypable:
            pass
        self.rows = None if self._one is None else rows_decoder(self._fields, self._more, self._one, self._skeletons)

    def read(self, body: bytes) -> tuple[Inputs, Options] | None:
        """Reads a JSON body as `InputValidator.read` and `read_options` do; returns None where they have to try."""
        known = self.read_known(body) if len(body) >= LEAST_BYTES else None
        return self.read_new(body) if known is None else known

    def read_known(self, body: bytes) -> tuple[Inputs, Options] | None:
        """Reads, as `read` does, a body that differs only in its numbers from one that was read before."""
        known = self._skeletons.read(body)
        return None if known is None else (known, NO_OPTIONS)

    def read_new(self, body: bytes) -> tuple[Inputs, Options] | None:
        """Reads, as `read` does, any other body; may be called in another thread, while bodies are read in this one."""
        found = self._decoded(body)
        if found is None:
            return None
        request, inputs = found
        if request.options is not UNSET:
            return inputs, options_of(request.options)
        if len(body) >= LEAST_BYTES:
            given = [field.in_body for field in self._fields if getattr(request, field.key) is not UNSET]
            self._skeletons.learn(body, inputs, given)
        return inputs, NO_OPTIONS

    def read_more(self, body: bytes) -> tuple[Inputs, Options, dict[str, Any]] | None:
        """Reads as `read` does, and also returns the extra fields that were sent."""
        found = self._decoded(body)
        if found is None:
            return None
        request, inputs = found
        options = NO_OPTIONS if request.options is UNSET else options_of(request.options)
        return inputs, options, self._more_in(request)

    def read_binary(self, body: bytes) -> tuple[Inputs, Options] | None:
        """Reads a msgpack body, as `read` does one of JSON."""
        found = self._binary.read(body)
        return None if found is None else found[:2]

    def read_more_binary(self, body: bytes) -> tuple[Inputs, Options, dict[str, Any]] | None:
        """Reads a msgpack body, as `read_more` does one of JSON."""
        found = self._binary.read(body)
        if found is None:
            return None
        inputs, options, request = found
        return inputs, options, self._more_in(request)

    def _more_in(self, request: Any) -> dict[str, Any]:
        return {name: value for key, (name, _) in self._more.items() if (value := getattr(request, key)) is not UNSET}

    def _decoded(self, body: bytes) -> tuple[Any, Inputs] | None:
        if self._one is None:
            return None
        # A guess, which saves a vain attempt.
        batched = self._batch_mark in body
        try:
            request = (self._batch if batched else self._one).decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            try:
                batched = not batched
                request = (self._batch if batched else self._one).decode(body)
            except (msgspec.DecodeError, UnicodeDecodeError):
                return None
        inputs = self._inputs_of(request, batched)
        return None if inputs is None else (request, inputs)

    def _inputs_of(self, request: Any, batched: bool) -> Inputs | None:
        arrays: Arrays = {}
        rows = None if batched else 1
        needs_state, state_fields = self.has_state, 0
        for field in self._fields:
            value = getattr(request, field.key)
            if value is UNSET:
                continue
            if field.is_state:
                needs_state = False
                state_fields += 1
            for leaf in field.leaves:
                raw = value if leaf.raw is None else leaf.raw(value)
                if batched and rows is None:
                    rows = len(raw)
                if batched and (not raw or len(raw) != rows):
                    return None
                arrays[leaf.name] = leaf.array(raw, rows or 1, batched)
        if not rows or rows > self._rows_limit or 0 < state_fields < self._state_fields:
            return None
        return Inputs(arrays, rows, batched, needs_state, 0)


def _mark_of_batch(fields: Iterable[JsonField]) -> bytes:
    """What the JSON of a batch has in it, as it is usually written, and that of one row has not."""
    ranks = [len(leaf.shape) for field in fields if not field.optional for leaf in field.leaves]
    return b"[" * (max(ranks, default=0) + 1)


def _type_of(nest: Nest, step_type: bool = False) -> Any:
    """The type of one value of a nest."""
    return nest_type(nest, lambda leaf: _leaf_type(leaf, step_type))


def _batch_type_of(nest: Nest, step_type: bool = False) -> Any:
    """The type of a batch: each leaf is a list of values."""
    return nest_type(nest, lambda leaf: list[_leaf_type(leaf, step_type)])  # type: ignore[misc]


def _leaf_type(leaf: Leaf, step_type: bool) -> Any:
    """Raises `NotTypable`."""
    if leaf.dtype in ("string", "bfloat16", "uint64") or not all(leaf.shape):
        raise NotTypable
    low, high = bounds_of(leaf, step_type)
    if isinstance(low, list) or isinstance(high, list):
        if len(leaf.shape) != 1 or (leaf.shape[0] or 0) > _MOST_BOUNDS:
            raise NotTypable
        return tuple[tuple(_item_type(leaf, one, other) for one, other in pairs_of(leaf, low, high))]  # type: ignore[misc]
    kind = _item_type(leaf, low, high)
    for size in reversed(leaf.shape):
        kind = Annotated[list[kind], Meta(min_length=size, max_length=size)]  # type: ignore[valid-type]
    return kind


def _item_type(leaf: Leaf, low: Any, high: Any) -> Any:
    """One number: finite, inside the range of its dtype and the bounds of the spec."""
    if leaf.dtype == "bool":
        return bool
    least, most = limits_of(leaf, low, high)
    return Annotated[type(least), Meta(ge=least, le=most)]
