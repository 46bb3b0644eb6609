"""What the control process answers to `app.rpc.control.RemoteManager`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from app.control.manager import Manager
from app.rpc.link import Handlers


def manager_calls(managers: Mapping[str, Manager]) -> Handlers:
    """The control process's side of `RemoteManager`."""

    async def status(manager: Manager, limit: int, offset: int) -> dict[str, Any]:
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

    async def pause(manager: Manager, mode: str) -> str | None:
        return await manager.admission.pause(mode)

    async def resume(manager: Manager) -> None:
        await manager.admission.resume()

    asked: list[Callable[..., Awaitable[Any]]] = [
        Manager.reload,
        Manager.reload_export,
        Manager.rollback,
        Manager.wait_for,
        Manager.check,
        pause,
        resume,
        status,
    ]

    def of_policy(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def answer(policy: str, *args: Any) -> Any:
            return await call(managers[policy], *args)

        return answer

    return {call.__name__: of_policy(call) for call in asked}
