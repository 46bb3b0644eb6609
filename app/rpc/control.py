"""The control process as a worker calls it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from app.errors import DeadlinePassed
from app.rpc.link import Link
from app.rpc.messages import SHOWN, Swapped


class RemoteManager:
    """The manager of one policy as a worker sees it: see `Manager`.

    `swap_deadline_s`: how long a call that changes what serves is waited for.
    """

    def __init__(self, policy: str, link: Link, swap_deadline_s: float) -> None:
        self._policy = policy
        self._link = link
        self._swap_deadline_s = swap_deadline_s

    async def reload(self, name: str | None) -> Swapped:
        """See `Manager.reload`; raises DeadlinePassed where that takes long."""
        return await self._swapped("reload", name)

    async def reload_export(self) -> Swapped:
        """See `Manager.reload_export`; raises DeadlinePassed where that takes long."""
        return await self._swapped("reload_export")

    async def rollback(self) -> Swapped:
        """See `Manager.rollback`; raises DeadlinePassed where that takes long."""
        return await self._swapped("rollback")

    async def _swapped(self, call: str, *args: Any) -> Swapped:
        try:
            async with asyncio.timeout(self._swap_deadline_s):
                swapped: Swapped = await self._link.call(call, self._policy, *args)
                return swapped
        except TimeoutError:
            raise DeadlinePassed(
                f"no end after {self._swap_deadline_s:g} s; what was asked goes on, or waits for its turn: "
                f"GET /admin/policies/{self._policy}/versions shows how it ends"
            ) from None

    async def wait_for(self, train_step: int) -> None:
        """See `Manager.wait_for`."""
        await self._link.call("wait_for", self._policy, train_step)

    async def check(self, folder: Path) -> int:
        """See `Manager.check`."""
        train_step: int = await self._link.call("check", self._policy, folder)
        return train_step

    async def pause(self, mode: str) -> str | None:
        """See `Admission.pause`."""
        paused: str | None = await self._link.call("pause", self._policy, mode)
        return paused

    async def resume(self) -> None:
        """See `Admission.resume`."""
        await self._link.call("resume", self._policy)

    async def given_folder(self, kind: str, digest: str, secret: str) -> Path:
        """Returns the folder that another server of the fleet asks for; see `app.control.fleet_policy.given_folder`."""
        folder: Path = await self._link.call("given_folder", self._policy, kind, digest, secret)
        return folder

    async def members(self) -> int:
        """Returns how many servers of the fleet take part; 0 where this one belongs to none."""
        count: int = await self._link.call("members", self._policy)
        return count

    async def describe_fleet(self) -> dict[str, Any]:
        """See `Fleet.describe`."""
        described: dict[str, Any] = await self._link.call("describe_fleet", self._policy)
        return described

    async def status(self, limit: int = SHOWN, offset: int = 0) -> dict[str, Any]:
        """What a person wants to know: {"pinned", "stale", "stale_reason", "versions", "versions_total"}.

        `versions`: the latest seen first, `limit` of them behind the first `offset`; and the active one, in any case.
        """
        status: dict[str, Any] = await self._link.call("status", self._policy, limit, offset)
        return status
