"""The heads that clients send with each of their requests → their bodies, without parsing them again.

A client's heads have the same header fields each time, but for the length. Where its requests go to several policies,
they differ in the first line, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from app.api.http_parser import HEAD_LIMIT_BYTES
from app.api.request_cycle import Route

# It gives nothing back: a head of spaces would be gone through again and again.
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*+([0-9]{1,9})[ \t]*+\r\n", re.IGNORECASE)
_MOST_DIGITS = 9
_END_OF_LINE = b"\r\n"
_END_OF_HEAD = b"\r\n\r\n"
# Of all clients together: a client has the same fields with each of its requests, and asks some policies or sessions.
_MOST_LINES, _MOST_BYTES = 4096, 2**22


class Head(NamedTuple):
    """A head, and what others have in common with it: all but the first line, and the digits of the body's length.

    `start`: its bytes before the length; `before`: of these, the ones behind the first line; `after`: those behind the
    length. `route_of`: the first line → the route of the body, where it is known. `stays`: whether the client has its
    connection stay open.
    """

    start: bytes
    before: bytes
    after: bytes
    route: Route
    route_of: Callable[[bytes], Route | None]
    stays: bool

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
        self._heads: dict[tuple[bytes, bytes], tuple[dict[bytes, Route], bool]] = {}
        self._lines = self._bytes = 0

    def find(self, request: bytes) -> Head | None:
        """Returns the head of a request, whose body may be to come; None where no connection had the same."""
        parts = _parts_of(request)
        if parts is None:
            return None
        routes, stays = self._heads.get((parts.before, parts.after), ({}, True))
        return parts.head(request, routes, stays) if parts.line in routes else None

    def learn(self, request: bytes, route: Route, stays: bool) -> Head | None:
        """Returns the head of a request that is whole and the only one; None where it is not.

        Args:
          request: as it came; parsed, and not refused.
          route: of its body; what has the same first line and the same header fields goes there, too.
          stays: whether the client has its connection stay open, which follows from the fields.
        """
        parts = _parts_of(request)
        if parts is None or parts.whole_bytes != len(request):
            return None
        routes, stays = self._heads.get((parts.before, parts.after), ({}, stays))
        if parts.line not in routes:
            if self._lines >= _MOST_LINES or self._bytes + parts.head_bytes > _MOST_BYTES:
                self._forget()
                routes = {}
            self._lines += 1
            self._bytes += parts.head_bytes
            self._heads[parts.before, parts.after] = routes, stays
            routes[parts.line] = route
        return parts.head(request, routes, stays)

    def _forget(self) -> None:
        """Forgets all; a connection keeps its last head, but none of the other first lines."""
        for routes, _ in self._heads.values():
            routes.clear()
        self._heads, self._lines, self._bytes = {}, 0, 0


class _Parts(NamedTuple):
    """Those of a head. `line`: the first one; `before` and `after`: see `Head`; `whole_bytes`: with the body."""

    line: bytes
    before: bytes
    after: bytes
    head_bytes: int
    whole_bytes: int

    def head(self, request: bytes, routes: Mapping[bytes, Route], stays: bool) -> Head:
        """Returns what is known of it. `routes`: the first line → the route, this one's included."""
        start = request[: len(self.line) + len(self.before)]
        return Head(start, self.before, self.after, routes[self.line], routes.get, stays)


def _parts_of(request: bytes) -> _Parts | None:
    """None where its head is not there, is longer than one may be, or does not say how long the body is."""
    end = request.find(_END_OF_HEAD, 0, HEAD_LIMIT_BYTES) + len(_END_OF_HEAD)
    length = _LENGTH.search(request, 0, end)
    if length is None:
        return None
    line = request.find(_END_OF_LINE)
    before, after = request[line : length.start(1)], request[length.end(1) : end]
    return _Parts(request[:line], before, after, end, end + int(length[1]))
