"""A head that a client sends again: what may be taken from it, and what has to be parsed."""

from typing import Any

import pytest

from app.api.known_head import Head

ROUTE: Any = "the route"
HEAD = b"POST /action HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nAccept: */*\r\n\r\n"


def request(body: bytes) -> bytes:
    return HEAD % len(body) + body


def known(body: bytes = b"{}") -> Head:
    head = Head.of(request(body), ROUTE)
    assert head is not None
    return head


def test_a_whole_request_gives_its_head() -> None:
    head = known(b"12345")
    assert head.before + b"5" + head.after == HEAD % 5
    assert head.route is ROUTE


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
    assert Head.of(data, ROUTE) is None


@pytest.mark.parametrize(
    ("length", "body"), [(b"content-length:2", b"[]"), (b"CONTENT-LENGTH:\t 2", b"[]"), (b"Content-Length: 2 ", None)]
)
def test_the_length_may_have_space_before_it_and_is_parsed_with_space_behind_it(
    length: bytes, body: bytes | None
) -> None:
    data = request(b"{}").replace(b"Content-Length: 2", length)
    head = Head.of(data, ROUTE)
    assert head is not None
    assert head.body_in(data.replace(b"{}", b"[]")) == body


@pytest.mark.parametrize("body", [b"", b"{}", b"x" * 100_000, b"\r\n\r\n", request(b"{}")])
def test_a_body_of_any_length_is_found_behind_it(body: bytes) -> None:
    assert known().body_in(request(body)) == body


@pytest.mark.parametrize(
    "data",
    [
        request(b"{}")[:-1],
        request(b"{}") * 2,
        request(b"{}").replace(b"Host: x", b"Host: y"),
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
    assert known().body_in(data) is None


def test_a_head_alone_announces_its_body() -> None:
    assert known().announces(HEAD % 700) == 700
    for data in (HEAD % 0, (HEAD % 700)[:-1], request(b"{}"), HEAD.replace(b"%d", b"7a"), HEAD % 10**9, b""):
        assert known().announces(data) == 0
