"""Bytes of a connection → requests, one at a time, by httptools; with the bounds that it lacks.

httptools goes through all that it is given, however many requests that is, and stops at an upgrade. Here it is given
no more than the rest of one head, or of one body; and a request that would like to go on in another protocol is
parsed again without that field.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import httptools

from app.errors import HeadTooLarge, NotHttp, TargetTooLong, Unsupported

Headers = list[tuple[bytes, bytes]]
# What servers commonly take: nginx 8 KiB a line and 32 KiB in all, Apache 100 fields of 8 KiB.
HEAD_LIMIT_BYTES = 64 * 1024
FIELDS_LIMIT = 128
# A chunk of one byte has five more around it.
_FRAMING_PER_BYTE = 8
# A client may send empty lines between two requests; one is usual.
_BLANK_LIMIT_BYTES = 1024
# Extensions of chunks and trailers are checked after so many bytes.
_STEP_BYTES = 16 * 1024
_END = b"\r\n\r\n"
_BLANK = b"\r\n"
_HOP_BY_HOP = {b"upgrade", b"http2-settings"}


class RequestHead(NamedTuple):
    """The head of a request; names of header fields in lower case.

    `length`: of the body; None where it is chunked. `upgrade`: all header fields, of a GET that asks for another
    protocol; `headers` has them without that wish.
    """

    method: bytes
    target: bytes
    version: str
    headers: Headers
    keep_alive: bool
    length: int | None
    upgrade: Headers | None = None


class HttpParser:
    """Parses a connection.

    `head`: of the request under way, once that is complete. `pieces`: of its body, to be taken by the caller.
    `complete`: whether the request is. `fed`: whether anything of it has come.
    """

    def __init__(self) -> None:
        self._parser: Any = None  # made when something is parsed: most connections never need it
        self.next()

    def next(self) -> None:
        """Starts with the next request."""
        self.head: RequestHead | None = None
        self.pieces: list[bytes] = []
        self.complete = False
        self.fed = False
        self._target = b""
        self._headers: Headers = []
        self._line_over = False
        self._blank = 0
        self._rest = 0
        self._framing = 0  # bytes that are not the body's
        self._allowed = HEAD_LIMIT_BYTES
        self._tail = b""

    @property
    def rest(self) -> int | None:
        """Bytes of the body that are still to come; None where that is unknown."""
        return self._rest if self.head is not None and self.head.length is not None else None

    def feed(self, data: bytes, start: int) -> int:
        """Parses from `start` to the end of the head, of the request, or of `data`, and returns where that is.

        Raises:
          NotHttp: that is no request.
          HeadTooLarge, TargetTooLong: it takes more than a request may.
          Unsupported: it asks for a tunnel.
        """
        if not self.fed:
            after = self._skip_blank(data, start)
            if after > start:
                return after
        self.fed = True
        if self.head is not None and self.head.length is not None:
            end = min(len(data), start + self._rest)
            self._rest -= end - start
            self._execute(data, start, end)
            return end
        stop = len(data) if self.head is None else min(len(data), start + _STEP_BYTES)
        end = self._end_of_lines(data, start, stop)
        self._framing += end - start
        if self.head is None:
            if self._framing > self._allowed:
                self._refuse_head(data, start, end)
            self._line_over = self._line_over or data.find(b"\n", start, end) >= 0
        self._execute(data, start, end)
        head: RequestHead | None = self.head
        if head is None:
            return end
        if len(head.headers) > FIELDS_LIMIT:
            raise HeadTooLarge(f"the request has {len(head.headers)} header fields, at most {FIELDS_LIMIT} are read")
        if head.length is None:
            self._check_framing()
        return end

    def _check_framing(self) -> None:
        body = sum(map(len, self.pieces))
        self._framing -= body
        self._allowed += _FRAMING_PER_BYTE * body
        if self._framing > self._allowed:
            raise HeadTooLarge("the chunks' extensions and trailers are larger than their data")

    def _skip_blank(self, data: bytes, start: int) -> int:
        if data[start] not in _BLANK:
            return start
        piece = data[start : start + _BLANK_LIMIT_BYTES]
        size = len(piece) - len(piece.lstrip(_BLANK))
        self._blank += size
        if self._blank > _BLANK_LIMIT_BYTES:
            raise NotHttp("this is no HTTP request: empty lines")
        return start + size

    def _end_of_lines(self, data: bytes, start: int, stop: int) -> int:
        """Returns where the next empty line ends, which may start in what was fed before; `stop` without one."""
        tail = self._tail
        if tail and (found := (tail + data[start : min(start + 3, stop)]).find(_END)) >= 0:
            end = start + found + len(_END) - len(tail)
        elif (found := data.find(_END, start, stop)) >= 0:
            end = found + len(_END)
        else:
            self._tail = (tail + data[max(start, stop - 3) : stop])[-3:]
            return stop
        self._tail = b""
        return end

    def _refuse_head(self, data: bytes, start: int, end: int) -> None:
        allowed_end = end - (self._framing - self._allowed)
        if not self._line_over and data.find(b"\n", start, allowed_end) < 0:
            raise TargetTooLong(f"the request's target takes more than {HEAD_LIMIT_BYTES} bytes")
        raise HeadTooLarge(f"the request's head has more than {HEAD_LIMIT_BYTES} bytes")

    def _execute(self, data: bytes, start: int, end: int) -> None:
        if self._parser is None:
            self._new_parser()
        try:
            self._parser.feed_data(data if end - start == len(data) else memoryview(data)[start:end])
        except httptools.HttpParserUpgrade:
            self._without_upgrade()
        except httptools.HttpParserError as error:
            raise NotHttp(f"this is no HTTP request: {error}") from None

    def _without_upgrade(self) -> None:
        """Parses the head again, which was the last that was fed, without the fields that ask for another protocol."""
        head = self.head
        assert head is not None
        if head.method == b"CONNECT":
            raise Unsupported("CONNECT asks for a tunnel, and this is no proxy")
        lines = [b"%b %b HTTP/%b" % (head.method, head.target, head.version.encode())]
        for name, value in head.headers:
            if name == b"connection":
                options = (option.strip() for option in value.split(b","))
                value = b", ".join(option for option in options if option.lower() not in _HOP_BY_HOP)
            if name not in _HOP_BY_HOP:
                lines.append(b"%b: %b" % (name, value))
        framing, tail = self._framing, self._tail
        self.next()
        self.fed, self._framing, self._tail = True, framing, tail
        self._new_parser()
        self._parser.feed_data(b"\r\n".join((*lines, b"", b"")))
        if head.method == b"GET" and self.head is not None:
            self.head = self.head._replace(upgrade=head.headers)

    def _new_parser(self) -> None:
        self._parser = httptools.HttpRequestParser(self)

    def close(self) -> None:
        """Drops httptools' parser, which refers to this object."""
        self._parser = None

    # What httptools calls.

    def on_url(self, url: bytes) -> None:
        """Collects the request's target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collects a header field; fields behind a chunked body are dropped."""
        if self.head is None:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Makes the head."""
        length: int | None = 0
        for name, value in self._headers:
            if name == b"content-length":
                length = self._rest = int(value)
            elif name == b"transfer-encoding":
                length = None
        parser = self._parser
        self.head = RequestHead(
            parser.get_method(),
            self._target,
            parser.get_http_version(),
            self._headers,
            parser.should_keep_alive(),
            length,
        )

    def on_body(self, piece: bytes) -> None:
        """Collects a piece of the body."""
        self.pieces.append(piece)

    def on_message_complete(self) -> None:
        """Notes that the request is complete."""
        self.complete = True
