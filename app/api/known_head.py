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
# Of all clients together: a client has the same fields with each of its requests, and asks some policies or sessions.
_MOST_LINES, _MOST_BYTES = 4096, 2**22


class Head(NamedTuple):
    """A head, and what others have in common with it: all but the first line, and the digits of the body's length.

    `start`: its bytes before the length; `before`: of these, the ones behind the first line; `after`: those behind the
    length. `route_of`: the first line → the route of the body, where it is known.
    """

    start: bytes
    before: bytes
    after: bytes
    route: Route
    route_of: Callable[[bytes], Route | None]

    def read(self, request: bytes) -> tuple[Route, bytes] | None:
        """Returns route and body of a request with such a head that is whole and the only one; None of any other."""
        start, route = len(self.start), self.route
        if not request.startswith(self.start):
            start, other = self._start_of(request)
            if other is None:
                return None
            route = other
        end = request.find(b"\r", start, start + _MOST_DIGITS + 1)
        if not request.startswith(self.after, end):
            return None
        length, body = request[start:end], request[end + len(self.after) :]
        return (route, body) if length.isdigit() and int(length) == len(body) else None

    def announces(self, request: bytes) -> int:
        """Returns the length of the body that follows, where such a head is all of `request`; 0 of any other."""
        start, route = self._start_of(request)
        end = len(request) - len(self.after)
        if route is None or not 0 < end - start <= _MOST_DIGITS or request[end:] != self.after:
            return 0
        length = request[start:end]
        return int(length) if length.isdigit() else 0

    def _start_of(self, request: bytes) -> tuple[int, Route | None]:
        """Where the length of its body starts, and the route; None where it has other fields, or is unknown."""
        line = request.find(_END_OF_LINE)
        known = request.startswith(self.before, line)
        return line + len(self.before), self.route_of(request[:line]) if known else None


class KnownHeads:
    """The heads of requests that were parsed, of all connections."""

    def __init__(self) -> None:
        self._heads: dict[tuple[bytes, bytes], dict[bytes, Route]] = {}
        self._lines = self._bytes = 0

    def learn(self, request: bytes, route: Route) -> Head | None:
        """Returns the head of a request that is whole and the only one; None where it is not.

        Args:
          request: as it came.
          route: of its body; what has the same first line and the same header fields goes there, too.
        """
        end = request.find(_END_OF_HEAD) + len(_END_OF_HEAD)
        length = _LENGTH.search(request, 0, end)
        line = request.find(_END_OF_LINE)
        if length is None or end + int(length[1]) != len(request):
            return None
        before, after = request[line : length.start(1)], request[length.end(1) : end]
        routes = self._heads.get((before, after), {})
        if request[:line] not in routes:
            if self._lines >= _MOST_LINES or self._bytes + end > _MOST_BYTES:
                self._heads, self._lines, self._bytes, routes = {}, 0, 0, {}  # connections keep what they have
            self._lines += 1
            self._bytes += end
            self._heads[before, after] = routes
            routes[request[:line]] = route
        return Head(request[: length.start(1)], before, after, route, routes.get)
