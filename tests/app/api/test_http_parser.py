"""Requests as bytes, cut anywhere; and what takes more than a request may."""

import pytest

from app.api.http_parser import FIELDS_LIMIT, HEAD_LIMIT_BYTES, HttpParser, RequestHead
from app.errors import HeadTooLarge, NotHttp, Refusal, TargetTooLong, Unsupported

PLAIN = b"POST /action HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"POST /action HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;a=b\r\nllo\r\n0\r\nT: x\r\n\r\n"
BARE = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
OLD = b"GET /livez HTTP/1.0\r\n\r\n"
UPGRADE = b"GET /livez HTTP/1.1\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nHost: x\r\n\r\n"


def parsed(data: bytes, step: int = 10**6) -> list[tuple[RequestHead, bytes]]:
    """The requests in `data`, which comes `step` bytes at a time."""
    parser, found, body = HttpParser(), [], b""
    for at in range(0, len(data), step):
        part, start = data[at : at + step], 0
        while start < len(part):
            start = parser.feed(part, start)
            body += b"".join(parser.pieces)
            parser.pieces = []
            if parser.complete:
                assert parser.head is not None
                found.append((parser.head, body))
                body = b""
                parser.next()
    assert not parser.fed, "a request is left unfinished"
    parser.close()
    return found


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 11, 10**6])
def test_requests_are_the_same_however_they_are_cut(step: int) -> None:
    found = parsed(PLAIN + CHUNKED + b"\r\n" + BARE + UPGRADE + PLAIN + OLD, step)
    assert [body for _, body in found] == [b"hello", b"hello", b"", b"", b"hello", b""]
    assert [head.target for head, _ in found] == [*[b"/action"] * 2, *[b"/livez"] * 2, b"/action", b"/livez"]
    assert [head.length for head, _ in found] == [5, None, 0, 0, 5, 0]
    assert [head.keep_alive for head, _ in found] == [True] * 5 + [False]
    assert [head.version for head, _ in found] == ["1.1"] * 5 + ["1.0"]


def test_names_of_fields_are_in_lower_case_and_trailers_are_dropped() -> None:
    (head, _), (chunked, _) = parsed(PLAIN + CHUNKED)
    assert head.headers == [(b"host", b"x"), (b"content-length", b"5")]
    assert chunked.headers == [(b"transfer-encoding", b"chunked")]


def test_an_upgrade_is_parsed_without_what_asks_for_it() -> None:
    ((head, _),) = parsed(UPGRADE)
    assert head.headers == [(b"connection", b"keep-alive"), (b"host", b"x")]


def test_the_rest_of_a_body_is_known_where_its_length_is() -> None:
    parser, part = HttpParser(), PLAIN[:-3]
    end_of_head = parser.feed(part, 0)
    assert parser.rest == 5
    assert parser.feed(part, end_of_head) == len(part)
    assert parser.rest == 3


def filled(size: int) -> bytes:
    return b"GET / HTTP/1.1\r\n" + b"".join(b"x%d: %b\r\n" % (n, b"y" * 1000) for n in range(size // 1000)) + b"\r\n"


@pytest.mark.parametrize("step", [100, 10**6])
@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"GET /" + b"x" * HEAD_LIMIT_BYTES + b" HTTP/1.1\r\n\r\n", TargetTooLong),
        (filled(2 * HEAD_LIMIT_BYTES), HeadTooLarge),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * (FIELDS_LIMIT + 1) + b"\r\n", HeadTooLarge),
        (CHUNKED[:53] + b"1;" + b"x" * (HEAD_LIMIT_BYTES + 100) + b"\r\n", HeadTooLarge),
        (b"\r\n" * 1000 + BARE, NotHttp),
        (b"nonsense\r\n\r\n", NotHttp),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", NotHttp),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", NotHttp),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", Unsupported),
    ],
)
def test_what_is_no_request_or_too_large_is_refused(data: bytes, error: type[Refusal], step: int) -> None:
    with pytest.raises(error):
        parsed(data, step)


def test_as_many_fields_as_may_be_are_read() -> None:
    ((head, _),) = parsed(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * FIELDS_LIMIT + b"\r\n")
    assert len(head.headers) == FIELDS_LIMIT
