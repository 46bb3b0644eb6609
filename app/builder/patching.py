"""Two .tflite files of one graph, and their weights → where in the file the weights stand; then a file for any weights.

A file is a sequence of pieces: bytes that are always the same, and variables, with their axes permuted or not, and
times a factor or not.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

Weights: TypeAlias = "list[np.ndarray[Any, Any]]"
Piece: TypeAlias = "bytes | Place"
Part: TypeAlias = "bytes | np.ndarray[Any, Any]"
# Among so many numbers some may be special ones, and no two tensors will be alike all the same.
_MANY = 24
_SPECIAL = (0.0, 1.0, -1.0, 6.0, 1e4, -1e4)


@dataclass(frozen=True)
class Place:
    """A variable's place in a file: its index among the weights, the order of its axes in the file, and a factor.

    The factor is None where there is none. One comes from scaled inputs, such as the bytes of an image divided by 255:
    conversion scales the first layer's weights instead.
    """

    variable: int
    axes: tuple[int, ...]
    factor: np.generic | None = None

    def filled(self, weights: Weights) -> np.ndarray[Any, Any]:
        """The variable as it stands in the file."""
        value = weights[self.variable].transpose(self.axes)
        return np.ascontiguousarray(value if self.factor is None else value * self.factor)


@dataclass(frozen=True)
class Template:
    """The pieces of a file, and what it was made with: variables that no place stands for are in it as constants."""

    pieces: tuple[Piece, ...]
    made_with: Weights

    def fits(self, weights: Weights) -> bool:
        """Whether the file for these weights differs from the one it was made with in its places only."""
        return len(weights) == len(self.made_with) and all(
            new.dtype == old.dtype and new.shape == old.shape and (_is_patched(old) or np.array_equal(new, old))
            for new, old in zip(weights, self.made_with, strict=True)
        )

    def filled(self, weights: Weights) -> Iterator[Part]:
        """The parts of the file for these weights, one after the other."""
        for piece in self.pieces:
            yield piece.filled(weights) if isinstance(piece, Place) else piece


def template_of(one: tuple[bytes, Weights], other: tuple[bytes, Weights]) -> Template | None:
    """The template that gives both files; None where a difference between them is no variable.

    Args:
      one: a file and the weights that it was converted with, such as `distinguishable` gives.
      other: the same with other floating weights; those of other dtypes have not changed.
    """
    data, weights = one
    pieces: list[Piece] = []
    done = 0
    for start, end in _differing_buffers(data, other[0]):
        place = _place_of(memoryview(data)[start:end], weights)
        if place is None:
            return None
        pieces += [data[done:start], place]
        done = end
    placed = {piece.variable for piece in pieces if isinstance(piece, Place)}
    if any(_is_patched(value) and value.size and index not in placed for index, value in enumerate(weights)):
        return None  # a function of it, then, that has been the same for both
    template = Template((*pieces, data[done:]), [w if not _is_patched(w) else _no_values(w) for w in weights])
    return template if b"".join(map(_bytes, template.filled(other[1]))) == other[0] else None


def distinguishable(weights: Weights) -> Weights:
    """Values of the same shapes for which no function is the identity that is not the identity of all.

    Floats of both signs and of many magnitudes; zeros, ones and very large ones among them where there are many. Others
    stay what they are.
    """
    generator = np.random.default_rng(0)
    return [_random(value, generator) if _is_patched(value) else value for value in weights]


def like(weights: Weights) -> Weights:
    """The weights themselves, but for those that conversion may see something special in.

    Those are tensors of one value, as biases before training, and tensors that equal another.
    """
    generator = np.random.default_rng(1)
    seen: set[bytes] = set()
    values = []
    for value in weights:
        special = value.tobytes() in seen or (value == value.flat[:1]).all()
        seen.add(value.tobytes())
        values.append(_random(value, generator) if special and _is_patched(value) else value)
    return values


def _random(value: np.ndarray[Any, Any], generator: np.random.Generator) -> np.ndarray[Any, Any]:
    drawn = generator.choice([-1.0, 1.0], value.shape) * 10.0 ** generator.uniform(-3, 3, value.shape)
    if value.size >= _MANY:
        chosen = generator.random(value.shape) < 1 / 8
        drawn = np.where(chosen, generator.choice(_SPECIAL, value.shape), drawn)
    return np.asarray(drawn, value.dtype)


def _is_patched(value: np.ndarray[Any, Any]) -> bool:
    return bool(np.issubdtype(value.dtype, np.floating))


def _no_values(value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """An array of the same dtype and shape that takes no memory."""
    return np.broadcast_to(np.zeros((), value.dtype), value.shape)


def _bytes(part: Part) -> bytes:
    return part if isinstance(part, bytes) else part.tobytes()


def _differing_buffers(data: bytes, other: bytes) -> Iterator[tuple[int, int]]:
    """Where the constants of a model stand (start and end, in the order of the file) that differ from another's."""
    model = schema.Model.GetRootAs(data)
    origin = np.frombuffer(data, np.uint8).ctypes.data
    places = []
    for index in range(model.BuffersLength()):
        buffer = model.Buffers(index)
        if buffer.DataLength():
            start = buffer.DataAsNumpy().ctypes.data - origin
            places.append((start, start + buffer.DataLength()))
    for start, end in sorted(places):
        if data[start:end] != other[start:end]:
            yield start, end


def _place_of(region: memoryview, weights: Weights) -> Place | None:
    """The variable that a constant is; as it is rather than times a factor."""
    candidates = [
        Place(index, axes)
        for index, value in enumerate(weights)
        if value.nbytes == len(region) and _is_patched(value)
        for axes in itertools.permutations(range(value.ndim))
    ]
    scaled = (place for unscaled in candidates for place in _scaled(unscaled, region, weights))
    for place in itertools.chain(candidates, scaled):
        if place.filled(weights).tobytes() == region:
            return place
    return None


def _scaled(place: Place, region: memoryview, weights: Weights) -> Iterator[Place]:
    """The place with each factor that the constant's largest number may come from."""
    value = place.filled(weights)
    largest = np.abs(value).argmax()
    factor = np.frombuffer(region, value.dtype)[largest : largest + 1] / value.flat[largest : largest + 1]
    for candidate in (factor, np.nextafter(factor, 0, dtype=factor.dtype), np.nextafter(factor, 9, dtype=factor.dtype)):
        yield replace(place, factor=candidate[0])
