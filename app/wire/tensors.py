"""Nested lists, or an array → the array of one leaf, rows first; or the `Problem` that says which item is wrong.

NumPy checks first; only where that does not decide it are the items checked one by one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeAlias

import numpy as np

from app.errors import Problem
from app.offload import let_others_run
from saver.artifact import Leaf

_WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
# So many items are checked one by one where not all of them are valid.
_BLOCK = 64

Array: TypeAlias = "np.ndarray[Any, Any]"
Arrays: TypeAlias = "dict[str, Array]"


# Beyond so many NumPy's product may be computed by several threads, on cores that others need.
_MOST_SQUARED = 4096


def all_finite(array: Array) -> bool:
    """Returns whether all numbers are finite; in half of the time of NumPy's own question where they are few."""
    if array.dtype.kind != "f":
        return True
    if array.dtype.char in "fd" and array.size <= _MOST_SQUARED:
        numbers = array.reshape(-1)
        if math.isfinite(np.dot(numbers, numbers)):  # or a square is too large
            return True
    return bool(np.isfinite(array).all())


@dataclass(frozen=True)
class Tensor:
    """The value of one field: `array` is [rows, …]; `batched`: the caller sent a batch."""

    array: Array
    batched: bool


class Unfit(Exception):
    """The value does not fit the leaf."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.problem = problem


def read_tensor(raw: Any, leaf: Leaf, where: str, non_finite: bool = False) -> Tensor:
    """Reads one value of the leaf's shape, or a batch of them; decided by rank.

    `non_finite`: whether NaN and infinities are numbers, and so are the words for them that answers have in JSON.

    Raises:
      Unfit: wrong shape, ragged, wrong type, out of the dtype's range, or not finite.
    """
    if isinstance(raw, np.ndarray):
        return _converted(_with_rows(raw, raw, leaf, where), leaf, where, non_finite)
    shape = outline(raw)
    if len(shape) - len(leaf.shape) not in (0, 1):  # before NumPy reads all of it
        raise Unfit(Problem(where, f"shape {list(shape)}" if shape else show(raw), expected_text(leaf)))
    if non_finite and leaf.is_float:
        raw = _without_words(raw)
    array = _by_numpy(raw, leaf, non_finite)
    if array is None:
        _find_problem(raw, leaf, where, non_finite)
        array = np.array(raw, dtype=leaf.storage)
    return _with_rows(array, raw, leaf, where)


def _without_words(raw: Any) -> Any:
    """Puts floats in the place of the words for non-finite numbers."""
    if isinstance(raw, list):
        if not any(type(item) is list or type(item) is str for item in raw):
            return raw
        return [_without_words(item) if isinstance(item, list | str) else item for item in raw]
    return _WORDS.get(raw, raw) if isinstance(raw, str) else raw


def _with_rows(array: Array, raw: Any, leaf: Leaf, where: str) -> Tensor:
    rank = len(leaf.shape)
    batched = array.ndim != rank
    rows = array if batched else array[np.newaxis]
    if rows.ndim != rank + 1 or not _fits(rows.shape[1:], leaf.shape):
        came = f"shape {list(array.shape)}" if isinstance(raw, list | np.ndarray) else show(raw)
        raise Unfit(Problem(where, came, expected_text(leaf)))
    return Tensor(rows, batched)


def _converted(tensor: Tensor, leaf: Leaf, where: str, non_finite: bool) -> Tensor:
    """Returns an array that came as one, in the leaf's dtype: the same one, if it has that already."""
    array = tensor.array
    accepted = "iuf" if leaf.is_float else "iu" if leaf.is_integer else "b" if leaf.dtype == "bool" else ""
    if array.dtype.kind not in accepted:
        raise Unfit(Problem(where, show(array if tensor.batched else np.asarray(array[0])), expected_text(leaf)))
    values = _cast(array, leaf.storage)
    if leaf.is_float:
        fits = np.isfinite(values)
        if non_finite and array.dtype.kind == "f":
            fits |= ~np.isfinite(array)
    elif np.can_cast(array.dtype, values.dtype):
        return Tensor(values, tensor.batched)
    else:
        limits = np.iinfo(values.dtype)
        fits = (array >= limits.min) & (array <= limits.max)
    if not fits.all():
        first = np.unravel_index(int(fits.argmin()), fits.shape)
        index = "".join(f"[{i}]" for i in (first if tensor.batched else first[1:]))
        came = array[first].item()
        raise Unfit(Problem(where + index, show(came), _item_expected(leaf, came)))
    return Tensor(values, tensor.batched)


def _cast(array: Array, dtype: np.dtype[Any]) -> Array:
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(dtype)


def expected_text(leaf: Leaf) -> str:
    """Says in words what the caller should have sent."""
    shape = ["?" if size is None else size for size in leaf.shape]
    one = f"{leaf.dtype} of shape [{', '.join(map(str, shape))}]" if shape else f"one {leaf.dtype}"
    return f"{one}, or a batch of shape [{', '.join(map(str, ['n', *shape]))}]"


def _by_numpy(raw: Any, leaf: Leaf, non_finite: bool = False) -> Array | None:
    """Returns the array where NumPy alone sees that all items are valid; None where they must be checked one by one."""
    text = leaf.dtype == "string"
    try:
        array = np.array(raw, dtype=object) if text else np.array(raw)
    except (ValueError, OverflowError):
        return None
    if array.ndim != len(outline(raw)):
        return None  # ragged, or with arrays inside
    types = _types(raw, array.ndim)
    if text:
        return array if types <= {str, bytes} else None  # as msgpack has both
    if leaf.dtype == "bool":
        return array if types <= {bool} else None
    if not types <= ({int} if leaf.is_integer else {int, float}) or array.dtype.kind not in "iuf":
        return None
    if leaf.is_float:
        double = _cast(array, np.dtype(np.float64))
        array = _cast(double, leaf.storage)  # as other decoders round large integers
        finite = np.isfinite(array)
        if not finite.all() and not (non_finite and (finite | ~np.isfinite(double)).all()):
            return None
        return array
    limits = np.iinfo(leaf.dtype)
    if array.size and (array.dtype.kind == "f" or array.min() < limits.min or array.max() > limits.max):
        return None
    return array.astype(leaf.dtype)


