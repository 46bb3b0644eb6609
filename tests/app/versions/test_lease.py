import asyncio

import pytest

from app.versions.lease import LoadedVersion, VersionInfo

pytestmark = pytest.mark.anyio


def loaded() -> LoadedVersion[str]:
    return LoadedVersion("engine", VersionInfo("a", "digest", 7))


async def test_a_version_without_a_lease_is_drained():
    await loaded().drained()


async def test_a_version_is_drained_when_the_last_lease_ends():
    leased = loaded()
    leased.acquire()
    leased.acquire()
    leased.release()
    drained = asyncio.create_task(leased.drained())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not drained.done()
    leased.release()
    await drained
