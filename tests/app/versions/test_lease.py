import asyncio

import pytest

from app.control.states import Version
from app.versions.lease import LoadedVersion


def loaded() -> LoadedVersion[str]:
    return LoadedVersion("engine", Version("a", "digest", 7))


def test_slot_nobody_leases_is_drained():
    asyncio.run(loaded().drained())


def test_slot_is_drained_when_the_last_lease_ends():
    async def test() -> None:
        leased = loaded()
        with leased.lease() as first:
            assert first is leased
            with leased.lease():
                drained = asyncio.create_task(leased.drained())
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not drained.done()
        await drained

    asyncio.run(test())


def test_lease_ends_with_an_exception_too():
    async def test() -> None:
        leased = loaded()
        with pytest.raises(ZeroDivisionError), leased.lease():
            raise ZeroDivisionError
        await leased.drained()

    asyncio.run(test())
