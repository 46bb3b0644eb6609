"""Where a server keeps its sessions, by its settings."""

from __future__ import annotations

import asyncio

from app.sessions.memory import MemoryStore
from app.sessions.store import Limits, SessionStore
from app.settings import Settings


def store_for(settings: Settings) -> SessionStore | None:
    """Makes the store of sessions; None where the workers have no place in common."""
    limits = Limits(
        settings.sessions_limit,
        settings.sessions_bytes_limit,
        settings.sessions_idle_s,
        settings.retained_versions,
        settings.sessions_per_client,
    )
    if settings.session_url:
        from app.sessions.redis_store import RedisStore

        return RedisStore(settings.session_url, limits)
    return MemoryStore(limits, asyncio.get_running_loop().time) if settings.workers == 1 else None
