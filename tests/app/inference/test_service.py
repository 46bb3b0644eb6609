import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from app.batching.rule import Pause
from app.errors import DeadlinePassed
from app.inference.service import Service


class BusyWorkers:
    """One of them runs a batch that never ends."""

    async def pause(self, mode: str) -> None:
        await asyncio.Event().wait()


def test_pause_does_not_wait_for_ever():
    policy: Any = SimpleNamespace(name="p", manager=BusyWorkers())
    service = Service(["p"], deadline_ms=10, rows_limit=1)
    service.add(policy)
    with pytest.raises(DeadlinePassed, match="policy p still runs a batch after 10 ms"):
        asyncio.run(service.pause(policy, Pause.WAIT))
