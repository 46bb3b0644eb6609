"""What the control process answers to `app.rpc.control.RemoteManager`."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from app.artifacts.bundle import Bundle, Graph
from app.control.manager import Manager
from app.errors import Unsupported
from app.rpc.link import Handlers
from app.rpc.messages import Swapped, TrafficWish
from app.settings import variable

if TYPE_CHECKING:
    from app.control.fleet_files import FleetFiles

Call = Callable[..., Awaitable[Any]]


class InFleet(Protocol):
    """A policy as a member of a fleet: see `app.control.fleet_policy.FleetPolicy`."""

    async def members(self) -> int:
        """Returns how many servers take part."""

    async def reload(self, name: str | None) -> Swapped:
        """Reloads a checkpoint, or the newest, everywhere."""

    async def find_for(self, name: str | None, secret: str) -> int | None:
        """Returns the train step of a checkpoint, for another server."""

    async def reload_for(self, name: str | None, secret: str) -> Swapped:
        """Reloads a checkpoint, for another server."""

    async def pause(self, mode: str | None) -> str | None:
        """Pauses the policy everywhere, or resumes it."""

    async def describe(self) -> dict[str, Any]:
        """Returns what `GET /admin/fleet` answers."""

    @property
    def files(self) -> FleetFiles:
        """The files that servers have from each other."""


def manager_calls(managers: Mapping[str, Manager], fleet: Mapping[str, InFleet]) -> Handlers:
    """The control process's side of `RemoteManager`; `fleet`: the policies that belong to one."""

    def of_policy(call: Call) -> Call:
        async def answer(policy: str, *args: Any) -> Any:
            return await call(managers[policy], *args)

        return answer

    def swapping(call: Callable[..., Awaitable[Swapped]]) -> Call:
        async def answer(policy: str, *args: Any) -> Swapped:
            swapped = await call(policy, *args)
            members = await fleet[policy].members() if policy in fleet else 0
            return dataclasses.replace(swapped, members=members)

        return answer

    async def reload(policy: str, name: str | None) -> Swapped:
        return await (fleet[policy] if policy in fleet else managers[policy]).reload(name)

    async def reload_for(policy: str, *args: Any) -> Swapped:
        return await _in_fleet(fleet, policy).reload_for(*args)

    async def promote(policy: str) -> Swapped:
        return await managers[policy].traffic.promote()

    async def pause(policy: str, mode: str) -> str | None:
        return await (fleet[policy].pause(mode) if policy in fleet else managers[policy].admission.pause(mode))

    async def resume(policy: str) -> None:
        await (fleet[policy].pause(None) if policy in fleet else managers[policy].admission.resume())

    return {
        **_fleet_calls(fleet),
        **_traffic_calls(managers),
        "promote": swapping(promote),
        **{call.__name__: swapping(of_policy(call)) for call in (Manager.reload_export, Manager.rollback)},
        **{call.__name__: swapping(call) for call in (reload, reload_for)},
        **{call.__name__: of_policy(call) for call in (Manager.wait_for, Manager.check)},
        "status": of_policy(_status),
        "pause": pause,
        "resume": resume,
    }


def _traffic_calls(managers: Mapping[str, Manager]) -> Handlers:
    """What is tried beside the active version."""

    async def put_traffic(policy: str, wish: TrafficWish) -> dict[str, Any]:
        return await managers[policy].traffic.put(wish)

    async def traffic(policy: str) -> dict[str, Any]:
        return await managers[policy].traffic.current_report()

    return {call.__name__: call for call in (put_traffic, traffic)}


def _fleet_calls(fleet: Mapping[str, InFleet]) -> Handlers:
    """What only a server of a fleet answers."""

    async def members(policy: str) -> int:
        return await fleet[policy].members() if policy in fleet else 0

    async def describe_fleet(policy: str) -> dict[str, Any]:
        return await _in_fleet(fleet, policy).describe()

    async def find(policy: str, *args: Any) -> int | None:
        return await _in_fleet(fleet, policy).find_for(*args)

    async def given(policy: str, *args: Any) -> Any:
        return await _in_fleet(fleet, policy).files.given(*args)

    async def obtain_version(policy: str, digest: str) -> tuple[Graph, Bundle]:
        return await _in_fleet(fleet, policy).files.obtain_version(digest)

    async def share_upload(policy: str, *args: Any) -> None:
        await _in_fleet(fleet, policy).files.share_upload(*args)

    async def take_upload(policy: str, *args: Any) -> None:
        await _in_fleet(fleet, policy).files.take_upload(*args)

    calls = (members, describe_fleet, find, given, obtain_version, share_upload, take_upload)
    return {call.__name__: call for call in calls}


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