def _types(raw: Any, depth: int) -> set[type]:
    """Returns the types of all items of a regular nested list."""
    if depth == 0:
        return {type(raw)}
    items: Iterable[Any] = raw
    for _ in range(depth - 1):
        items = chain.from_iterable(items)
    return set(map(type, items))


def _fits(found: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(found) == len(expected) and all(e is None or f == e for f, e in zip(found, expected, strict=True))


def _find_problem(raw: Any, leaf: Leaf, where: str, non_finite: bool) -> None:
    """Raises Unfit at the first item that is wrong; returns where there is none."""
    shape = outline(raw)
    rank = len(leaf.shape)
    if len(shape) == rank:
        expected: tuple[int | None, ...] = leaf.shape
    elif len(shape) == rank + 1:
        expected = (shape[0], *leaf.shape)
    else:
        came = f"shape {list(shape)}" if shape else show(raw)
        raise Unfit(Problem(where, came, expected_text(leaf)))
    # A dimension of unknown size still has one size in all rows: that of the first.
    sizes = tuple(came if size is None else size for came, size in zip(shape, expected, strict=True))
    _Search(leaf, non_finite).walk(raw, where, sizes)


class _Search:
    """Finds the first wrong item of a nested list: NumPy says in which part it is, Python which one it is."""

    def __init__(self, leaf: Leaf, non_finite: bool) -> None:
        self._leaf = leaf
        self._non_finite = non_finite

    def walk(self, raw: Any, where: str, expected: tuple[int, ...]) -> None:
        """Raises Unfit."""
        leaf = self._leaf
        if not expected:
            problem = _item_problem(raw, leaf, self._non_finite)
            if problem:
                raise Unfit(Problem(where, problem, _item_expected(leaf, raw)))
            return
        size, *inner = expected
        if not isinstance(raw, list):
            raise Unfit(Problem(where, show(raw), f"a list; the field is {expected_text(leaf)}"))
        if len(raw) != size:
            raise Unfit(Problem(where, f"{len(raw)} items", f"{size} items; the field is {expected_text(leaf)}"))
        for start in range(0, size, _BLOCK):
            let_others_run()
            block = raw[start : start + _BLOCK]
            if not self._is_good(block, tuple(inner)):
                for index, item in enumerate(block, start):
                    self.walk(item, f"{where}[{index}]", tuple(inner))

    def _is_good(self, block: list[Any], inner: tuple[int, ...]) -> bool:
        """Returns whether NumPy alone sees that no item is wrong."""
        array = _by_numpy(block, self._leaf, self._non_finite)
        return array is not None and array.shape[1:] == inner


def outline(raw: Any) -> tuple[int, ...]:
    """Returns the lengths along the first items: the shape, if the nested list is regular."""
    shape = []
    while isinstance(raw, list):
        shape.append(len(raw))
        if not raw:
            break
        raw = raw[0]
    return tuple(shape)


def _item_problem(item: Any, leaf: Leaf, non_finite: bool) -> str | None:
    kind = type(item)
    if leaf.dtype == "string":
        return None if kind is str or kind is bytes else show(item)
    if leaf.dtype == "bool":
        return None if kind is bool else show(item)
    if leaf.is_integer:
        limits = np.iinfo(leaf.dtype)
        return None if kind is int and limits.min <= item <= limits.max else show(item)
    if kind not in (int, float):
        return show(item)
    with np.errstate(over="ignore", invalid="ignore"):
        try:
            finite = math.isfinite(float(leaf.storage.type(item))) or (non_finite and not math.isfinite(item))
        except OverflowError:
            finite = False
    return None if finite else show(item)


def _item_expected(leaf: Leaf, came: Any) -> str:
    if leaf.is_integer:
        limits = np.iinfo(leaf.dtype)
        return f"an integer that fits {leaf.dtype} ({limits.min} to {limits.max})"
    if leaf.is_float:
        words = (isinstance(came, float) and not math.isfinite(came)) or (isinstance(came, str) and came in _WORDS)
        how = " (the server's setting --non-finite accept takes others)" if words else ""
        return f"a finite number that fits {leaf.dtype}{how}"
    return "a string" if leaf.dtype == "string" else "true or false"


def show(item: Any) -> str:
    """Returns the text of a value, short enough for a message."""
    if isinstance(item, dict):
        return "an object"
    if isinstance(item, list):
        return f"a list of {len(item)} items"
    if isinstance(item, np.ndarray):
        return f"a tensor of {item.dtype}, shape {list(item.shape)}"
    if item is None:
        return "null"
    if isinstance(item, bool):
        return "true" if item else "false"
    if isinstance(item, str):
        return f"the string {item[:40]!r}"
    if isinstance(item, float) and not math.isfinite(item):
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(item)]
    if isinstance(item, bytes | memoryview):
        return f"{len(item)} raw bytes"
    if not isinstance(item, int | float):
        return getattr(item, "shown", None) or f"a value of type {type(item).__name__}"
    text = str(item) if not isinstance(item, int) or abs(item) < 10**30 else "a very large integer"
    return text[:40]
