"""The heads that clients send with each of their requests → their bodies, without parsing them again.

A client's heads have the same header fields each time, but for the length. Where its requests go to several policies,
they differ in the first line, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from app.api.request_cycle import Route

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*\r\n", re.IGNORECASE)
_MOST_DIGITS = 9
_END_OF_LINE = b"\r\n"
_END_OF_HEAD = b"\r\n\r\n"
# Of all clients together. A client has the same fields with each of its requests, and asks some policies or sessions.
_MOST_LINES, _LONGEST_LINE = 4096, 1024


class Head(NamedTuple):
    """What heads have in common: the bytes between the first line and the body's length, and those behind that.

    `route_of`: the first line → the route of the body, where it is known.
    """

    before: bytes
    after: bytes
    route_of: Callable[[bytes], Route | None]

    def read(self, request: bytes) -> tuple[Route, bytes] | None:
        """Returns route and body of a request with such a head that is whole and the only one; None of any other."""
        line = request.find(_END_OF_LINE)
        route = self.route_of(request[:line])
        start = line + len(self.before)
        end = request.find(b"\r", start, start + _MOST_DIGITS + 1)
        if route is None or not request.startswith(self.before, line) or not request.startswith(self.after, end):
            return None
        length, body = request[start:end], request[end + len(self.after) :]
        return (route, body) if length.isdigit() and int(length) == len(body) else None

    def announces(self, request: bytes) -> int:
        """Returns the length of the body that follows, where such a head is all of `request`; 0 of any other."""
        line = request.find(_END_OF_LINE)
        start, end = line + len(self.before), len(request) - len(self.after)
        if not 0 < end - start <= _MOST_DIGITS or not request.startswith(self.before, line):
            return 0
        length = request[start:end]
        if request[end:] != self.after or not length.isdigit() or self.route_of(request[:line]) is None:
            return 0
        return int(length)


class KnownHeads:
    """The heads of requests that were parsed, of all connections."""

    def __init__(self) -> None:
        self._heads: dict[tuple[bytes, bytes], dict[bytes, Route]] = {}
        self._lines = 0

    def learn(self, request: bytes, route: Route) -> Head | None:
        """Returns the head of a request that is whole and the only one; None where it is not.

        Args:
          request: as it came.
          route: of its body; what has the same first line and the same header fields goes there, too.
        """
        end = request.find(_END_OF_HEAD) + len(_END_OF_HEAD)
        length = _LENGTH.search(request, 0, end)
        line = request.find(_END_OF_LINE)
        if length is None or end + int(length[1]) != len(request) or line > _LONGEST_LINE:
            return None
        before, after = request[line : length.start(1)], request[length.end(1) : end]
        if self._lines >= _MOST_LINES:
            self.forget()
        routes = self._heads.setdefault((before, after), {})
        if request[:line] not in routes:
            self._lines += 1
            routes[request[:line]] = route
        return Head(before, after, routes.get)

    def forget(self) -> None:
        """Begins anew; connections keep what they have for as long as they last."""
        self._heads, self._lines = {}, 0
