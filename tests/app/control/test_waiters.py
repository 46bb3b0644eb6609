"""Callers that wait for a train step, over scans that a test drives by hand."""

import asyncio

import pytest

from app.control.waiters import Waiters
from app.errors import TooOld

pytestmark = pytest.mark.anyio


class Scans:
    """Scans that start and end when the test says so."""

    def __init__(self) -> None:
        self.train_step = 0
        self.pinned = False
        self.starts: list = []
        self.ended = asyncio.Event()
        self.waiters = Waiters(self.reached, self.start)

    def reached(self, train_step: int) -> bool:
        if self.train_step < train_step and self.pinned:
            raise TooOld("pinned")
        return self.train_step >= train_step

    def start(self, started) -> asyncio.Task:
        self.starts.append(started)
        return asyncio.create_task(self.ended.wait())

    async def waiting(self, train_step: int) -> asyncio.Task:
        task = asyncio.create_task(self.waiters.wait_for(train_step))
        await asyncio.sleep(0)
        return task


async def test_what_serves_already_needs_no_scan():
    scans = Scans()
    await scans.waiters.wait_for(0)
    assert scans.starts == []


async def test_those_that_come_before_a_scan_starts_share_it_and_the_next_one_gets_another():
    scans = Scans()
    waiting = [await scans.waiting(1), await scans.waiting(2)]
    assert len(scans.starts) == 1
    scans.starts[0]()
    waiting.append(await scans.waiting(1))
    assert len(scans.starts) == 2
    scans.train_step = 2
    scans.ended.set()
    await asyncio.gather(*waiting)


async def test_each_is_woken_when_its_own_train_step_serves():
    scans = Scans()
    scans.ended.set()
    first, second = await scans.waiting(1), await scans.waiting(2)
    for _ in range(5):
        await asyncio.sleep(0)
    scans.train_step = 1
    await scans.waiters.notify()
    await first
    assert not second.done()
    scans.train_step = 2
    await scans.waiters.notify()
    await second


async def test_one_that_gives_up_does_not_end_the_scan_of_the_others():
    scans = Scans()
    first, second = await scans.waiting(1), await scans.waiting(1)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    scans.train_step = 1
    scans.ended.set()
    await second


async def test_a_pin_to_older_weights_is_reported_before_a_scan_and_after_it():
    scans = Scans()
    waiting = await scans.waiting(1)
    scans.pinned = True
    with pytest.raises(TooOld):
        await scans.waiters.wait_for(1)
    scans.ended.set()
    with pytest.raises(TooOld):
        await waiting
