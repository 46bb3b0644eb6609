"""What is done with sessions now and then, whatever the state of their store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from app.errors import NotReady

log = logging.getLogger("policy_server.sessions")
# How often idle sessions, and versions that nobody keeps any more, are searched for.
TIDY_S = 0.5


async def call_now_and_then(tidy: Callable[[], Awaitable[int]], record: Callable[[int], None]) -> None:
    """Calls `tidy` every `TIDY_S` seconds, and `record` with what it returns; a store that is away is logged once."""
    reached = True
    while True:
        await asyncio.sleep(TIDY_S)
        try:
            record(await tidy())
        except NotReady as error:
            if reached:
                log.warning("%s", error)
            reached = False
        except Exception:  # a bug of ours: the next round may succeed
            log.exception("sessions cannot be tidied")
        else:
            reached = True
