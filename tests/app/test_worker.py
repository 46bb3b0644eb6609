"""How a worker is put together from its settings."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from app.api.connection_limits import HttpLimits
from app.sessions.memory import MemoryStore
from app.sessions.stores import store_for
from app.settings import PolicyFolder, Settings
from app.worker import _grace_s
from tests.support.worker_in_process import running

pytestmark = pytest.mark.anyio


def settings(**values: Any) -> Settings:
    return Settings((PolicyFolder("p", Path("/p")),), **values)


@pytest.mark.parametrize(("deadline_ms", "grace_s"), [(1, 2), (1000, 2), (1001, 3), (10_000, 11)])
def test_accepted_requests_have_their_deadline_and_a_second_to_be_answered(deadline_ms: int, grace_s: int) -> None:
    assert _grace_s(settings(deadline_ms=deadline_ms)) == grace_s


def test_the_largest_body_that_is_allowed_fits_among_the_unfinished_ones() -> None:
    assert HttpLimits.of(settings(buffered_limit_bytes=2**20, body_limit_bytes=2**20)).buffered_bytes > 2**20
    assert HttpLimits.of(settings(buffered_limit_bytes=2**25, body_limit_bytes=2**20)).buffered_bytes == 2**25
    assert HttpLimits.of(settings(keep_alive_s=3, client_timeout_s=4)).keep_alive_s == 3


async def test_sessions_are_in_memory_where_one_worker_has_them_all() -> None:
    assert isinstance(store_for(settings()), MemoryStore)
    assert store_for(settings(workers=2)) is None


async def test_policies_that_cannot_be_opened_are_listed_with_their_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as there:
        await there.worker.fail({"echo": "it is open", "other": "no such folder"})
        (brief,) = there.worker._service.describe_all()
        assert brief["ready"]


async def test_a_worker_that_is_stopped_outlives_its_link(monkeypatch: pytest.MonkeyPatch) -> None:
    exits: list[int] = []
    monkeypatch.setattr("os._exit", exits.append)
    async with running(monkeypatch) as there:
        lost = asyncio.Event()
        there.control.lost = lost.wait  # type: ignore[attr-defined]
        over = asyncio.create_task(there.worker.over())
        await asyncio.sleep(0)
        await there.worker.stop()
        lost.set()
        await over
    assert exits == []


async def test_a_worker_whose_server_was_killed_exits_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    exits: list[int] = []
    monkeypatch.setattr("os._exit", exits.append)
    async with running(monkeypatch) as there:
        lost = asyncio.Event()
        there.control.lost = lost.wait  # type: ignore[attr-defined]
        lost.set()
        await there.worker.over()
    assert exits == [1]
