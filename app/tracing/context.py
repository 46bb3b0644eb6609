"""The headers `traceparent` and `tracestate` of W3C Trace Context → the caller's span. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

TRACEPARENT, TRACESTATE = b"traceparent", b"tracestate"
# A version that is not known yet may have more after the flags.
_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NO_VERSION = b"ff"
_SAMPLED = 1


class Parent(NamedTuple):
    """The span of the caller. `state`: the header tracestate as it came, or ""."""

    trace_id: int
    span_id: int
    sampled: bool
    state: str = ""


def parent_in(headers: Iterable[tuple[bytes, bytes]]) -> Parent | None:
    """Returns the span that a request's headers name (names in lower case); None where they name none rightly."""
    found = None
    for name, value in headers:
        if name == TRACEPARENT:
            if found is not None:  # two are as good as none
                return None
            found = value
    return None if found is None else _parsed(found, headers)


def _parsed(text: bytes, headers: Iterable[tuple[bytes, bytes]]) -> Parent | None:
    match = _TRACEPARENT.fullmatch(text.strip(b" \t"))
    if match is None or match[1] == _NO_VERSION or (match[1] == b"00" and match[5] is not None):
        return None
    trace_id, span_id = int(match[2], 16), int(match[3], 16)
    if not trace_id or not span_id:
        return None
    sampled = bool(int(match[4], 16) & _SAMPLED)
    state = b",".join(value for name, value in headers if name == TRACESTATE) if sampled else b""
    return Parent(trace_id, span_id, sampled, state.decode("latin-1"))
