"""A change in a folder of checkpoints → a look at it. One task per policy, on the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from watchfiles import awatch

from app.swap.manager import Manager

log = logging.getLogger("policy_server.swap")

# How long changes are gathered: a checkpoint that is renamed into place is one change.
_GATHER_MS = 50
# File systems without notifications (NFS, some volumes) are looked at this often.
_LOOK_ANYWAY_MS = 2_000


async def watch(manager: Manager, folders: Sequence[Path]) -> None:
    """Keeps `manager` at the newest checkpoint until cancelled."""
    while True:
        try:
            async for _ in awatch(
                *folders,
                step=_GATHER_MS // 2,
                debounce=_GATHER_MS,
                rust_timeout=_LOOK_ANYWAY_MS,
                yield_on_timeout=True,
            ):
                await _look_until_settled(manager)
        except Exception:
            log.exception("%s: watching failed, it begins again", manager.name)
            await asyncio.sleep(_LOOK_ANYWAY_MS / 1000)


async def _look_until_settled(manager: Manager) -> None:
    again_in_s = await manager.catch_up()
    while again_in_s is not None:
        await asyncio.sleep(again_in_s)
        again_in_s = await manager.catch_up()
