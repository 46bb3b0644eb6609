"""Tasks that run beside the requests, and end with what started them."""

from __future__ import annotations

import asyncio
from typing import Any


async def end(task: asyncio.Task[Any]) -> None:
    """Cancels a task, and returns when it has ended; asyncio logs an exception of it."""
    task.cancel()
    await asyncio.wait({task})
