"""What control answers to a worker: the versions of one page, and always the one that serves."""

from types import SimpleNamespace
from typing import Any

import pytest

from app.control.handlers import manager_calls
from app.control.states import Version

pytestmark = pytest.mark.anyio
SEEN = [Version(f"v{number}", f"digest {number}", number) for number in (3, 2, 1)]


class Manager:
    """In the place of a manager: three versions, of which the first that was seen serves."""

    def __init__(self) -> None:
        self.active, self.pinned = SEEN[-1], "v1"
        self.export = SimpleNamespace(reason="other specs")
        self.admission = self
        self.asked: list[str | None] = []

    def versions(self) -> list[Version]:
        return list(SEEN)

    def stale(self) -> bool:
        return True

    async def pause(self, mode: str) -> str:
        self.asked.append(mode)
        return mode

    async def resume(self) -> None:
        self.asked.append(None)


async def asked(name: str, *args: Any, policy: str = "b") -> Any:
    managers: Any = {"a": None, "b": Manager()}
    return await manager_calls(managers, {})[name](policy, *args)


@pytest.mark.parametrize(
    ("limit", "offset", "shown"),
    [
        (100, 0, ["v3", "v2", "v1"]),
        (1, 0, ["v3", "v1"]),
        (1, 1, ["v2", "v1"]),
        (1, 2, ["v1"]),
        (5, 3, ["v1"]),
    ],
)
async def test_a_page_of_versions_has_the_active_one_too(limit: int, offset: int, shown: list[str]) -> None:
    status = await asked("status", limit, offset)
    assert [row["version"] for row in status.pop("versions")] == shown
    assert status == {"pinned": "v1", "stale": True, "stale_reason": "other specs", "versions_total": 3}


async def test_a_pause_is_what_is_in_force_afterwards() -> None:
    assert await asked("pause", "reject") == "reject"
    assert await asked("resume") is None


async def test_a_policy_that_control_does_not_have_is_an_error() -> None:
    with pytest.raises(KeyError):
        await asked("status", 1, 0, policy="c")


def test_every_call_of_the_workers_side_has_an_answer() -> None:
    from app.rpc.control import RemoteManager

    calls = {name for name in vars(RemoteManager) if not name.startswith("_")}
    assert calls <= manager_calls({}, {}).keys()
