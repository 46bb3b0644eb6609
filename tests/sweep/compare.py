"""What an engine makes of an operation beside TensorFlow in this process: the differences, by how far they go."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tests.sweep.served import Served
from tests.sweep.values import CLASSES, ORDINARY, Flat, calls_for, class_of, gentle_rows

TOLERANCE = 1e-5
# Of one row alone, a few, and many; the special values come besides, all at once and some alone.
_GENTLE = (1, 3, 64)
_ALONE = 4
_MOST_ALONE = 40


@dataclass(frozen=True)
class Difference:
    """One number that the engine gives otherwise.

    `where`: the class of numbers (values.py) that the inputs and the two results go up to.

    `how`: "refused" and "answered" for a whole call, "form" (dtype or shape), "NaN", "infinite", "sign of zero",
    "integer", "value" (beyond 1e-5 + 1e-5·|x|), or "rounding" (within it). `size`: |a - b| / (1 + |b|) of a float.
    """

    where: str
    how: str
    asked: str
    expected: object
    found: object
    size: float = 0.0


def differences(served: Served) -> list[Difference]:
    """All that were found: the worst one of each call, class of numbers and kind."""
    return [d for where, inputs in _calls(served) for d in _of_call(served, where, inputs)]


def _calls(served: Served) -> Iterator[tuple[str, Flat]]:
    for count in _GENTLE:
        yield ORDINARY, gentle_rows(served.operation, count)
    for where, special in calls_for(served.operation):
        rows = len(next(iter(special.values())))
        alone = range(0, rows, max(1, rows // _ALONE))
        if served.live(special) is not None:
            yield where, special
        else:
            alone = range(min(rows, _MOST_ALONE))  # what is refused must not hide the others
        for row in alone:
            yield where, {name: array[row : row + 1] for name, array in special.items()}


def _of_call(served: Served, where: str, inputs: Flat) -> Iterator[Difference]:
    expected, found = served.live(inputs), served.engine(inputs)
    if expected is None or found is None:
        if expected is not found:
            yield Difference(where, "refused" if found is None else "answered", _shown(inputs, 0), expected, found)
        return
    for one, other in zip(expected, found, strict=True):
        yield from _of_array(where, inputs, one, other)


def _of_array(where: str, inputs: Flat, expected: np.ndarray, found: np.ndarray) -> Iterator[Difference]:
    if (expected.dtype, expected.shape) != (found.dtype, found.shape):
        yield Difference(where, "form", "", (expected.dtype, expected.shape), (found.dtype, found.shape))
        return
    classes = np.maximum(np.maximum(class_of(expected), class_of(found)), CLASSES.index(where))
    for number, name in enumerate(CLASSES):
        for how, differing, sizes in _kinds(expected, found):
            chosen = differing & (classes == number)
            if chosen.any():
                at = np.unravel_index(int(np.argmax(np.where(chosen, sizes, -1))), chosen.shape)
                asked = _shown(inputs, int(at[0]) if at else 0)
                yield Difference(name, how, f"{asked} at {[int(i) for i in at]}", expected[at], found[at], sizes[at])


def _kinds(expected: np.ndarray, found: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    nothing = np.zeros(expected.shape)
    if not _is_float(expected):
        yield "integer", expected != found, nothing
        return
    a, b = expected.astype(np.float64), found.astype(np.float64)
    with np.errstate(all="ignore"):
        nan = np.isnan(a) != np.isnan(b)
        infinite = ~nan & ~np.isnan(a) & (np.isinf(a) | np.isinf(b)) & (a != b)
        sizes = np.where(np.isfinite(a) & np.isfinite(b), np.abs(a - b) / (1 + np.abs(a)), 0.0)
    yield "NaN", nan, nothing
    yield "infinite", infinite, nothing
    yield "sign of zero", (a == 0) & (b == 0) & (np.signbit(a) != np.signbit(b)), nothing
    tolerance = _tolerance(expected)
    yield "value", sizes > tolerance, sizes
    yield "rounding", (sizes > 0) & (sizes <= tolerance), sizes


def _is_float(array: np.ndarray) -> bool:
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def _tolerance(array: np.ndarray) -> float:
    """Numbers of 16 bits cannot be that close, where they are rounded at all."""
    return {"float16": 1e-3, "bfloat16": 1e-2}.get(array.dtype.name, TOLERANCE)


def _shown(inputs: Flat, row: int) -> str:
    return ", ".join(f"{name}={array[row].ravel()[:8].tolist()}" for name, array in inputs.items())
