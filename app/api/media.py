"""The media types of a data request → what reads its body, and what writes its answer."""

from __future__ import annotations

from app.errors import UnknownMediaType
from app.wire.codec import JSON, Codec

# What curl and HTML forms send unasked counts as JSON too.
_JSON_TYPES = ("", "application/json", "application/x-www-form-urlencoded", "text/json")
_BY_TYPE: dict[str, Codec] = dict.fromkeys(_JSON_TYPES, JSON)


def codecs_of(content_type: str, accept: str) -> tuple[Codec, Codec]:
    """(that of the body, that of the answer), from the two headers; "" where there is none.

    Raises:
      UnknownMediaType: nothing reads it.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type not in _BY_TYPE:
        raise UnknownMediaType(f"content type {media_type!r}, expected application/json")
    reads = _BY_TYPE[media_type]
    return reads, reads
