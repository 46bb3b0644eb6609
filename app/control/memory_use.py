"""The memory of the server's processes, and how much there is by the container's limits."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from app.memory import resident_bytes
from app.metrics import FLUSH_S, Metrics
from app.rpc.child import Keeper

# The limit of the container that this process runs in: of control groups in version 2, and in version 1.
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


async def record_memory(metrics: Metrics, keepers: Mapping[str, Sequence[Keeper]]) -> None:
    """Records every second how much memory the processes of each kind take; runs until it is cancelled."""
    while True:
        metrics.memory("control", resident_bytes())
        for kind, kept in keepers.items():
            metrics.memory(kind, sum(resident_bytes(keeper.pid) for keeper in kept if keeper.pid))
        await asyncio.sleep(FLUSH_S)


def memory_limit(files: Iterable[str] = _LIMITS) -> int:
    """Returns how many bytes of memory all processes of the container may take: at most what the machine has."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min((machine, *(limit for limit in map(_number_in, files) if limit is not None)))


def _number_in(file: str) -> int | None:
    try:
        return int(Path(file).read_text())
    except (OSError, ValueError):  # "max": there is none
        return None
