"""What takes long runs in a thread, no more than fits at once, and nothing of it stays."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable

import pytest

from app.errors import DoesNotFit, Overloaded, Problem
from app.offload import Offload


class Body(bytearray):
    """Bytes of which one can know whether they are still there."""


def test_a_call_runs_in_another_thread() -> None:
    async def test() -> None:
        offload = Offload()
        assert await offload.run(1, threading.get_ident) != threading.get_ident()
        offload.close()

    asyncio.run(test())


def test_beyond_the_bound_it_is_refused_and_later_taken_again() -> None:
    async def test() -> None:
        offload, go = Offload(most_bytes=10), threading.Event()
        first = asyncio.create_task(offload.run(8, go.wait))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await offload.run(8, int)
        assert await asyncio.wait_for(asyncio.gather(first, _soon(go)), 30)
        while offload._held_bytes:
            await asyncio.sleep(0)
        assert await offload.run(8, int) == 0
        assert await offload.run(80, int) == 0  # one alone is always taken
        offload.close()

    asyncio.run(test())


async def _refusal(offload: Offload, call: Callable[[Body], None], body: Body) -> str:
    try:
        await offload.run(len(body), call, body)
    except DoesNotFit as error:
        return error.problems[0].problem
    return ""


async def _soon(event: threading.Event) -> None:
    event.set()


def test_what_was_refused_is_gone_at_once() -> None:
    def refuse(body: Body) -> None:
        raise DoesNotFit([Problem("observation", str(len(body)), "something else")])

    async def test() -> weakref.ref[Body]:
        offload, body = Offload(), Body(100)
        assert await _refusal(offload, refuse, body) == "100"
        await offload.run(0, int)  # the thread has forgotten its last call
        gone = weakref.ref(body)
        offload.close()
        return gone

    gc.disable()
    try:
        gone = asyncio.run(test())
        assert gone() is None
    finally:
        gc.enable()


def test_a_waiter_that_gives_up_leaves_no_room_taken() -> None:
    async def test() -> None:
        offload, go = Offload(most_bytes=10), threading.Event()
        running = asyncio.create_task(offload.run(5, go.wait))
        waiting = asyncio.create_task(offload.run(5, int))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        go.set()
        await running
        while offload._held_bytes:
            await asyncio.sleep(0)
        offload.close()

    asyncio.run(test())
