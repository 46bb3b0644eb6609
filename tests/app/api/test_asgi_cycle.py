"""A request that an ASGI application answers: its scope, its messages, and what is written of the answer."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from app.api.asgi_cycle import AsgiCycle, scope_of
from app.api.http_parser import RequestHead
from app.errors import RequestTimeout

pytestmark = pytest.mark.anyio


def head(method: bytes = b"GET", target: bytes = b"/", version: str = "1.1", **fields: str) -> RequestHead:
    headers = [(name.encode(), value.encode()) for name, value in fields.items()]
    return RequestHead(method, target, version, headers, version == "1.1", 0)


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/action", "/action", b""),
        (b"/a%20b?c=%20d", "/a b", b"c=%20d"),
        (b"/a#part", "/a", b""),
        (b"/a?b#part", "/a", b"b"),
        (b"http://elsewhere/action?x", "/action", b"x"),
        (b"http://elsewhere", "/", b""),
        (b"http://elsewhere?a=/b", "/", b"a=/b"),
        (b"*", "*", b""),
    ],
)
def test_the_target_becomes_path_and_query(target: bytes, path: str, query: bytes) -> None:
    scope = scope_of(head(target=target), "", None, None)
    assert (scope["path"], scope["query_string"]) == (path, query)


def test_the_prefix_that_a_proxy_strips_is_part_of_the_path() -> None:
    scope = scope_of(head(target=b"/%61"), "/prefix", ("10.0.0.1", 5), None)
    assert (scope["path"], scope["raw_path"], scope["root_path"]) == ("/prefix/a", b"/prefix/%61", "/prefix")
    assert scope["client"] == ("10.0.0.1", 5)


class Connection:
    """A connection that keeps what is written."""

    def __init__(self) -> None:
        self.written, self.status, self.ends, self.aborted = b"", b"", False, False
        self.response: Any = None

    def write_head(self, status: bytes, fields: bytes, body: bytes) -> None:
        self.status = status.split(b" ")[1]
        self.written += fields + b"\r\n" + body

    def write(self, data: bytes) -> None:
        self.written += data

    def write_response(self, response: Any) -> None:
        self.response = response

    def write_answer(self, media_type: bytes, body: bytes) -> None: ...

    async def drain(self) -> None: ...

    def close_after_answer(self) -> None:
        self.ends = True

    def regulate(self) -> None: ...

    def abort(self) -> None:
        self.aborted = True

    def answered(self) -> None: ...


def sending(*messages: dict[str, Any]) -> Callable[..., Any]:
    async def app(_: Any, __: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    return app


def start(status: int = 200, **fields: str) -> dict[str, Any]:
    headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
    return {"type": "http.response.start", "status": status, "headers": headers}


def part(body: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


async def answered(request: RequestHead, *messages: dict[str, Any]) -> Connection:
    connection = Connection()
    await AsgiCycle(connection, request, {}).run(sending(*messages))
    return connection


@pytest.mark.parametrize(
    ("request_head", "messages", "written"),
    [
        (head(), [start(), part(b"abc")], b"content-length: 3\r\n\r\nabc"),
        (head(), [start(content_length="3"), part(b"a", True), part(b"bc")], b"content-length: 3\r\n\r\nabc"),
        (
            head(),
            [start(), part(b"abc", True), part(b"", True), part(b"d")],
            b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n",
        ),
        (head(b"HEAD"), [start(content_length="3"), part(b"abc")], b"content-length: 3\r\n\r\n"),
        (head(), [start(204), part(b"")], b"\r\n"),
        (head(), [start(X="y"), part(b"")], b"x: y\r\ncontent-length: 0\r\n\r\n"),
    ],
)
async def test_an_answer_is_framed_by_what_is_known_of_it(
    request_head: RequestHead, messages: list[Any], written: bytes
) -> None:
    connection = await answered(request_head, *messages)
    assert (connection.written, connection.ends, connection.aborted) == (written, False, False)


async def test_an_answer_of_unknown_length_ends_with_the_connection_of_http_1_0() -> None:
    connection = await answered(head(version="1.0"), start(), part(b"a", True), part(b"b"))
    assert (connection.written, connection.ends) == (b"\r\nab", True)


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [part(b"a")],
        [start(bad="a\r\nb"), part(b"")],
        [{"type": "http.other"}],
    ],
)
async def test_an_application_that_fails_before_its_answer_is_answered_for(messages: list[Any]) -> None:
    connection = await answered(head(), *messages)
    assert connection.written == b""
    assert connection.response.status_code == 500


@pytest.mark.parametrize(
    "messages",
    [
        [start(content_length="1"), part(b"ab")],
        [start(content_length="3"), part(b"ab")],
        [start(), part(b"ab", True)],
        [start(), part(b"", True), start()],
    ],
)
async def test_an_answer_that_was_started_and_cannot_be_finished_aborts_the_connection(messages: list[Any]) -> None:
    connection = await answered(head(), *messages)
    assert connection.aborted
    assert connection.response is None


async def test_a_client_that_expects_it_is_asked_for_the_body_when_the_application_reads() -> None:
    connection = Connection()
    got: list[bytes] = []

    async def app(_: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] == "http.request":
            got.append(message["body"])
            if not message["more_body"]:
                break
        await sending(start(), part(b""))(None, None, send)

    cycle = AsgiCycle(connection, head(b"POST", expect="100-Continue"), {})
    assert cycle.expects
    running = asyncio.create_task(cycle.run(app))
    await asyncio.sleep(0)
    assert connection.written == b"HTTP/1.1 100 Continue\r\n\r\n"
    cycle.receive(b"ab")
    assert (cycle.expects, cycle.buffered_bytes, cycle.unread_body_bytes) == (False, 2, 2)
    await asyncio.sleep(0)
    cycle.complete()
    await running
    assert b"".join(got) == b"ab"
    assert cycle.over


async def test_a_refusal_of_the_connection_takes_the_place_of_the_applications_answer() -> None:
    connection, seen = Connection(), []

    async def app(_: Any, receive: Any, send: Any) -> None:
        seen.append(await receive())
        await sending(start(), part(b"too late"))(None, None, send)

    cycle = AsgiCycle(connection, head(b"POST"), {})
    running = asyncio.create_task(cycle.run(app))
    await asyncio.sleep(0)
    cycle.refuse(RequestTimeout("slow"))
    await running
    assert connection.response.status_code == 408
    assert seen == [{"type": "http.disconnect"}]
    assert connection.written == b""
