"""A large msgpack body → its fields: tensors as views of it, long lists unread, known by where they start and end.

Lengths stand in front of what they are the length of, so that a map with too many keys is refused unread. Where a list
ends can only be found by going through its items; msgspec does that, for a few at a time.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Raw
from msgspec.msgpack import Decoder

from app.errors import DoesNotFit, NotMsgpack, Problem
from app.wire import msgpack_body
from app.wire.long_lists import PIECE_BYTES, SHORT_BYTES, LongList, check_row
from app.wire.tensors import Array
from saver.artifact import Leaf

_MOST_LEVELS = 16
_MOST_NAME_BYTES = 4096
# A single item of a list, a row of an image for example, may take so much.
_MOST_ITEM_BYTES = 4 * 2**20
_SKIP = Decoder(Raw)
_TRAILING = "trailing characters (byte "
_TRUNCATED = "truncated"
_LENGTHS = {0xD9: 1, 0xDA: 2, 0xDB: 4, 0xC4: 1, 0xC5: 2, 0xC6: 4, 0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}
_LENGTHS |= {0xC7: 1, 0xC8: 2, 0xC9: 4}
_FIXED = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4}
_FIXED |= {0xD3: 8, 0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17}
_ANY = Decoder()


def decode(body: bytes, most_keys: int) -> dict[str, Any]:
    """Decodes the map in a body, with a `LongList` for each list that is long.

    Args:
      body: what came.
      most_keys: no map that fits has more keys, those of the maps in it included.

    Raises:
      NotMsgpack: no msgpack map, as far as it was read.
      DoesNotFit: more fields than any request has, or a tensor that is none.
    """
    if msgpack_body.kind_of(body[0]) != "a map":
        return msgpack_body.decode(body[:1])  # says so
    reader = _Reader(body, most_keys)
    fields, end = reader.value(0, "", 0)
    if end != len(body):
        raise NotMsgpack(f"the body is not msgpack: trailing characters (byte {end})")
    if not isinstance(fields, dict):  # three fields that make a tensor
        raise DoesNotFit([Problem("body", "a tensor", "a map with the fields of this policy")])
    return fields


class _Reader:
    """Reads one body from the left."""

    def __init__(self, body: bytes, most_keys: int) -> None:
        self._body = body
        self._most_keys = most_keys
        self._keys_left = most_keys

    def value(self, at: int, where: str, level: int) -> tuple[Any, int]:
        """Returns the value that starts at `at`, and where it ends."""
        kind, count, start = header(self._body, at)
        if kind == "a map":
            return self._map(start, count, where, level)
        if kind == "an array":
            if level > _MOST_LEVELS:
                raise _deep(where)
            found = LongPack(self._body, at, count, start, self._most_keys, level + 1)
            if found.end - at <= SHORT_BYTES:
                return self._short(bytes(self._body[at : found.end]), where), found.end
            return found, found.end
        end = start + count
        if end > len(self._body):
            raise _truncated(self._body)
        if kind == "raw bytes":
            return memoryview(self._body)[start:end], end
        try:
            return _ANY.decode(memoryview(self._body)[at:end]), end
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise NotMsgpack(f"the body is not msgpack: in the value of {where[:100]!r}: {error}") from None

    def _short(self, raw: bytes, where: str) -> Any:
        try:
            return msgpack_body.value_of(Raw(raw), where)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise NotMsgpack(f"the body is not msgpack: {msgpack_body.reason(error, self._body, where)}") from None

    def _map(self, at: int, count: int, where: str, level: int) -> tuple[Any, int]:
        if level > _MOST_LEVELS:
            raise _deep(where)
        self._keys_left -= count
        if self._keys_left < 0:
            expected = "the fields of this policy; see its OpenAPI document at /docs"
            raise DoesNotFit([Problem(where[:200] or "body", f"more than {self._most_keys} fields", expected)])
        found: dict[str, Any] = {}
        for _ in range(count):
            key, at = self._key(at)
            found[key], at = self.value(at, msgpack_body.inside(where, key) if where else key, level + 1)
        tensor = msgpack_body.tensor_in(found, where)
        return (found if tensor is None else tensor), at

    def _key(self, at: int) -> tuple[str, int]:
        kind, count, start = header(self._body, at)
        if kind != "a string":
            raise NotMsgpack("the body is not msgpack: a map with a key that is no string")
        if count > _MOST_NAME_BYTES:
            raise DoesNotFit([Problem("body", f"a name of {count} bytes", "the fields of this policy")])
        end = start + count
        if end > len(self._body):
            raise _truncated(self._body)
        try:
            return self._body[start:end].decode(), end
        except UnicodeDecodeError:
            raise NotMsgpack("the body is not msgpack: a string that is not UTF-8") from None


class LongPack(LongList):
    """An array in a body, read by going through its items, a piece at a time."""

    def __init__(self, body: bytes, at: int, count: int, start: int, most_keys: int, level: int) -> None:
        self._body = body
        self._level = level
        self._at = at
        self._count = count
        self._start = start
        self._most_keys = most_keys
        if count > len(body) - start:
            raise _truncated(body)
        # How many items each piece has, and where it ends.
        self._pieces: list[tuple[int, int]] = []
        self.end = self._skipped()

    def depth(self, most: int) -> int:
        """See `LongList`."""
        deep, start, count = 1, self._start, self._count
        while deep < most and count:
            kind, count, start = header(self._body, start)
            if kind != "an array":
                break
            deep += 1
        return deep

    def children(self, most: int) -> list[Any] | None:
        """See `LongList`."""
        if self._count > most:
            return None
        reader, at, found = _Reader(self._body, self._most_keys), self._start, []
        for _ in range(self._count):
            value, at = reader.value(at, "", self._level)
            found.append(value)
        return found

    def rows(self, leaf: Leaf) -> int:  # noqa: ARG002
        """See `LongList`."""
        return self._count

    def pieces(self, leaf: Leaf, batched: bool) -> Iterator[list[Any] | Array]:
        """See `LongList`."""
        if not batched:
            check_row(self.end - self._at, leaf)
            yield [_decoded(self._body[self._at : self.end])]
            return
        start = self._start
        for count, end in self._pieces:
            check_row(end - start, leaf)
            yield _decoded(_head(count) + self._body[start:end])
            start = end

    def plain(self, most_bytes: int) -> list[Any] | None:
        """See `LongList`."""
        if self.end - self._at > most_bytes:
            return None
        found: list[Any] = _decoded(self._body[self._at : self.end])
        return found

    def _skipped(self) -> int:
        """Returns where the array ends."""
        at, left, guess = self._start, self._count, PIECE_BYTES
        window = PIECE_BYTES
        while left:
            items = min(left, guess)
            size = _extent(self._body, at, items, window)
            if size is not None:
                at += size
                left -= items
                self._pieces.append((items, at))
                # As many as fill a piece, by what these took.
                guess = max(1, items * PIECE_BYTES // (2 * max(1, size)))
            elif items > 1:
                guess = items // 2
            elif window < _MOST_ITEM_BYTES:
                window *= 4
            else:
                # An item larger than any row: a tensor in a list, or a list to be gone through in turn.
                _, at = _Reader(self._body, self._most_keys).value(at, "", self._level)
                left -= 1
                self._pieces.append((1, at))
        return at


def header(body: bytes, at: int) -> tuple[str, int, int]:
    """Returns the kind of a value, how many items or bytes it has, and where these start."""
    try:
        tag = body[at]
    except IndexError:
        raise _truncated(body) from None
    kind = msgpack_body.kind_of(tag)
    if tag in _LENGTHS:
        width = _LENGTHS[tag]
        start = at + 1 + width
        if start > len(body):
            raise _truncated(body)
        return kind, int.from_bytes(body[at + 1 : start], "big") + (kind == "an extension"), start
    if tag in _FIXED:
        return kind, _FIXED[tag], at + 1
    if 0x80 <= tag <= 0x9F:
        return kind, tag & 0x0F, at + 1
    if 0xA0 <= tag <= 0xBF:
        return kind, tag & 0x1F, at + 1
    if tag == 0xC1:
        raise NotMsgpack("the body is not msgpack: invalid opcode '\\xc1'")
    return kind, 0, at + 1


def _extent(body: bytes, at: int, items: int, window: int) -> int | None:
    """Returns how many bytes so many items from `at` on take; None where that is more than the window."""
    head = _head(items)
    part = head + body[at : at + window]
    try:
        _SKIP.decode(part)
    except msgspec.DecodeError as error:
        text = str(error)
        if _TRAILING in text:
            place = int(text[text.index(_TRAILING) + len(_TRAILING) :].rstrip(")"))
            return place - len(head)
        if _TRUNCATED not in text:
            raise NotMsgpack(
                f"the body is not msgpack: {text.removeprefix(_MALFORMED)}, at byte {at} or after"
            ) from None
        if at + window >= len(body) and items == 1:
            raise _truncated(body) from None
        return None
    except RecursionError:
        raise NotMsgpack("the body is not msgpack: nested too deep") from None
    return len(part) - len(head)


_MALFORMED = "MessagePack data is malformed: "


def _head(count: int) -> bytes:
    return b"\xdd" + struct.pack(">I", count)


def _decoded(raw: bytes) -> Any:
    try:
        return msgpack_body.plain_of(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error).removeprefix(_MALFORMED)
        raise NotMsgpack(f"the body is not msgpack: {reason}") from None


def _deep(where: str) -> NotMsgpack:
    return NotMsgpack(f"{where[:100]} is nested too deep, expected at most {_MOST_LEVELS} levels")


def _truncated(body: bytes) -> NotMsgpack:
    return NotMsgpack(f"the body is not msgpack: it ends within a value, after {len(body)} bytes")
