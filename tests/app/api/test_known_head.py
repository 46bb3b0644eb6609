"""A head that a client sends again: what may be taken from it, and what has to be parsed."""

from typing import Any

import pytest

from app.api import known_head
from app.api.http_parser import HEAD_LIMIT_BYTES
from app.api.known_head import Head, KnownHeads
from app.api.request_cycle import Route

NOTHING: Any = None
ROUTE = Route(NOTHING, NOTHING, NOTHING, NOTHING)
HEAD = b"POST /action HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nAccept: */*\r\n\r\n"


def request(body: bytes) -> bytes:
    return HEAD % len(body) + body


def known(body: bytes = b"{}") -> Head:
    head = KnownHeads().learn(request(body), ROUTE, True)
    assert head is not None
    return head


def test_a_whole_request_gives_its_head() -> None:
    head = known(b"12345")
    assert b"POST /action HTTP/1.1" + head.before + b"5" + head.after == HEAD % 5
    assert head.read(request(b"123")) == (ROUTE, b"123")


@pytest.mark.parametrize(
    "data",
    [
        request(b"{}")[:-1],
        request(b"{}") + b"P",
        request(b"{}").replace(b"Content-Length: 2\r\n", b""),
        request(b"{}").replace(b": 2", b": 0000000002"),
        request(b"{}").replace(b": 2", b": two"),
        b"\r\n",
        b"",
    ],
)
def test_anything_else_gives_none(data: bytes) -> None:
    assert KnownHeads().learn(data, ROUTE, True) is None


@pytest.mark.parametrize(
    ("length", "body"), [(b"content-length:2", b"[]"), (b"CONTENT-LENGTH:\t 2", b"[]"), (b"Content-Length: 2 ", None)]
)
def test_the_length_may_have_space_before_it_and_is_parsed_with_space_behind_it(
    length: bytes, body: bytes | None
) -> None:
    data = request(b"{}").replace(b"Content-Length: 2", length)
    head = KnownHeads().learn(data, ROUTE, True)
    assert head is not None
    assert head.read(data.replace(b"{}", b"[]")) == (None if body is None else (ROUTE, body))


@pytest.mark.parametrize("body", [b"", b"{}", b"x" * 100_000, b"\r\n\r\n", request(b"{}")])
def test_a_body_of_any_length_is_found_behind_it(body: bytes) -> None:
    assert known().read(request(body)) == (ROUTE, body)


@pytest.mark.parametrize(
    "data",
    [
        request(b"{}")[:-1],
        request(b"{}") * 2,
        request(b"{}").replace(b"Host: x", b"Host: y"),
        request(b"{}").replace(b"/action", b"/other"),
        request(b"{}").replace(b"POST", b"PUT"),
        b"\r\n" + request(b"{}"),
        b"POST /action HTTP/1.1",
        request(b"{}").replace(b"*/*", b"a/b"),
        request(b"{}").replace(b": 2", b": +2"),
        request(b"{}").replace(b": 2", b":  2"),
        request(b"{}").replace(b": 2", b": 3"),
        request(b"{}").replace(b": 2", b": "),
        HEAD % 2,
        b"",
    ],
)
def test_a_request_that_is_another_or_not_whole_has_no_body_here(data: bytes) -> None:
    assert known().read(data) is None


def test_a_head_alone_announces_its_body() -> None:
    assert known().announces(HEAD % 700) == 700
    other = HEAD.replace(b"/action", b"/other") % 700
    for data in (HEAD % 0, (HEAD % 700)[:-1], request(b"{}"), HEAD.replace(b"%d", b"7a"), HEAD % 10**9, other, b""):
        assert known().announces(data) == 0


def to(path: bytes, fields: bytes = b"Host: x") -> bytes:
    return request(b"{}").replace(b"/action", path).replace(b"Host: x", fields)


def test_what_was_asked_with_the_same_fields_before_is_known_whoever_asked() -> None:
    heads = KnownHeads()
    routes: list[Any] = ["first", "second", "third"]
    mine, _, others = (
        heads.learn(to(path), route, True) for path, route in zip((b"/a", b"/b", b"/c"), routes, strict=True)
    )
    for head in (mine, others):
        assert head is not None
        found = [head.read(to(path)) for path in (b"/a", b"/b", b"/c", b"/d", b"/")]
        assert found == [*((route, b"{}") for route in routes), None, None]
        assert head.read(to(b"/a", b"Host: y")) is None
        assert head.announces(to(b"/b")[:-2]) == 2
        assert head.announces(to(b"/d")[:-2]) == 0
    elsewhere = heads.learn(to(b"/a", b"Host: y"), routes[1], True)
    assert elsewhere is not None
    assert elsewhere.read(to(b"/a", b"Host: y")) == ("second", b"{}")
    assert elsewhere.read(to(b"/b", b"Host: y")) is None


def test_the_first_request_of_a_connection_has_a_head_that_another_one_had() -> None:
    heads = KnownHeads()
    routes: list[Any] = ["first", "second"]
    assert heads.find(to(b"/a")) is None
    learned = [heads.learn(to(path), route, True) for path, route in zip((b"/a", b"/b"), routes, strict=True)]
    closing = heads.learn(to(b"/a", b"Connection: close"), ROUTE, False)
    assert closing is not None
    assert not closing.stays
    assert heads.find(to(b"/a", b"Connection: close")) == closing
    for path, head in zip((b"/a", b"/b"), learned, strict=True):
        assert head is not None
        assert head.stays
        for data in (to(path), to(path)[:-2], to(path).replace(b": 2", b": 700")):  # whole, and with a body to come
            assert heads.find(data) == head
    for data in (to(b"/c"), to(b"/a", b"Host: y"), to(b"/a")[:-3], to(b"/a").replace(b"-Length", b"-length"), b""):
        assert heads.find(data) is None


def test_whether_a_client_stays_follows_from_its_fields_whatever_its_first_line() -> None:
    heads = KnownHeads()
    for path, stays in ((b"/a", False), (b"/b", True)):
        head = heads.learn(to(path, b"Connection: close"), ROUTE, stays)
        assert head is not None
        assert not head.stays


def test_no_head_is_looked_for_beyond_what_one_may_have() -> None:
    heads, long = KnownHeads(), to(b"/a", b"Host: " + b"x" * HEAD_LIMIT_BYTES)
    assert heads.learn(long, ROUTE, True) is None
    assert heads.find(long) is None


@pytest.mark.parametrize(("most", "value"), [("_MOST_LINES", 3), ("_MOST_BYTES", 3 * len(to(b"/0")))])
def test_no_more_is_kept_than_may_be(monkeypatch: pytest.MonkeyPatch, most: str, value: int) -> None:
    monkeypatch.setattr(known_head, most, value)
    heads = KnownHeads()
    first, _, _, fourth = (heads.learn(to(b"/%d" % number), ROUTE, True) for number in range(4))
    assert first is not None
    assert fourth is not None
    assert first.read(to(b"/0")) is not None
    assert first.read(to(b"/2")) is None  # of all connections together, those that are open included
    assert [fourth.read(to(b"/%d" % number)) is not None for number in range(4)] == [False, False, False, True]
