"""What the control process answers to `app.rpc.control.RemoteManager`."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from app.control.manager import Manager
from app.errors import Unsupported
from app.rpc.link import Handlers
from app.rpc.messages import Swapped
from app.settings import variable

Call = Callable[..., Awaitable[Any]]


class InFleet(Protocol):
    """A policy as a member of a fleet: see `app.control.fleet_policy.FleetPolicy`."""

    async def members(self) -> int:
        """Returns how many servers take part."""

    async def pause(self, mode: str | None) -> str | None:
        """Pauses the policy everywhere, or resumes it."""

    async def describe(self) -> dict[str, Any]:
        """Returns what `GET /admin/fleet` answers."""

    def given_folder(self, kind: str, digest: str, secret: str) -> Path:
        """Returns the folder that another server asks for."""


def manager_calls(managers: Mapping[str, Manager], fleet: Mapping[str, InFleet]) -> Handlers:
    """The control process's side of `RemoteManager`; `fleet`: the policies that belong to one."""

    async def members(policy: str) -> int:
        return await fleet[policy].members() if policy in fleet else 0

    async def pause(policy: str, mode: str) -> str | None:
        return await (fleet[policy].pause(mode) if policy in fleet else managers[policy].admission.pause(mode))

    async def resume(policy: str) -> None:
        await (fleet[policy].pause(None) if policy in fleet else managers[policy].admission.resume())

    async def describe_fleet(policy: str) -> dict[str, Any]:
        return await _in_fleet(fleet, policy).describe()

    async def given_folder(policy: str, kind: str, digest: str, secret: str) -> Path:
        return _in_fleet(fleet, policy).given_folder(kind, digest, secret)

    def swapping(call: Callable[..., Awaitable[Swapped]]) -> Call:
        async def answer(policy: str, *args: Any) -> Swapped:
            swapped = await call(managers[policy], *args)
            return dataclasses.replace(swapped, members=await members(policy)) if policy in fleet else swapped

        return answer

    def of_policy(call: Call) -> Call:
        async def answer(policy: str, *args: Any) -> Any:
            return await call(managers[policy], *args)

        return answer

    swaps = {call.__name__: swapping(call) for call in (Manager.reload, Manager.reload_export, Manager.rollback)}
    others = {call.__name__: of_policy(call) for call in (Manager.wait_for, Manager.check)}
    by_name = {call.__name__: call for call in (members, pause, resume, describe_fleet, given_folder)}
    return {**swaps, **others, **by_name, "status": of_policy(_status)}


def _in_fleet(fleet: Mapping[str, InFleet], policy: str) -> InFleet:
    if policy not in fleet:
        raise Unsupported(f"this server belongs to no fleet: {variable('fleet_url')} is not set")
    return fleet[policy]


async def _status(manager: Manager, limit: int, offset: int) -> dict[str, Any]:
    versions = manager.versions()
    shown = versions[offset : offset + limit]
    if manager.active not in shown:
        shown.append(manager.active)
    return {
        "pinned": manager.pinned,
        "stale": manager.stale(),
        "stale_reason": manager.export.reason,
        "versions": [version.public() for version in shown],
        "versions_total": len(versions),
    }
