"""The head that a client sends with each of its requests → their bodies, without parsing it again."""

from __future__ import annotations

import re
from typing import NamedTuple

from app.api.request_cycle import Route

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*\r\n", re.IGNORECASE)
_MOST_DIGITS = 9
_END_OF_HEAD = b"\r\n\r\n"


class Head(NamedTuple):
    """The bytes before and after the body's length in the head of a request, and the route of its body."""

    before: bytes
    after: bytes
    route: Route

    @classmethod
    def of(cls, request: bytes, route: Route) -> Head | None:
        """Returns the head of a request that is whole and the only one; None where it is not."""
        end = request.find(_END_OF_HEAD) + len(_END_OF_HEAD)
        length = _LENGTH.search(request, 0, end)
        if length is None or end + int(length[1]) != len(request):
            return None
        return cls(request[: length.start(1)], request[length.end(1) : end], route)

    def body_in(self, request: bytes) -> bytes | None:
        """Returns the body of a request with this head that is whole and the only one; None of any other."""
        start = len(self.before)
        end = request.find(b"\r", start, start + _MOST_DIGITS + 1)
        if not request.startswith(self.before) or not request.startswith(self.after, end):
            return None
        length, body = request[start:end], request[end + len(self.after) :]
        return body if length.isdigit() and int(length) == len(body) else None

    def announces(self, request: bytes) -> int:
        """Returns the length of the body that follows, where this head is all of `request`; 0 of any other."""
        start = len(self.before)
        end = len(request) - len(self.after)
        if not 0 < end - start <= _MOST_DIGITS or not request.startswith(self.before) or request[end:] != self.after:
            return 0
        length = request[start:end]
        return int(length) if length.isdigit() else 0
