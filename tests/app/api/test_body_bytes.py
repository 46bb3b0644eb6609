"""Bodies: whole, in pieces, decoded, and never larger than they may be."""

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.requests import Request

from app.api.body_bytes import BodyBuffer, body_parts, read_body
from app.api.encodings import PIECE_BYTES
from app.errors import BodyTooLarge, DeadlinePassed, NotDecodable, NotJson, Refusal, UnknownEncoding
from app.wire.limits import SHORT_BODY_BYTES

pytestmark = pytest.mark.anyio
LIMIT = 1000


def request(*parts: bytes, cut: bool = False, **fields: str) -> Request:
    """A request whose body comes in parts; `cut`: the client goes away after them."""
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    messages.append({"type": "http.disconnect"} if cut else {"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> dict[str, Any]:
        if not messages:
            await asyncio.Event().wait()  # the client waits for its answer
        return messages.pop(0)

    headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
    return Request({"type": "http", "headers": headers, "app": FastAPI()}, receive)


async def in_parts(request: Request, limit: int) -> bytes:
    return b"".join([part async for part in _checked(body_parts(request, limit))])


async def _checked(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for part in parts:
        assert len(part) <= LIMIT
        yield part


both = pytest.mark.parametrize("read", [read_body, in_parts])


@both
async def test_a_body_is_its_parts(read: Any) -> None:
    assert await read(request(b"ab", b"", b"cd"), LIMIT) == b"abcd"
    assert await read(request(), LIMIT) == b""


@both
@pytest.mark.parametrize(("encode", "name"), [(gzip.compress, "gzip"), (zlib.compress, "deflate")])
async def test_a_compressed_body_is_decoded(read: Any, encode: Any, name: str) -> None:
    data = encode(b"x" * LIMIT)
    assert await read(request(data[:3], data[3:], content_encoding=name), LIMIT) == b"x" * LIMIT


@both
@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (lambda: request(b"x" * (LIMIT + 1)), BodyTooLarge),
        (lambda: request(b"x" * LIMIT, b"x"), BodyTooLarge),
        (lambda: request(b"", content_length=str(LIMIT + 1)), BodyTooLarge),
        (lambda: request(gzip.compress(b"x" * (LIMIT + 1)), content_encoding="gzip"), BodyTooLarge),
        (lambda: request(gzip.compress(b"x")[:-1], content_encoding="gzip"), NotDecodable),
        (lambda: request(b"x", content_encoding="br"), UnknownEncoding),
        (lambda: request(b"x", cut=True), NotJson),
    ],
    ids=["one part", "parts", "announced", "decoded", "cut short", "unknown encoding", "gone"],
)
async def test_what_is_too_large_or_no_whole_body_is_refused(
    read: Any, sent: Callable[[], Request], error: type[Refusal]
) -> None:
    with pytest.raises(error):
        await read(sent(), LIMIT)


async def test_a_body_that_waits_for_others_to_be_decoded_is_refused_at_its_deadline() -> None:
    large = gzip.compress(b"x" * (PIECE_BYTES + 1))
    waits = request(large, content_encoding="gzip")
    waits.app.state.large_bodies = turn = asyncio.Lock()
    async with turn:
        with pytest.raises(DeadlinePassed, match="before the body was decoded"):
            await read_body(waits, 2 * PIECE_BYTES, 0.01)
    again = request(large, content_encoding="gzip")
    again.app.state.large_bodies = turn
    assert len(await read_body(again, 2 * PIECE_BYTES, 10)) == PIECE_BYTES + 1


async def test_a_small_body_waits_for_no_other_to_be_decoded() -> None:
    small = request(gzip.compress(b"x" * 500) + gzip.compress(b"x" * 500), content_encoding="gzip")
    small.app.state.large_bodies = turn = asyncio.Lock()
    async with turn:
        assert await read_body(small, LIMIT, 10) == b"x" * LIMIT


async def test_a_body_that_was_announced_and_is_not_there_is_refused() -> None:
    with pytest.raises(NotJson, match="is not there"):
        await read_body(request(content_length="5"), LIMIT)
    assert await read_body(request(content_length="0"), LIMIT) == b""


@pytest.mark.parametrize("sizes", [[], [5], [5, 5], [SHORT_BODY_BYTES + 1], [SHORT_BODY_BYTES, 1, 1]])
def test_a_buffer_gives_what_was_added_and_is_empty_afterwards(sizes: list[int]) -> None:
    buffer = BodyBuffer()
    pieces = [bytes([65 + number]) * size for number, size in enumerate(sizes)]
    for _ in range(2):
        for piece in pieces:
            buffer.add(piece)
        assert buffer.take() == b"".join(pieces)
    assert buffer.take() == b""
