"""Files for other members: two at a time, each whole, and a place is free again however a request ends."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from app.api.routes.fleet import Given

pytestmark = pytest.mark.anyio
SCOPE = {"type": "http", "asgi": {"spec_version": "2.3"}, "method": "GET", "path": "/", "headers": []}


class Asked:
    """One request; `reads`: the other side takes what it is sent."""

    def __init__(self) -> None:
        self.reads, self.gone = asyncio.Event(), asyncio.Event()
        self.sent: list[dict[str, Any]] = []
        self.begun = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(dict(message))
        self.begun.set()
        await self.reads.wait()

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


async def test_of_three_at_the_same_instant_one_is_sent_away(tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_bytes(b"{}")
    giving: set[Given] = set()
    asked = [Asked() for _ in range(5)]

    async def answer(one: Asked) -> None:
        await Given(tmp_path, {"bundle.json": 2}, giving)(SCOPE, one.receive, one.send)

    tasks = [asyncio.create_task(answer(one)) for one in asked[:3]]
    for one in asked[:3]:
        await one.begun.wait()
    assert [one.status for one in asked[:3]] == [200, 200, 503]
    asked[0].gone.set()  # it goes in the midst
    asked[0].reads.set()
    await tasks[0]
    tasks += [asyncio.create_task(answer(one)) for one in asked[3:]]
    for one in asked[3:]:
        await one.begun.wait()
    assert [one.status for one in asked[3:]] == [200, 503]
    for one in asked:
        one.reads.set()
    await asyncio.gather(*tasks)
    assert asked[1].body == b'{"bundle.json": 2}\n{}'
    assert (b"content-length", b"21") in [tuple(field) for field in asked[1].sent[0]["headers"]]
    assert not giving
