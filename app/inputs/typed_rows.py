"""The bytes of many usual requests of one row each → arrays of all their rows.

Arrays, checks and what else is made of a request are made once for all of them. What does not fit is left out here, and
read by itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET

from app.inputs.skeletons import SkeletonCache
from app.inputs.typed_json import JsonField
from app.wire.tensors import Arrays

# From so many bytes on skeletons take less time than objects for the numbers; from so many on, what requests have in
# common costs little beside their numbers.
_LONG_BYTES, _TOO_LONG_BYTES = 2048, 16 * 1024


class RowsRead(NamedTuple):
    """Requests that were read together: their places among all, and their rows, one below the other."""

    places: Sequence[int]
    arrays: Arrays
    needs_state: bool


NOTHING_READ = RowsRead((), {}, False)


class RowsDecoder:
    """Reads JSON bodies of one row each that have the same fields: those that have to be there, and perhaps the state.

    Args:
      fields: of a request.
      more: what else it may have.
      decoder: of the request.
      skeletons: of long bodies that were read before.
    """

    def __init__(
        self,
        fields: Sequence[JsonField],
        more: Iterable[str],
        decoder: msgspec.json.Decoder[Any],
        skeletons: SkeletonCache,
    ) -> None:
        self._required = [field for field in fields if not field.optional]
        self._state = [field for field in fields if field.is_state and field.leaves]
        optional = [field.key for field in fields if field.optional and field not in self._state]
        self._others, self._no_others = _attributes(["options", *optional, *more])
        self._state_of, self._no_state = _attributes([field.key for field in self._state])
        self._decode = decoder.decode
        self._skeletons = skeletons

    def reads(self, body: bytes) -> bool:
        """Returns whether a body may be read here in less time than by itself."""
        size = len(body)
        return size < _LONG_BYTES or (size < _TOO_LONG_BYTES and self._skeletons.knows_any)

    def read(self, bodies: Sequence[bytes]) -> RowsRead:
        """Reads those that can be read together, as is best for most of them; any other may be left out."""
        long = sum([len(body) >= _LONG_BYTES for body in bodies])
        return self._read_known(bodies) if 2 * long > len(bodies) else self._read_new(bodies)

    def _read_known(self, bodies: Sequence[bytes]) -> RowsRead:
        read = [(place, inputs) for place, body in enumerate(bodies) if (inputs := self._skeletons.read(body))]
        if not read:
            return NOTHING_READ
        names = read[0][1].arrays.keys()
        alike = [(place, inputs) for place, inputs in read if not inputs.batched and inputs.arrays.keys() == names]
        if not alike:
            return NOTHING_READ
        arrays = {name: np.concatenate([inputs.arrays[name] for _, inputs in alike]) for name in names}
        return RowsRead([place for place, _ in alike], arrays, alike[0][1].needs_state)

    def _read_new(self, bodies: Sequence[bytes]) -> RowsRead:
        decode, others, no_others = self._decode, self._others, self._no_others
        places, requests = [], []
        for place, body in enumerate(bodies):
            try:
                request = decode(body)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
            if others(request) == no_others:
                places.append(place)
                requests.append(request)
        fields, has_state = self._required, False
        if self._state:
            places, requests, has_state = self._alike(places, requests)
            fields = [*fields, *self._state] if has_state else fields
        if not requests:
            return NOTHING_READ
        arrays: Arrays = {}
        for field in fields:
            values = [*map(attrgetter(field.key), requests)]
            for leaf in field.leaves:
                raw = values if leaf.raw is None else [*map(leaf.raw, values)]
                arrays[leaf.name] = leaf.array(raw, len(requests), True)
        return RowsRead(places, arrays, bool(self._state) and not has_state)

    def _alike(self, places: Sequence[int], requests: Sequence[Any]) -> tuple[list[int], list[Any], bool]:
        """Returns the requests with all of the state, or those with nothing of it, and which: whichever are more."""
        states = [*map(self._state_of, requests)]
        without = [state == self._no_state for state in states]
        whole = [UNSET not in state for state in states] if len(self._state) > 1 else [not one for one in without]
        has_state = sum(whole) >= sum(without)
        kept = whole if has_state else without
        return [*itertools.compress(places, kept)], [*itertools.compress(requests, kept)], has_state


def rows_decoder(
    fields: Sequence[JsonField], more: Iterable[str], decoder: msgspec.json.Decoder[Any], skeletons: SkeletonCache
) -> RowsDecoder | None:
    """Returns what reads many requests at once; None where a request may have no row, or has to have a state."""
    required = [field for field in fields if not field.optional]
    if not any(field.leaves for field in required) or any(field.is_state for field in required):
        return None
    return RowsDecoder(fields, more, decoder, skeletons)


def _attributes(names: Sequence[str]) -> tuple[Callable[[Any], Any], Any]:
    """Returns what gets these attributes of a request, and what it gets where none of them was sent."""
    if not names:
        return (lambda _: ()), ()
    return attrgetter(*names), (UNSET,) * len(names) if len(names) > 1 else UNSET
