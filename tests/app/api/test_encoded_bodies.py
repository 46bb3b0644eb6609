"""Bodies that stand for larger ones: they are decoded one after the other, and only for clients that are there."""

import asyncio
import gc
import gzip
import socket
import struct
from typing import Any

import pytest

from app.api import encodings
from app.api.body_bytes import BodyBuffer
from tests.app.api.test_connections import Client, Clients, anyio_backend, clients, post, until

__all__ = ["anyio_backend"]
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]
LIMIT = 2**26
BOMB = post("/action", gzip.compress(b" " * (LIMIT + 1), 9), "Content-Encoding: gzip")


def turn_of(there: Clients) -> asyncio.Lock:
    """The one that large bodies are decoded in, acquired."""
    app: Any = there.worker.worker._http.config.app
    app.state.large_bodies = asyncio.Lock()
    return app.state.large_bodies


def reset(client: Client) -> None:
    """Closes the connection so that the server hears of it: an end of data alone may be a half-closed client."""
    client._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.abort()


def waiting(turn: asyncio.Lock) -> int:
    return len(turn._waiters or ())


async def test_bodies_of_clients_that_have_gone_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = 0
    decompressed = encodings.Decoder._decompressed

    def counted(self: encodings.Decoder, part: bytes) -> bytes:
        nonlocal pieces
        pieces += 1
        return decompressed(self, part)

    monkeypatch.setattr(encodings.Decoder, "_decompressed", counted)

    async with clients(body_limit_bytes=LIMIT) as there:
        turn = turn_of(there)
        await turn.acquire()
        there_before = asyncio.all_tasks()
        senders = [await there.open() for _ in range(30)]
        for client in senders:
            await client.send(BOMB)
        await until(lambda: waiting(turn) == len(senders))
        for client in senders:
            reset(client)
        await until(lambda: not there.worker.connections)
        turn.release()
        await until(lambda: not asyncio.all_tasks() - there_before)
        assert pieces <= 3 * len(senders)


async def test_bodies_that_wait_to_be_decoded_hold_little() -> None:
    async with clients(body_limit_bytes=LIMIT) as there:
        turn = turn_of(there)
        await turn.acquire()
        senders = [await there.open() for _ in range(100)]
        for client in senders:
            await client.send(BOMB)
        await until(lambda: waiting(turn) == len(senders))
        buffers = [thing for thing in gc.get_objects() if type(thing) is BodyBuffer]
        assert sum(buffer._size for buffer in buffers) <= len(senders) * 2 * encodings.PIECE_BYTES
        await there.works()
        for client in senders[1:]:
            client.abort()
        turn.release()
        assert (await senders[0].answer()).status == 413
