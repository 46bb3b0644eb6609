"""The control process as a worker calls it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from app.artifacts.bundle import Bundle, Graph
from app.errors import DeadlinePassed
from app.rpc.link import Link
from app.rpc.messages import SHOWN, Swapped, TrafficWish


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

    async def promote(self) -> Swapped:
        """See `Traffic.promote`; raises DeadlinePassed where that takes long."""
        return await self._swapped("promote")

    async def put_traffic(self, wish: TrafficWish) -> dict[str, Any]:
        """See `Traffic.put`; raises DeadlinePassed where that takes long."""
        report: dict[str, Any] = await self._in_time("put_traffic", wish)
        return report

    async def traffic(self) -> dict[str, Any]:
        """See `Traffic.current_report`."""
        report: dict[str, Any] = await self._link.call("traffic", self._policy)
        return report

    async def _swapped(self, call: str, *args: Any) -> Swapped:
        swapped: Swapped = await self._in_time(call, *args)
        return swapped

    async def _in_time(self, call: str, *args: Any) -> Any:
        try:
            async with asyncio.timeout(self._swap_deadline_s):
                return await self._link.call(call, self._policy, *args)
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

    async def find(self, name: str | None, secret: str) -> int | None:
        """See `app.control.fleet_policy.FleetPolicy`."""
        train_step: int | None = await self._link.call("find", self._policy, name, secret)
        return train_step

    async def reload_for(self, name: str | None, secret: str) -> Swapped:
        """See `app.control.fleet_policy.FleetPolicy`; raises DeadlinePassed where that takes long."""
        return await self._swapped("reload_for", name, secret)

    async def given(self, kind: str, name: str, secret: str) -> Path:
        """See `app.control.fleet_files.FleetFiles`."""
        folder: Path = await self._link.call("given", self._policy, kind, name, secret)
        return folder

    async def obtain_version(self, digest: str) -> tuple[Graph, Bundle]:
        """See `app.control.fleet_files.FleetFiles`."""
        found: tuple[Graph, Bundle] = await self._link.call("obtain_version", self._policy, digest)
        return found

    async def share_upload(self, name: str, digest: str) -> None:
        """See `app.control.fleet_files.FleetFiles`."""
        await self._link.call("share_upload", self._policy, name, digest)

    async def take_upload(self, name: str, digest: str, secret: str) -> None:
        """See `app.control.fleet_files.FleetFiles`."""
        await self._link.call("take_upload", self._policy, name, digest, secret)

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
