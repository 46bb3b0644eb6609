"""A request is given up with its client, and with nothing else."""

import asyncio
from typing import Any

import pytest

from app.api import disconnect
from app.api.disconnect import giving_up_with_client

pytestmark = pytest.mark.anyio


class Receiving:
    """A request whose messages the test sends."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def receive(self) -> dict[str, Any]:
        return await self.messages.get()


async def test_it_is_given_up_when_the_client_disconnects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disconnect, "_WATCH_AFTER_S", 0)
    request: Any = Receiving()
    gone = asyncio.Event()
    with giving_up_with_client(request, gone.set):
        request.messages.put_nowait({"type": "http.request", "body": b"", "more_body": False})
        while not request.messages.empty():
            await asyncio.sleep(0)
        assert not gone.is_set()
        request.messages.put_nowait({"type": "http.disconnect"})
        await gone.wait()


@pytest.mark.parametrize("watches", [False, True])
async def test_it_is_not_given_up_once_it_is_answered(watches: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disconnect, "_WATCH_AFTER_S", 0)
    before = asyncio.all_tasks()
    request: Any = Receiving()
    gone = asyncio.Event()
    with giving_up_with_client(request, gone.set):
        for _ in range(3 if watches else 0):
            await asyncio.sleep(0.001)
    request.messages.put_nowait({"type": "http.disconnect"})
    for task in asyncio.all_tasks() - before:
        await asyncio.wait({task})
    assert not gone.is_set()
