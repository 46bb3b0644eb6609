"""What members answer each other over HTTP, and what is made of answers that are none."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from app.errors import NotReady, Refusal, SwapRefused, UnknownVersion
from app.fleet import peers
from app.fleet.peers import Answer, ask_peers, find_newest, post_to_all, redis_is_gone, reload_at
from app.fleet.store import Member

pytestmark = pytest.mark.anyio

NOWHERE = "http://127.0.0.1:9"
CLOSES, WAITS = 0, 1


class Peer:
    """A member that answers every request alike, and notes what it was asked.

    `status`: of HTTP; or it answers nothing, and closes the connection or waits until the other side does.
    """

    def __init__(self, status: int, body: object = None) -> None:
        self.status = status
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.asked: list[tuple[str, str, Any]] = []
        self.url = ""
        self.connections: set[asyncio.Task[None] | None] = set()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.add(asyncio.current_task())
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
        body = await reader.readexactly(int(fields.get("content-length", 0)))
        self.asked.append((head.split()[1], fields.get("authorization", ""), json.loads(body) if body else None))
        if self.status not in (CLOSES, WAITS):
            writer.write(b"HTTP/1.1 %d Any\r\nContent-Length: %d\r\n\r\n" % (self.status, len(self.body)) + self.body)
            await writer.drain()
        if self.status != CLOSES:
            await reader.read()
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def answering(*peers: Peer) -> AsyncIterator[list[str]]:
    async with AsyncExitStack() as stack:
        for peer in peers:
            server = await stack.enter_async_context(await asyncio.start_server(peer.answer, "127.0.0.1", 0))
            peer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield [peer.url for peer in peers]
        await asyncio.wait({task for peer in peers for task in peer.connections if task is not None})


def ready(member: str, reaches: bool = True, **applied: int) -> dict[str, Any]:
    return {"status": "ready", "fleet": {"member": member, "reaches": reaches, "applied": applied}}


async def test_members_say_what_they_serve_whether_they_are_ready_or_not() -> None:
    async with answering(Peer(200, ready("a", p=3)), Peer(503, ready("b", False))) as (one, two):
        answers = await ask_peers([Member("a", one, 0.0), Member("b", two, 0.0)])
    assert sorted(answers, key=lambda answer: answer.member) == [Answer("a", True, {"p": 3}), Answer("b", False, {})]


async def test_who_is_not_there_or_somebody_else_says_nothing() -> None:
    odd = [Peer(200, ready("another")), Peer(200, b"{"), Peer(200, {"status": "ready"}), Peer(200, ready("d"))]
    async with answering(*odd) as urls:
        asked = [Member(name, url, 0.0) for name, url in zip("abcd", urls, strict=True)]
        assert await ask_peers([*asked, Member("e", NOWHERE, 0.0)]) == [Answer("d", True, {})]
    assert await ask_peers([]) == []


async def test_one_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "_PATIENCE_S", 0.02)
    async with answering(Peer(WAITS)) as [url]:
        assert await ask_peers([Member("a", url, 0.0)]) == []


LOST, REACHES = Answer("m", False, {"p": 3}), Answer("m", True, {"p": 3})


@pytest.mark.parametrize(
    ("known", "answers", "applied", "gone"),
    [
        (0, [], {"p": 3}, True),  # it is the only one
        (1, [], {"p": 3}, False),  # one of two may have been cut off
        (1, [LOST], {"p": 3}, True),
        (2, [LOST], {"p": 3}, True),
        (3, [LOST], {"p": 3}, False),  # two of four: the other two may go on without them
        (3, [LOST, LOST], {"p": 3}, True),
        (2, [LOST, REACHES], {"p": 3}, False),
        (2, [LOST, LOST], {"p": 2}, False),  # they serve something later
        (2, [LOST, LOST], {"p": 4}, True),
        (2, [LOST, LOST], {"p": 3, "q": 1}, True),  # they know nothing of q
        (2, [LOST, LOST], {"q": 1}, True),  # nor this one of p
    ],
)
def test_redis_is_gone_where_most_say_so_and_none_serves_something_later(
    known: int, answers: list[Answer], applied: Mapping[str, int], gone: bool
) -> None:
    assert redis_is_gone(known, answers, applied) == gone


async def test_members_are_asked_with_the_secret_and_those_that_refuse_are_named_with_their_reasons() -> None:
    done, refuses, silent = Peer(200, {}), Peer(409, {"detail": "no folder can be written"}), Peer(CLOSES)
    async with answering(done, refuses, silent) as urls:
        reasons = await post_to_all([*urls, NOWHERE], "/uploads/c", {"digest": "d"}, "the secret")
    assert done.asked == refuses.asked == [("/uploads/c", "bearer the secret", {"digest": "d"})]
    assert list(reasons) == [refuses.url, silent.url, NOWHERE]
    assert "no folder can be written" in reasons[refuses.url]
    assert all(reasons.values())


async def test_a_reason_is_cut_where_a_member_answers_at_length() -> None:
    async with answering(Peer(500, b"x" * 1000)) as [url]:
        assert await post_to_all([url], "/uploads/c", {}, "s") == {url: "x" * 300}


async def test_the_newest_checkpoint_of_any_member_is_found_and_whose_it_is() -> None:
    found = [Peer(200, {"train_step": step}) for step in (3, 7, None, -1, 0)]
    odd = [Peer(404, {"train_step": 99}), Peer(200, {"step": 99}), Peer(200, {"train_step": "99"})]
    async with answering(*found, *odd) as urls:
        assert await find_newest([*urls, NOWHERE], "/find", "c", "s") == (found[1].url, 7)
        assert await find_newest(urls[2:4], "/find", None, "s") == (found[3].url, -1)  # it is there
        assert await find_newest(urls[2:5], "/find", None, "s") == (found[4].url, 0)
        assert await find_newest(urls[2:3], "/find", None, "s") == ("", None)
    assert found[2].asked == [("/find", "bearer s", {"checkpoint": name}) for name in ("c", None, None, None)]


async def test_what_a_member_has_reloaded_is_returned() -> None:
    swapped = {"version": "c", "train_step": 3, "previous": "b", "took_ms": 1.5}
    async with answering(Peer(200, swapped)) as [url]:
        assert await reload_at(f"{url}/reload", "c", "s") == swapped


@pytest.mark.parametrize(
    ("status", "body", "refusal", "text"),
    [
        (404, {"detail": "no checkpoint 'c'"}, UnknownVersion, "no checkpoint 'c'"),
        (503, {"detail": "the fleet cannot change now"}, NotReady, "the fleet cannot change now"),
        (409, {"detail": "checkpoint c is refused"}, SwapRefused, "checkpoint c is refused"),
        (401, {"detail": "this is for the servers of the fleet"}, SwapRefused, "this is for the servers of the fleet"),
        (500, {}, SwapRefused, "status 500"),
    ],
)
async def test_what_a_member_refuses_to_reload_is_refused_here_alike(
    status: int, body: object, refusal: type[Refusal], text: str
) -> None:
    async with answering(Peer(status, body)) as [url]:
        with pytest.raises(refusal, match=f"^{text}$"):
            await reload_at(f"{url}/reload", "c", "s")


@pytest.mark.parametrize("peer", [Peer(502, b"<html>"), Peer(CLOSES)])
async def test_who_does_not_answer_in_json_has_not_been_reached(peer: Peer) -> None:
    async with answering(peer) as [url]:
        assert await reload_at(f"{url}/reload", "c", "s") is None
    assert await reload_at(f"{NOWHERE}/reload", "c", "s") is None
