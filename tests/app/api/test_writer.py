"""Answers become bytes: framed, held back with others where they may be, and bounded where nobody reads them."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from fastapi import Response
from uvicorn.server import ServerState

from app.api.access import UNIX_SOCKET
from app.api.connection_limits import HttpLimits, SharedLimits
from app.api.writer import CLOSED, AnswerWriter
from app.batching.cork import Cork
from app.memory import FreedMemory

pytestmark = pytest.mark.anyio


class Transport(asyncio.Transport):
    """A transport of which nothing is read, and which keeps what is written."""

    def __init__(self, peer: object = "") -> None:
        super().__init__({"socket": SimpleNamespace(getpeername=lambda: peer)})
        self.written = b""
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def abort(self) -> None:
        self.aborted = True

    def get_write_buffer_size(self) -> int:
        return len(self.written)


class Writer(AnswerWriter):
    """A connection that notes when an answer is over. `would_stay`: what it says when it is asked."""

    would_stay = True

    def __init__(self, state: ServerState | None = None, peer: object = "") -> None:
        super().__init__(state or ServerState())
        self.shared = SharedLimits(HttpLimits(), FreedMemory())
        self.cork = Cork()
        self.sent = Transport(peer)
        self.transport = self.sent
        self.answers = self.settled = 0

    def answered(self) -> None:
        self.answers += 1

    def may_stay(self) -> bool:
        return self.would_stay

    def settle(self) -> None:
        self.settled += 1


async def test_a_usual_answer_has_the_servers_fields_and_its_own() -> None:
    state = ServerState()
    state.default_headers = [(b"date", b"today"), (b"server", b"here")]
    writer = Writer(state)
    writer.write_answer(b"application/json", b'{"action":1}')
    assert writer.sent.written == (
        b"HTTP/1.1 200 OK\r\ndate: today\r\nserver: here\r\n"
        b'content-length: 12\r\ncontent-type: application/json\r\n\r\n{"action":1}'
    )
    assert writer.answers == 1


async def test_the_servers_fields_are_those_of_the_second_in_which_it_is_written() -> None:
    state = ServerState()
    state.default_headers = [(b"date", b"today")]
    first, second = Writer(state), Writer(state)
    first.write_answer(b"x", b"")
    state.default_headers = [(b"date", b"tomorrow")]
    first.write_answer(b"x", b"")
    second.write_answer(b"x", b"")
    assert first.sent.written.count(b"date: today\r\n") == first.sent.written.count(b"date: tomorrow\r\n") == 1
    assert b"date: tomorrow\r\n" in second.sent.written


async def test_a_response_keeps_its_status_and_its_fields() -> None:
    writer = Writer()
    writer.write_response(Response(b"no", 429, {"retry-after": "1"}, "text/plain"))
    head, _, body = writer.sent.written.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
    assert {b"retry-after: 1", b"content-length: 2"} <= set(head.split(b"\r\n"))
    assert body == b"no"
    assert writer.answers == 1


@pytest.mark.parametrize(
    ("odd", "would_stay", "says_close"), [(True, False, True), (True, True, False), (False, False, False)]
)
async def test_only_a_connection_with_more_to_do_is_asked_whether_it_stays(
    odd: bool, would_stay: bool, says_close: bool
) -> None:
    writer = Writer()
    writer.odd, writer.would_stay = odd, would_stay
    writer.write_answer(b"x", b"")
    assert writer.sent.written.endswith(b"\r\nconnection: close\r\n\r\n") is says_close
    assert writer.stays is not says_close


async def test_one_that_is_to_close_says_so_even_where_it_might_stay() -> None:
    writer = Writer()
    writer.odd = True
    writer.close_after_answer()
    writer.write_answer(b"x", b"")
    assert writer.sent.written.endswith(b"\r\nconnection: close\r\n\r\n")


def delivered_together(writer: Writer, *calls: Callable[[], None]) -> None:
    """Makes the calls as batches that are delivered together."""
    writer.cork.run([*calls, lambda: None])


async def test_usual_answers_leave_together_where_batches_are_delivered_together() -> None:
    writer = Writer()

    def first() -> None:
        writer.write(b"one,")
        writer.write(b"two")
        assert writer.sent.written == b""

    delivered_together(writer, first)
    assert writer.sent.written == b"one,two"


@pytest.mark.parametrize("why", ["odd", "closes"])
async def test_what_is_not_the_usual_answer_leaves_at_once_and_behind_those_before_it(why: str) -> None:
    writer = Writer()

    def deliver() -> None:
        writer.write(b"usual,")
        writer.odd, writer.stays = why == "odd", why != "closes"
        writer.write(b"last")
        assert writer.sent.written == b"usual,last"

    delivered_together(writer, deliver)


async def test_nothing_is_written_to_a_connection_that_closes() -> None:
    writer = Writer()
    delivered_together(writer, lambda: writer.write(b"held"), writer.abort)
    assert writer.sent.aborted
    assert writer.sent.written == b""


async def test_answers_count_as_unread_only_while_the_client_does_not_read() -> None:
    writer = Writer()
    writer.write(b"before")
    assert writer.shared.unread.total_bytes == 0
    writer.pause_writing()
    writer.write(b"x" * 1000)
    assert writer.shared.unread.total_bytes == 1000
    assert writer.unread_bytes() == 1006
    assert writer.settled == 0
    writer.resume_writing()
    assert writer.shared.unread.total_bytes == 0
    assert writer.settled == 1


async def test_who_writes_a_long_answer_waits_until_the_client_has_read() -> None:
    writer = Writer()
    await writer.drain()
    writer.pause_writing()
    waiting = asyncio.create_task(writer.drain())
    await asyncio.sleep(0)
    assert not waiting.done()
    writer.resume_writing()
    await waiting


async def test_nobody_waits_for_the_client_of_a_connection_that_closes() -> None:
    writer = Writer()
    writer.pause_writing()
    writer.abort()
    await writer.drain()


@pytest.mark.parametrize(
    ("peer", "client"),
    [("", UNIX_SOCKET), (("192.0.2.7", 50_000), "192.0.2.7"), (("2001:db8::1", 50_000, 0, 0), "2001:db8::/64")],
)
async def test_a_client_counts_by_its_address(peer: object, client: str) -> None:
    assert Writer(peer=peer).client() == client


async def test_what_is_done_to_a_lost_connection_does_nothing() -> None:
    writer = Writer()
    writer.transport = CLOSED
    writer.write_answer(b"x", b"late")
    writer.abort()
    assert writer.unread_bytes() == 0
    assert writer.transport.is_closing()
    assert writer.sent.written == b""
