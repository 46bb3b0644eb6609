"""Versions that sessions keep, and that only other servers of the fleet have: the session came from one of them."""

from __future__ import annotations

import asyncio
import logging

from app.errors import SwapRefused
from app.inference.policy import Policy
from app.inference.service import Service
from app.logs import about
from app.sessions.record import Record

log = logging.getLogger("policy_server.sessions")


class VersionsElsewhere:
    """Loads each version once, however many sessions wait for it. Event loop only."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._loading: dict[tuple[str, str], asyncio.Task[None]] = {}

    async def load_retained(self, policy: Policy, record: Record) -> None:
        """Returns when the version that a session keeps is here, or cannot be had: then its step is refused."""
        digest = record.run.retained
        if self._service.fleet is None or digest is None or policy.versions.find(digest) is not None:
            return
        key = policy.name, digest
        task = self._loading.get(key)
        if task is None:
            task = self._loading[key] = asyncio.create_task(self._load(policy, record.version, digest))
            task.add_done_callback(lambda _: self._loading.pop(key, None))
        await asyncio.shield(task)

    async def _load(self, policy: Policy, name: str, digest: str) -> None:
        try:
            await policy.versions.retain(name, *await policy.manager.obtain_version(digest))
        except SwapRefused as refusal:
            log.warning(
                "%s: version %s, which a session keeps, cannot be had: %s",
                policy.name,
                name,
                refusal,
                extra=about(policy.name, name),
            )
