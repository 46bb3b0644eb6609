"""A large JSON body → its fields, with the long lists in it unread: only where each starts and ends is known.

What is wrong inside a long list is found when it is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
import simdjson

from app.errors import DoesNotFit, NotJson, Problem
from app.wire import json_body
from app.wire.json_ends import end_of, end_of_string
from app.wire.long_lists import PIECE_BYTES, SHORT_BYTES, LongList, LongString, Ragged, check_row, lists_in, row_bytes
from app.wire.tensors import Array
from saver.artifact import Leaf

_STEP = 64 * 1024
# No client writes so much space in one place.
_MOST_SPACE = 64 * 1024
_MOST_LEVELS = 16
# No number that is one takes more, and no name of a field.
_MOST_TOKEN_BYTES = 4096
_SPACE = re.compile(rb"[ \t\r\n]*")
_TOKEN = re.compile(rb"[-+.0-9A-Za-z]{1,4097}")
_OPENING = re.compile(rb"(?:\[[ \t\r\n]*){1,64}")
# Between two objects of a list.
_BETWEEN = re.compile(rb"\}[ \t\r\n]*,[ \t\r\n]*(?=\{)")
_NUMBERS = b"0123456789+-.eE \t\r\n"
# Each string has a quote at both ends; half of those inside may look like none.
_QUOTES_A_STRING = 4


def decode(body: bytes, most_keys: int) -> dict[str, Any]:
    """Decodes the object in a body, with a `LongList` for each list that is long.

    Args:
      body: the bytes of the request.
      most_keys: no object that fits has more keys, those of the objects in it included.

    Raises:
      NotJson: no JSON object, as far as it was read.
      DoesNotFit: more fields than any request has.
    """
    reader = _Reader(body, most_keys)
    at = reader.after_space(0)
    mark = body[at : at + 1]
    if mark == b"[":
        raise json_body.no_object([])
    if mark != b"{":
        raise NotJson(f"the body is not JSON: it begins with {bytes(body[at : at + 8])!r}, expected an object")
    fields, end = reader.object(at, 1)
    if reader.after_space(end) != len(body):
        raise NotJson(f"the body is not JSON: something follows its object, at byte {end}")
    return fields


class _Reader:
    """Reads one body from the left."""

    def __init__(self, body: bytes, most_keys: int) -> None:
        self._body = body
        self._keys_left = most_keys
        self._most_keys = most_keys

    def after_space(self, at: int) -> int:
        match = _SPACE.match(self._body, at, at + _MOST_SPACE)
        assert match is not None
        if match.end() == at + _MOST_SPACE and match.end() < len(self._body):
            raise NotJson(f"the body is not JSON that a client writes: nothing but space from byte {at} on")
        return match.end()

    def object(self, at: int, level: int) -> tuple[dict[str, Any], int]:
        """Returns the object that starts at `at`, and where it ends."""
        body = self._body
        fields: dict[str, Any] = {}
        at = self.after_space(at + 1)
        if body[at : at + 1] == b"}":
            return fields, at + 1
        while True:
            key, at = self._key(at)
            fields[key], at = self.value(self.after_space(at), level)
            at = self.after_space(at)
            mark = body[at : at + 1]
            if mark == b"}":
                return fields, at + 1
            if mark != b",":
                raise self._no_json(at, "',' or '}'")
            at = self.after_space(at + 1)

    def value(self, at: int, level: int) -> tuple[Any, int]:
        body = self._body
        mark = body[at : at + 1]
        if mark == b"{" and level < _MOST_LEVELS:
            return self.object(at, level + 1)
        if mark in (b"[", b"{"):
            if mark == b"{":
                raise NotJson(f"the body is nested too deep: objects in more than {_MOST_LEVELS} others")
            end = end_of(body, at)
            if body[end - 1] != 0x5D:
                raise self._no_json(end - 1, "']'")
            short = end - at <= SHORT_BYTES
            return (_loads(body[at:end], at) if short else LongText(body, at, end, self._most_keys)), end
        if mark == b'"':
            end = end_of_string(body, at)
            if end - at > SHORT_BYTES:
                return LongString(body, at, end), end
        else:
            token = _TOKEN.match(body, at)
            if token is None:
                raise self._no_json(at, "a value")
            end = token.end()
            if end - at > _MOST_TOKEN_BYTES:
                raise NotJson(f"the body has a number of more than {_MOST_TOKEN_BYTES} characters, at byte {at}")
        return _loads(body[at:end], at), end

    def _key(self, at: int) -> tuple[str, int]:
        if self._keys_left <= 0:
            expected = "the fields of this policy; see its OpenAPI document at /docs"
            raise DoesNotFit([Problem("body", f"more than {self._most_keys} fields", expected)])
        self._keys_left -= 1
        if self._body[at : at + 1] != b'"':
            raise self._no_json(at, "the name of a field in double quotes")
        end = end_of_string(self._body, at)
        if end - at > _MOST_TOKEN_BYTES:
            where = self._body[at + 1 : at + 101].decode("utf-8", "replace")
            raise DoesNotFit([Problem(where, f"a name of {end - at - 2} bytes", "the fields of this policy")])
        key = _loads(self._body[at:end], at)
        colon = self.after_space(end)
        if self._body[colon : colon + 1] != b":":
            raise self._no_json(colon, "':'")
        return key, colon + 1

    def _no_json(self, at: int, expected: str) -> NotJson:
        if at >= len(self._body):
            return NotJson(f"the body is not JSON: it ends after {len(self._body)} bytes, expected {expected}")
        return NotJson(f"the body is not JSON: byte {at} is 0x{self._body[at]:02x}, expected {expected}")


class LongText(LongList):
    """A list in a JSON body, from its first bracket to its last one."""

    def __init__(self, body: bytes, start: int, end: int, most_keys: int) -> None:
        self._body = body
        self._start = start
        self._end = end
        self._most_keys = most_keys

    def depth(self, most: int) -> int:
        """See `LongList`."""
        match = _OPENING.match(self._body, self._start, min(self._end, self._start + _MOST_SPACE))
        return min(most, match[0].count(b"[")) if match else 0

    def children(self, most: int) -> list[Any] | None:
        """See `LongList`."""
        reader = _Reader(self._body, self._most_keys)
        found: list[Any] = []
        at = reader.after_space(self._start + 1)
        while at < self._end - 1:
            if len(found) == most:
                return None
            value, at = self._item(reader, at)
            found.append(value)
        return found

    def has(self, text: bytes) -> bool:
        """Returns whether these bytes stand anywhere in it."""
        return self._body.find(text, self._start, self._end) >= 0

    def begins_with_object(self) -> bool:
        """Returns whether its first item is an object, as far as one byte shows."""
        at = _Reader(self._body, self._most_keys).after_space(self._start + 1)
        return self._body[at : at + 1] == b"{"

    def objects(self) -> Iterator[list[Any]]:
        """Yields its items, which should be objects, a piece at a time. One that is long by itself has `LongList`s.

        Raises:
          NotJson, DoesNotFit: see `decode`.
        """
        last = self._end - 1
        at = _Reader(self._body, self._most_keys).after_space(self._start + 1)
        one_by_one = 0  # up to here: to try a piece at each item would take the square of their number
        while at < last:
            cut = (last, last)
            if at < one_by_one:
                cut = (at, at)
            elif last - at > 2 * PIECE_BYTES:
                between = _BETWEEN.search(self._body, at + PIECE_BYTES, at + 2 * PIECE_BYTES)
                cut = (at, at) if between is None else (between.start() + 1, between.end())
            try:
                piece = _loads(b"[" + self._body[at : cut[0]] + b"]", at) if cut[0] > at else None
            except NotJson:  # it was cut inside a string or a list, or it is none
                piece = None
            if piece is None:
                if at >= one_by_one:
                    one_by_one = at + PIECE_BYTES
                value, at = self._item(_Reader(self._body, self._most_keys), at)
                yield [value]
            else:
                at = cut[1]
                yield piece

    def _item(self, reader: _Reader, at: int) -> tuple[Any, int]:
        """Returns the item that starts at `at`, and where the next one starts."""
        value, at = reader.value(at, 1)
        at = reader.after_space(at)
        if self._body[at : at + 1] == b",":
            at = reader.after_space(at + 1)
        elif at != self._end - 1:
            raise NotJson(f"the body is not JSON: byte {at}, expected ',' or ']'")
        return value, at

    def rows(self, leaf: Leaf) -> int:
        """See `LongList`."""
        mark = b"[" if leaf.shape else b","
        marks = sum(self._body.count(mark, at, min(at + _STEP, self._end)) for at in self._steps())
        return (marks - 1) // max(1, lists_in(leaf)) if leaf.shape else marks + 1

    def pieces(self, leaf: Leaf, batched: bool) -> Iterator[list[Any] | Array]:
        """See `LongList`."""
        if leaf.dtype == "string":
            yield self._strings(leaf, batched)
            return
        fast = _Numbers(leaf)
        for start, end in self._cuts(leaf) if batched else [(self._start, self._end)]:
            check_row(end - start, leaf)
            text = b"[" + self._body[start:end] + b"]"
            array = fast.read(text)
            yield _rows_in(text, start) if array is None else array

    def plain(self, most_bytes: int) -> list[Any] | None:
        """See `LongList`."""
        if self._end - self._start > most_bytes:
            return None
        found: list[Any] = _loads(self._body[self._start : self._end], self._start)
        return found

    def _steps(self) -> range:
        return range(self._start, self._end, _STEP)

    def _strings(self, leaf: Leaf, batched: bool) -> list[Any]:
        text = self._body[self._start : self._end]
        rows = int(np.prod([size or 1 for size in leaf.shape])) * 2**17 if batched or None in leaf.shape else 1
        quotes = sum(text.count(b'"', at, at + _STEP) for at in range(0, len(text), _STEP))
        lists = sum(text.count(b"[", at, at + _STEP) for at in range(0, len(text), _STEP))
        if quotes > 2**20 + _QUOTES_A_STRING * rows or lists > max(2**17, quotes) * max(1, lists_in(leaf)):
            raise Ragged
        found = _loads(text, self._start)
        return found if batched else [found]

    def _cuts(self, leaf: Leaf) -> Iterator[tuple[int, int]]:
        """Yields where rows of the leaf start and end, a piece at a time; `Ragged` where no row ends in time."""
        body, last = self._body, self._end - 1
        rank = len(leaf.shape)
        between = re.compile(rb"((?:\][ \t\r\n]*){%d}),[ \t\r\n]*(?=\[)" % rank if rank else rb"(),")
        start = self._start + 1
        while last - start > 2 * PIECE_BYTES:
            limit = min(last, start + PIECE_BYTES + row_bytes(leaf))
            cut = between.search(body, start + PIECE_BYTES, limit)
            if cut is None:
                if limit == last:
                    break
                check_row(last - start, leaf)
                raise Ragged
            yield start, cut.end(1)
            start = cut.end()
        yield start, last


class _Numbers:
    """Reads rows of numbers into an array without an object for each."""

    def __init__(self, leaf: Leaf) -> None:
        known = leaf.dtype not in ("string", "bool") and None not in leaf.shape and 0 not in leaf.shape
        self._row = _skeleton(tuple(size or 0 for size in leaf.shape)) if known else b""
        self._shape = tuple(size or 0 for size in leaf.shape)
        self._known = known
        wide: np.dtype[Any] = np.dtype(np.float64)
        self._kind, self._wide = "d", wide
        if leaf.is_integer:
            unsigned = leaf.dtype == "uint64"
            self._kind, self._wide = ("u", np.dtype(np.uint64)) if unsigned else ("i", np.dtype(np.int64))
        self._parser = simdjson.Parser()

    def read(self, text: bytes) -> Array | None:
        """Returns the rows in a JSON list; None where their items have to be read one by one."""
        if not self._known:
            return None
        skeleton = text.translate(None, _NUMBERS)
        rows = (len(skeleton) - 1) // (len(self._row) + 1)
        if skeleton != b"[" + b",".join([self._row] * rows) + b"]":
            return None
        try:
            document: Any = self._parser.parse(text)
            array = np.frombuffer(document.as_buffer(of_type=self._kind), self._wide)
        except (RuntimeError, TypeError, ValueError):
            return None
        finally:
            document = None  # only then can the parser be used again
        if len(array) != rows * int(np.prod(self._shape)):
            return None
        return array.reshape(rows, *self._shape)


def _skeleton(shape: tuple[int, ...]) -> bytes:
    """Returns the text of a value of that shape without its numbers."""
    text = b""
    for size in reversed(shape):
        text = b"[" + b",".join([text] * size) + b"]"
    return text


def _rows_in(text: bytes, at: int) -> list[Any]:
    """Reads a piece whose items are checked one by one."""
    if text.count(b"[") != text.count(b"]"):
        raise Ragged
    rows: list[Any] = _loads(text, at)
    return rows


def _loads(text: bytes, at: int) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        problem = re.sub(r": line \d+.*", "", str(error))
        return json_body.decode_loosely(text, f"{problem}, at byte {at} or after")
