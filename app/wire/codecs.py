"""The headers of a request → the codecs that read its body and write its answer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app.errors import UnknownMediaType
from app.wire import json_body, large_json, large_msgpack, msgpack_body
from app.wire.limits import SMALL_BYTES


@dataclass(frozen=True)
class Codec:
    """Bytes ⇄ structures of arrays, under the name that headers have for it."""

    media_type: str
    decode: Callable[[bytes], dict[str, Any]]
    encode: Callable[[Any], bytes]
    # For bodies beyond `SMALL_BYTES`, with the most names of fields that one may have.
    decode_large: Callable[[bytes, int], dict[str, Any]]

    def decode_any(self, body: bytes, most_keys: int) -> dict[str, Any]:
        """Decodes a body of any size; long lists of a large one are a `LongList` each. Raises as `decode` does."""
        return self.decode(body) if len(body) <= SMALL_BYTES else self.decode_large(body, most_keys)

    @functools.cached_property
    def header(self) -> bytes:
        """The value of a Content-Type header."""
        return self.media_type.encode()


JSON = Codec("application/json", json_body.decode, json_body.encode, large_json.decode)
MSGPACK = Codec("application/msgpack", msgpack_body.decode, msgpack_body.encode, large_msgpack.decode)
# No content type, and what curl and HTML forms send unasked, count as JSON too.
_CODECS = {
    **dict.fromkeys((JSON.media_type, "", "application/x-www-form-urlencoded", "text/json"), JSON),
    **dict.fromkeys((MSGPACK.media_type, "application/x-msgpack", "application/vnd.msgpack"), MSGPACK),
}
_ANY = {"*/*", "application/*"}


def reader_of(content_type: str) -> Codec:
    """Returns the codec for a request's `Content-Type`.

    Raises:
      UnknownMediaType: there is none.
    """
    media_type = _name(content_type)
    try:
        return _CODECS[media_type]
    except KeyError:
        known = f"{JSON.media_type} or {MSGPACK.media_type}"
        raise UnknownMediaType(f"content type {media_type!r}, expected {known}") from None


def writer_of(accept: str, reader: Codec) -> Codec:
    """Returns the codec for the answer: that of the request, unless `Accept` names the other one alone."""
    ranges = {_name(part) for part in accept.split(",")} - {""}
    named = {_CODECS[name].media_type for name in ranges if name in _CODECS}
    if named == {MSGPACK.media_type}:
        return MSGPACK
    if named == {JSON.media_type} and not ranges & _ANY:
        return JSON
    return reader


def _name(header: str) -> str:
    return header.partition(";")[0].strip().lower()
